//! Network namespaces, each held by a process of its own.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A namespace (network, and mounts where asked for) that lives as long as this value.
#[derive(Debug)]
pub struct Namespace {
    anchor: Child,
    mounts: bool,
    name: String,
}

impl Namespace {
    /// A new network namespace with lo up. `script` runs inside first; with `mounts` it has a mount namespace of its own.
    pub fn new(name: &str, mounts: bool, script: &str) -> Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.arg("--net");
        if mounts {
            unshare.args(["--mount", "--propagation", "private"]);
        }
        // The line tells that all is made; reading it is waiting for it.
        let script = format!("set -e; ip link set lo up; {script} echo ready; exec sleep infinity");
        let mut anchor = unshare
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // A key pressed at the terminal is for the test, which cleans up, not for what it cleans up.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the anchor of namespace {name}"))?;
        let mut line = String::new();
        let output = anchor.stdout.take().context("the anchor's output is piped")?;
        io::BufRead::read_line(&mut io::BufReader::new(output), &mut line)?;
        let namespace = Self {
            anchor,
            mounts,
            name: name.to_owned(),
        };
        if line.trim() != "ready" {
            bail!("namespace {name} could not be made (its script is: {script})");
        }
        Ok(namespace)
    }

    /// Process id of the anchor.
    pub fn pid(&self) -> u32 {
        self.anchor.id()
    }

    /// A command inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid())).arg("--net");
        if self.mounts {
            command.arg("--mount");
        }
        command.arg("--").arg(program);
        command
    }

    /// Run a command inside; fails with all it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        let output = output.with_context(|| format!("starting {program} in {}", self.name))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{program} {} in {}: {}: {text}{errors}",
                arguments.join(" "),
                self.name,
                output.status
            );
        }
        Ok(text)
    }

    /// A shell script inside.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run("sh", &["-ec", script])
    }

    /// Do something in this network namespace, on a thread of its own.
    pub fn enter<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let thread = self.spawn(action)?;
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread in {} panicked", self.name))
    }

    /// Begin something in this network namespace, on a thread of its own.
    pub fn spawn<T: Send + 'static>(
        &self,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        spawn(self.pid(), action).with_context(|| format!("entering {}", self.name))
    }

    /// A veth pair between this namespace and another one.
    pub fn wire(&self, device: &str, other: &Self, other_device: &str) -> Result<()> {
        let script = format!(
            "ip link add {device} type veth peer name {other_device} netns /proc/{}/ns/net; ip link set {device} up",
            other.pid()
        );
        self.sh(&script)?;
        other.run("ip", &["link", "set", other_device, "up"]).map(drop)
    }
}

/// Do something in the network namespace of a process, on a thread of its own.
pub fn enter<T: Send + 'static>(pid: u32, action: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let thread = spawn(pid, action)?;
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread in the namespace of process {pid} panicked"))
}

/// Begin something in the network namespace of a process.
pub fn spawn<T: Send + 'static>(
    pid: u32,
    action: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    let path = format!("/proc/{pid}/ns/net");
    let file = File::open(&path).with_context(|| format!("opening {path}"))?;
    let (entered, wait) = std::sync::mpsc::channel();
    let thread = thread::Builder::new()
        .name(format!("ns of {pid}"))
        .spawn(move || {
            let result = setns(file.as_fd(), CloneFlags::CLONE_NEWNET);
            // The receiver waits for exactly this message.
            let _ = entered.send(result);
            action()
        })?;
    wait.recv()?.with_context(|| format!("entering {path}"))?;
    Ok(thread)
}

/// Do something in the network and mount namespace of a process, on a thread of its own. Programs it starts are born there, with no
/// helper program before them.
pub fn inside<T: Send + 'static>(pid: u32, action: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let open = |name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        File::open(&path).with_context(|| format!("opening {path}"))
    };
    let (network, mounts) = (open("net")?, open("mnt")?);
    let thread = thread::Builder::new()
        .name(format!("inside {pid}"))
        .spawn(move || {
            // A thread may enter a mount namespace only once it shares its root and working directory with nobody.
            nix::sched::unshare(CloneFlags::CLONE_FS)?;
            setns(network.as_fd(), CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
            setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS).context("entering the mount namespace")?;
            action()
        })?;
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread inside the namespaces of process {pid} panicked"))?
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may have been ended with its cgroup.
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
    }
}
