//! The command line against a real node: what its users type, and what they get.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use keelson_tests::node::{Node, Options, objects::READY};
use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::termios::{LocalFlags, tcgetattr},
};

const SHELL: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: shell, labels: {app: shell}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "echo hello from main; echo to stderr >&2; exec sleep 1000"]
    resources: {limits: {cpu: 200m, memory: 32Mi}}
  - name: side
    image: busybox:1
    command: [sh, -c, "echo hello from side; exec sleep 1000"]
    resources: {limits: {cpu: 200m, memory: 32Mi}}
"#;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: "busybox:1", command: [sleep, "1000"], resources: {limits: {cpu: 200m, memory: 32Mi}}}
"#;

fn node() -> Result<Node> {
    Node::start(Options {
        images: vec!["busybox"],
        ..Options::default()
    })
}

/// Run the command line with this standard input, however it ends.
fn run(node: &Node, arguments: &[&str], input: &str) -> Result<Output> {
    let binary = node.binary("keelson")?.display().to_string();
    let mut child = node
        .namespace()
        .command(&binary)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the command line")?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let input = input.to_owned();
    // On a thread of its own: a command may write before it has read all.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // A command that does not read its input to the end is in its right.
    let _ = writer.join();
    Ok(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a command that must succeed.
fn good(node: &Node, arguments: &[&str], input: &str) -> Result<String> {
    let output = run(node, arguments, input)?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// Standard error of a command that must fail.
fn bad(node: &Node, arguments: &[&str], input: &str) -> Result<String> {
    let output = run(node, arguments, input)?;
    ensure!(
        output.status.code() == Some(1),
        "{arguments:?}: {}: {}",
        output.status,
        text(&output.stdout)
    );
    Ok(text(&output.stderr))
}

#[test]
fn objects_are_applied_shown_and_deleted_as_kubectls_users_expect() -> Result<()> {
    let node = node()?;
    ensure!(good(&node, &["apply", "-f", "-"], SHELL)? == "pod/shell created\n");
    ensure!(good(&node, &["apply", "-f", "-"], SHELL)? == "pod/shell unchanged\n");
    let changed = SHELL.replace("app: shell", "app: other");
    ensure!(
        good(&node, &["apply", "-f", "-", "--dry-run"], &changed)?
            == "pod/shell configured (server dry run)\n"
    );
    let waited = good(
        &node,
        &["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"],
        "",
    )?;
    ensure!(waited == "pod/shell condition met\n", "{waited}");
    let table = good(&node, &["get", "po", "-o", "wide"], "")?;
    let mut lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let headers = lines.next().context("a line of headers")?;
    ensure!(
        headers[..5] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
        "{table}"
    );
    let row = lines.next().context("a row")?;
    ensure!(
        row[..4] == ["shell", "2/2", "Running", "0"] && row[5].starts_with("10.244.0."),
        "{table}"
    );
    let page = good(&node, &["describe", "pod", "shell"], "")?;
    for expected in ["busybox:1", "Started", "Running"] {
        ensure!(page.contains(expected), "{expected} is not in {page}");
    }
    // What is printed as YAML can be applied again, and changes nothing.
    let yaml = good(&node, &["get", "pod", "shell", "-o", "yaml"], "")?;
    ensure!(good(&node, &["apply", "-f", "-"], &yaml)? == "pod/shell unchanged\n");
    let error = bad(&node, &["get", "pods", "nothing"], "")?;
    ensure!(
        error == "Error from server (NotFound): pods \"nothing\" not found\n",
        "{error}"
    );
    ensure!(good(&node, &["delete", "-f", "-"], SHELL)? == "pod \"shell\" deleted\n");
    // It has waited for the end.
    let error = run(&node, &["get", "pods"], "")?;
    ensure!(text(&error.stderr) == "No resources found in default namespace.\n");
    node.down()
}

#[test]
fn a_deployment_is_rolled_out_and_replaces_its_pods() -> Result<()> {
    let node = node()?;
    good(&node, &["apply", "-f", "-"], WEB)?;
    let said = good(
        &node,
        &["rollout", "status", "deployment/web", "--timeout=60s"],
        "",
    )?;
    ensure!(
        said.ends_with("deployment \"web\" successfully rolled out\n"),
        "{said}"
    );
    let first = good(&node, &["get", "pods", "-l", "app=web", "-o", "name"], "")?;
    let first = first.trim();
    ensure!(first.starts_with("pod/web-"), "{first}");
    good(&node, &["delete", first], "")?;
    good(
        &node,
        &["wait", "--for=condition=Available", "deployment/web"],
        "",
    )?;
    let second = good(&node, &["get", "pods", "-l", "app=web", "-o", "name"], "")?;
    ensure!(
        !second.contains(first) && second.starts_with("pod/web-"),
        "{first}, then {second}"
    );
    good(&node, &["exec", "deployment/web", "--", "true"], "")?;
    good(
        &node,
        &["delete", "deployment", "web", "--cascade=foreground"],
        "",
    )?;
    ensure!(
        good(&node, &["get", "pods", "-o", "name"], "")?.is_empty(),
        "it waited for its pods"
    );
    node.down()
}

#[test]
fn logs_and_commands_reach_the_container_that_is_meant() -> Result<()> {
    let node = node()?;
    good(&node, &["apply", "-f", "-"], SHELL)?;
    good(
        &node,
        &["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"],
        "",
    )?;
    node.wait("both lines of the log", READY, |node| {
        let log = good(node, &["logs", "shell", "-c", "main"], "")?;
        Ok((log.contains("hello from main\n") && log.contains("to stderr\n")).then_some(()))
    })?;
    ensure!(good(&node, &["logs", "shell", "side", "--tail=1"], "")? == "hello from side\n");
    // A pipe is read to its end, though nothing but its end says so.
    let much = "0123456789abcde\n".repeat(64 << 10);
    let count = good(
        &node,
        &["exec", "-i", "shell", "-c", "side", "--", "wc", "-c"],
        &much,
    )?;
    ensure!(count.trim() == much.len().to_string(), "{count}");
    let echoed = good(&node, &["exec", "-i", "shell", "-c", "side", "--", "cat"], &much)?;
    ensure!(echoed == much, "{} bytes came back", echoed.len());
    let output = run(
        &node,
        &[
            "exec",
            "shell",
            "-c",
            "main",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 42",
        ],
        "",
    )?;
    ensure!(output.status.code() == Some(42), "{}", output.status);
    ensure!(
        text(&output.stdout) == "out\n" && text(&output.stderr).starts_with("err\n"),
        "{output:?}"
    );
    let error = bad(
        &node,
        &["exec", "shell", "-c", "main", "--", "no-such-program"],
        "",
    )?;
    ensure!(error.contains("no-such-program"), "{error}");
    node.down()
}

/// A terminal with a command at its other end.
struct Terminal {
    master: File,
    slave: OwnedFd,
    output: mpsc::Receiver<u8>,
    seen: String,
}

impl Terminal {
    /// Start a command that has the terminal as its own.
    fn start(mut command: Command, size: Winsize) -> Result<(Self, std::process::Child)> {
        let OpenptyResult { master, slave } = openpty(&size, None)?;
        let child = command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave.try_clone()?)
            .spawn()?;
        let master = File::from(master);
        let mut reader = master.try_clone()?;
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut byte = [0];
            while reader.read_exact(&mut byte).is_ok() && sender.send(byte[0]).is_ok() {}
        });
        let terminal = Self {
            master,
            slave,
            output,
            seen: String::new(),
        };
        Ok((terminal, child))
    }

    /// Read until this was printed.
    fn until(&mut self, expected: &str) -> Result<()> {
        while !self.seen.contains(expected) {
            match self.output.recv_timeout(Duration::from_secs(30)) {
                Ok(byte) => self.seen.push(char::from(byte)),
                Err(error) => bail!("no {expected:?}: {error}; the terminal shows {:?}", self.seen),
            }
        }
        self.seen.clear();
        Ok(())
    }

    fn is_raw(&self) -> Result<bool> {
        let flags = tcgetattr(self.slave.as_fd())?.local_flags;
        Ok(!flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO))
    }
}

#[test]
fn a_shell_has_the_callers_terminal_and_gives_it_back() -> Result<()> {
    let node = node()?;
    good(&node, &["apply", "-f", "-"], SHELL)?;
    good(
        &node,
        &["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"],
        "",
    )?;
    let inner = node
        .namespace()
        .command(&node.binary("keelson")?.display().to_string());
    // The terminal must be the controlling one, or no change of its size is told.
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "--wait"])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.args(["exec", "-it", "shell", "-c", "main", "--", "sh"]);
    let size = Winsize {
        ws_row: 33,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (mut terminal, mut child) = Terminal::start(command, size)?;
    terminal.until("# ")?;
    ensure!(terminal.is_raw()?, "keys go to the command");
    terminal.master.write_all(b"stty size\r")?;
    terminal.until("33 77")?;
    let larger = libc::winsize {
        ws_row: 44,
        ws_col: 88,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize from the address given, which is that of a live local.
    let outcome = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&terminal.master),
            libc::TIOCSWINSZ,
            &larger,
        )
    };
    ensure!(outcome == 0, "the size can be set");
    // The command may ask before the news has reached it.
    terminal
        .master
        .write_all(b"until stty size | grep '44 88'; do sleep 0.1; done\r")?;
    terminal.until("\n44 88")?;
    terminal.master.write_all(b"exit 5\r")?;
    let status = child.wait()?;
    ensure!(status.code() == Some(5), "{status}");
    ensure!(!terminal.is_raw()?, "the terminal is as it was");
    node.down()
}

#[test]
fn check_works_without_and_with_an_agent() -> Result<()> {
    let node = Node::start(Options {
        agent: false,
        images: Vec::new(),
        ..Options::default()
    })?;
    let config = node.folder().join("keelson.yaml").display().to_string();
    let output = run(&node, &["check", "--config", &config], "")?;
    let page = text(&output.stdout);
    for expected in [
        "kernel ",
        "capabilities",
        "cgroups",
        "containerd.sock",
        "No agent answers",
    ] {
        ensure!(page.contains(expected), "{expected:?} is not in\n{page}");
    }
    let error = bad(&node, &["get", "pods"], "")?;
    ensure!(
        error.contains("/run/keelson/keelson.sock") && error.contains("is the agent running"),
        "{error}"
    );
    let mut node = node;
    node.start_agent()?;
    let page = node.wait("the agent's subsystems", READY, |node| {
        let output = run(node, &["check", "--config", &config], "")?;
        let page = text(&output.stdout);
        Ok((output.status.success() && page.contains("agent: runtime")).then_some(page))
    })?;
    ensure!(page.contains("says:\n"), "{page}");
    node.down()
}
