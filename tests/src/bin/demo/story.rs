//! What the demo shows. Each step states what must be true, and fails if it is not: the demo is also a test.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use keelson_tests::{
    http,
    load::Load,
    node::{
        Node, Options,
        objects::{is_ready, name},
    },
    wait,
};
use serde_json::Value;

use crate::state::State;

/// The Deployment, its label and its Service.
pub const APP: &str = "web";
/// Nothing in the demo takes longer.
const LIMIT: Duration = Duration::from_secs(90);
/// A rollout under load must have been seen by at least so many requests to prove anything.
const REQUESTS: usize = 50;

/// Show it, and leave the node running.
pub fn up() -> Result<()> {
    let node = start("keelson-demo")?;
    let address = tell(&node)?;
    let port = forward(&node, address)?;
    let state = State {
        pid: node.namespace().pid(),
        cgroup: node.cgroup().path().to_owned(),
        folder: node.folder().to_owned(),
        port,
        also: Vec::new(),
    };
    state.save()?;
    node.keep();
    what_next(&state);
    Ok(())
}

/// What to try with the node that stays.
pub fn what_next(state: &State) {
    let port = state.port;
    println!(
        "
The node stays up. Try next:

  curl http://127.0.0.1:{port}/                         the page, by way of the node's port
  cargo xtask keelson -- get pods -o wide              the command line, connected to this node
  cargo xtask keelson -- get services,endpoints
  cargo xtask keelson -- describe deployment web
  cargo xtask keelson -- logs -f POD
  cargo xtask keelson -- exec -it POD -- sh
  cargo xtask keelson -- apply -f demo/web.yaml        after editing it
  export KEELSON_SOCKET={}    the same, for a keelson of your own
  cargo xtask down                                     remove everything",
        state.socket()
    );
}

/// The same as assertions; nothing stays.
pub fn check() -> Result<()> {
    let node = start("keelson-demo-check")?;
    let address = tell(&node)?;
    let port = forward(&node, address)?;
    let (status, page) = http::get(SocketAddr::from(([127, 0, 0, 1], port)), "/")?;
    ensure!(
        status == 200 && page.contains("It runs."),
        "through the forwarder: {status}: {page}"
    );
    say("the calling shell reaches the page through 127.0.0.1");
    let cgroup = node.cgroup().path().to_owned();
    let folder = node.folder().to_owned();
    node.down()?;
    ensure!(!folder.exists(), "{} is still there", folder.display());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains("keelson-demo"), "mounts are left:\n{mounts}");
    println!("\nall of it held, and {cgroup} is gone");
    Ok(())
}

fn start(label: &str) -> Result<Node> {
    say("a node of its own: namespaces, containerd, agent, and a client beside it");
    Node::start(Options {
        images: vec!["nginx"],
        name: Some(label.to_owned()),
        ..Options::default()
    })
}

pub fn say(text: &str) {
    println!("\n== {text}");
}

fn manifest() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/web.yaml"))
}

pub fn tell(node: &Node) -> Result<SocketAddr> {
    say("keelson apply -f demo/web.yaml: a Deployment with two replicas, its page, a NodePort Service");
    print!(
        "{}",
        node.keelson(&["apply", "-f", &manifest().to_string_lossy()])?
    );
    let pods = follow(node, 2, |_| true)?;
    print!("{}", node.keelson(&["get", "pods", "-o", "wide"])?);
    print!("{}", node.keelson(&["get", "services"])?);

    let address = node.node_port(APP)?;
    say(&format!(
        "the page, fetched by the client beside the node from {address}"
    ));
    let page = node.wait_http(address)?;
    ensure!(
        page.contains("It runs."),
        "this is not the page of the ConfigMap: {page}"
    );
    println!("{}", page.trim());

    let victim = name(pods.first().context("two pods")?).to_owned();
    kill_container(node, &victim)?;
    roll(node, address)?;
    Ok(address)
}

/// End a container as a crash would, and see it come back in the same pod.
fn kill_container(node: &Node, pod: &str) -> Result<()> {
    let before = node.object("pods", pod)?;
    let id = before["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .and_then(|id| id.strip_prefix("containerd://"))
        .context("the pod has no container")?
        .to_owned();
    say(&format!(
        "the container of {pod} is killed; the agent starts it again in the same pod"
    ));
    let started = Instant::now();
    node.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id])?;
    let after = follow(node, 2, |pods| {
        pods.iter()
            .any(|found| name(found) == pod && restarts(found) == restarts(&before) + 1)
    })?;
    ensure!(
        after
            .iter()
            .any(|found| found["metadata"]["uid"] == before["metadata"]["uid"]),
        "the pod was replaced, not mended"
    );
    println!("ready again after {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"]
        .as_u64()
        .unwrap_or(0)
}

/// Replace every pod while the client asks without pause: nothing may be lost.
fn roll(node: &Node, address: SocketAddr) -> Result<()> {
    say("every pod is drained and replaced while the client keeps asking");
    let old: Vec<String> = node.pods(APP)?.iter().map(|pod| name(pod).to_owned()).collect();
    let load = Load::start(node.client(), address)?;
    load.wait_for(REQUESTS)?;
    let text = std::fs::read_to_string(manifest())?;
    let changed = text.replacen(
        "    metadata:\n      labels:\n        app: web\n",
        "    metadata:\n      annotations:\n        demo/rollout: \"2\"\n      labels:\n        app: web\n",
        1,
    );
    ensure!(
        changed != text,
        "demo/web.yaml has no pod template where one is expected"
    );
    let file = node.folder().join("web-2.yaml");
    std::fs::write(&file, changed)?;
    print!("{}", node.keelson(&["apply", "-f", &file.to_string_lossy()])?);
    follow(node, 2, |pods| {
        pods.iter().all(|pod| !old.contains(&name(pod).to_owned()))
    })?;
    node.wait("the old pods to be gone", LIMIT, |node| {
        let all = node.list("pods")?;
        Ok((!all.iter().any(|pod| old.iter().any(|gone| name(pod) == gone))).then_some(()))
    })?;
    load.wait_for(REQUESTS)?;
    let answered = load.stop_without_loss()?;
    println!("{answered} requests, none lost");
    Ok(())
}

/// Wait until so many pods are ready and `condition` holds; each change of a pod is shown.
fn follow(node: &Node, count: usize, condition: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let mut shown: Vec<String> = Vec::new();
    let started = Instant::now();
    node.wait(&format!("{count} ready pods of {APP}"), LIMIT, |node| {
        let lines: Vec<String> = node.list("pods")?.iter().map(describe).collect();
        for line in lines.iter().filter(|line| !shown.contains(line)) {
            println!("{:>6.1} s  {line}", started.elapsed().as_secs_f64());
        }
        shown = lines;
        let pods = node.pods(APP)?;
        if pods.len() == count && pods.iter().all(is_ready) && condition(&pods) {
            return Ok(Some(pods));
        }
        bail!("{}", shown.join("\n"))
    })
}

fn describe(pod: &Value) -> String {
    let status = &pod["status"];
    let container = &status["containerStatuses"][0];
    let reason = container["state"]["waiting"]["reason"]
        .as_str()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let state = match (pod["metadata"]["deletionTimestamp"].is_null(), is_ready(pod)) {
        (false, _) => "Terminating",
        (true, true) => "Ready",
        (true, false) => status["phase"].as_str().unwrap_or("Pending"),
    };
    format!("{} {state}{reason}, {} restarts", name(pod), restarts(pod))
}

/// Start the forwarder in the node's cgroup, so that it goes with the node.
pub fn forward(node: &Node, address: SocketAddr) -> Result<u16> {
    let enter = node.cgroup().enter_line("system")?;
    let log = File::create(node.folder().join("forward.log"))?;
    let own = std::env::current_exe().context("asking for our own path")?;
    let mut child = Command::new("sh")
        .args(["-c", &format!("{enter} exec \"$@\""), "sh"])
        .arg(own)
        .args(["forward", &node.client().pid().to_string(), &address.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // It stays when the shell that called us goes.
        .process_group(0)
        .spawn()
        .context("starting the forwarder")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its output is piped")?).read_line(&mut line)?;
    let port = line.trim().parse().with_context(|| {
        format!(
            "the forwarder did not start: {}/forward.log",
            node.folder().display()
        )
    })?;
    wait::holds("the forwarder to serve", LIMIT, || {
        Ok(http::get(SocketAddr::from(([127, 0, 0, 1], port)), "/")?.0 == 200)
    })?;
    Ok(port)
}
