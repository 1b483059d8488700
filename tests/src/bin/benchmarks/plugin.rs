//! The plugin's calls, from exec to exit, beside the reference plugins.
//!
//! Each has a node of its own, and both take turns: the reference's host ends have addresses, so on our node each of them would be one more
//! uplink that the kernel programs are attached to. Removing is left to the end, since the kernel's removal of a link holds up whoever
//! comes next.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use keelson_tests::namespace::{self, Namespace};
use serde_json::{Value, json};

use crate::{
    binaries, node,
    report::Measured,
    rounds::{Rounds, ahead, calm},
};

/// What is measured here.
pub const FIGURES: [&str; 2] = ["cni_add_ms", "cni_check_ms"];
const PEER: &str = "ptp + host-local";
/// Where Debian puts the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";
/// The first calls load the kernel programs, or read their own program from disk.
const WARM_UP: usize = 3;
const LEAST: usize = 40;
const MOST: usize = 60;
const BUDGET: Duration = Duration::from_secs(60);

/// A plugin with its configuration.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    conf: Value,
}

/// A plugin on its node.
struct Plugin {
    program: Program,
    /// A process whose namespaces are the node's.
    node: u32,
    adds: Vec<f64>,
    checks: Vec<f64>,
}

/// Measure both verbs.
pub fn measure() -> Result<Vec<Measured>> {
    let reference = PathBuf::from(REFERENCE).join("ptp");
    ensure!(
        reference.is_file(),
        "{} is missing: install containernetworking-plugins",
        reference.display()
    );
    let ours = Program::new(
        binaries()?.join("keelson-cni"),
        json!({
            "cniVersion": "1.0.0", "name": "keelson", "type": "keelson-cni",
            "podCIDR": "10.244.0.0/24", "serviceCIDR": "10.96.0.0/16",
        }),
    );
    let theirs = Program::new(
        reference,
        json!({
            "cniVersion": "1.0.0", "name": "reference", "type": "ptp",
            "ipam": {"type": "host-local", "subnet": "10.250.0.0/24", "dataDir": "/run/host-local"},
        }),
    );
    let node = node(false, Vec::new())?;
    let peer = Namespace::new("peer", true, "mount -t tmpfs tmpfs /run; mkdir /run/netns;")?;
    let mut ours = Plugin::new(node.namespace(), ours);
    let mut theirs = Plugin::new(&peer, theirs);
    interleave(&mut ours, &mut theirs)?;
    drop(peer);
    node.down()?;
    let figure = |name: &str, ours: &[f64], theirs: &[f64]| {
        Measured::beside(name, "ms", ours, PEER, (ours, theirs), "ms")
    };
    Ok(vec![
        figure(FIGURES[0], &ours.adds, &theirs.adds)?,
        figure(FIGURES[1], &ours.checks, &theirs.checks)?,
    ])
}

/// All rounds.
fn interleave(ours: &mut Plugin, theirs: &mut Plugin) -> Result<()> {
    let mut pods = Vec::new();
    for round in Rounds::new(LEAST + WARM_UP, MOST + WARM_UP, BUDGET) {
        let pod = format!("pod{round}");
        let mut order = [&mut *ours, &mut *theirs];
        if round % 2 == 1 {
            order.reverse();
        }
        for plugin in &order {
            plugin.make_namespace(&pod)?;
        }
        calm()?;
        let mut results = Vec::new();
        for plugin in &mut order {
            results.push(plugin.add(&pod)?);
        }
        for (plugin, result) in order.iter_mut().zip(results) {
            plugin.check(&pod, result)?;
            if round + 1 == WARM_UP {
                plugin.adds.clear();
                plugin.checks.clear();
            }
        }
        pods.push(pod);
    }
    for pod in &pods {
        for plugin in [&*ours, &*theirs] {
            plugin.call("DEL", pod, plugin.program.conf.clone())?;
        }
    }
    Ok(())
}

impl Plugin {
    fn new(node: &Namespace, program: Program) -> Self {
        Self {
            program,
            node: node.pid(),
            adds: Vec::new(),
            checks: Vec::new(),
        }
    }

    fn make_namespace(&self, pod: &str) -> Result<()> {
        let path = format!("/run/netns/{pod}");
        namespace::inside(self.node, move || {
            fs::write(&path, "").with_context(|| format!("making {path}"))?;
            let status = Command::new("unshare")
                .args(["--net", "mount", "--bind", "/proc/self/ns/net", &path])
                .status()
                .context("starting unshare")?;
            ensure!(status.success(), "making the namespace {path}: {status}");
            Ok(())
        })
    }

    fn add(&mut self, pod: &str) -> Result<Value> {
        let (took, answer) = self.call("ADD", pod, self.program.conf.clone())?;
        self.adds.push(took);
        serde_json::from_str(&answer).with_context(|| format!("ADD answered {answer:?}"))
    }

    fn check(&mut self, pod: &str, result: Value) -> Result<()> {
        let mut conf = self.program.conf.clone();
        conf["prevResult"] = result;
        let (took, _) = self.call("CHECK", pod, conf)?;
        self.checks.push(took);
        Ok(())
    }

    /// A call on the node: milliseconds from exec to exit, and what it printed.
    fn call(&self, verb: &'static str, pod: &str, conf: Value) -> Result<(f64, String)> {
        let (program, pod) = (self.program.clone(), pod.to_owned());
        namespace::inside(self.node, move || {
            ahead().context("going ahead of other processes")?;
            program.call(verb, &pod, &conf)
        })
    }
}

impl Program {
    /// The binary at `path`.
    pub fn new(path: PathBuf, conf: Value) -> Self {
        Self { path, conf }
    }

    /// A call as a runtime makes it, for the namespace of this name: milliseconds, and the answer.
    pub fn call(&self, verb: &str, pod: &str, conf: &Value) -> Result<(f64, String)> {
        // Neither the configuration nor the answer fills a pipe, so nobody has to read or write while the plugin runs.
        let (input, mut conf_end) = std::io::pipe()?;
        let (mut answer_end, output) = std::io::pipe()?;
        conf_end.write_all(conf.to_string().as_bytes())?;
        drop(conf_end);
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod)
            .env("CNI_NETNS", format!("/run/netns/{pod}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::inherit());
        let started = Instant::now();
        let status = command
            .spawn()
            .with_context(|| format!("starting {}", self.path.display()))?
            .wait()?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        // It holds our ends of the pipes; the answer ends only without them.
        drop(command);
        let mut answer = String::new();
        answer_end.read_to_string(&mut answer)?;
        ensure!(
            status.success(),
            "{} {verb} in {pod}: {status}: {answer}",
            self.path.display()
        );
        Ok((took, answer))
    }
}
