//! The plugin's calls, from exec to exit, beside the reference plugins, in the same pod namespaces.
//!
//! Both attach an interface to every namespace, in turns; removing them is left to the end, since the kernel's removal of a link holds
//! up whoever comes next.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use keelson_tests::namespace;
use serde_json::{Value, json};

use crate::{
    binaries, node,
    report::Measured,
    rounds::{Rounds, calm},
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

/// One of the two plugins.
#[derive(Clone)]
struct Plugin {
    program: PathBuf,
    interface: &'static str,
    conf: Value,
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
    let ours = Plugin::new(
        binaries()?.join("keelson-cni"),
        "eth0",
        json!({
            "cniVersion": "1.0.0", "name": "keelson", "type": "keelson-cni",
            "podCIDR": "10.244.0.0/24", "serviceCIDR": "10.96.0.0/16",
        }),
    );
    let theirs = Plugin::new(
        reference,
        "eth1",
        json!({
            "cniVersion": "1.0.0", "name": "reference", "type": "ptp",
            "ipam": {"type": "host-local", "subnet": "10.250.0.0/24", "dataDir": "/run/host-local"},
        }),
    );
    let node = node(false, Vec::new())?;
    let (ours, theirs) = namespace::inside(node.namespace().pid(), move || interleaved(ours, theirs))?;
    node.down()?;
    let figure = |name: &str, ours: &[f64], theirs: &[f64]| {
        Measured::beside(name, "ms", ours, PEER, (ours, theirs), "ms")
    };
    Ok(vec![
        figure(FIGURES[0], &ours.adds, &theirs.adds)?,
        figure(FIGURES[1], &ours.checks, &theirs.checks)?,
    ])
}

/// All rounds, on the node.
fn interleaved(mut ours: Plugin, mut theirs: Plugin) -> Result<(Plugin, Plugin)> {
    let mut pods = Vec::new();
    for round in Rounds::new(LEAST + WARM_UP, MOST + WARM_UP, BUDGET) {
        let pod = format!("pod{round}");
        make_namespace(&pod)?;
        calm()?;
        let mut order = [&mut ours, &mut theirs];
        if round % 2 == 1 {
            order.reverse();
        }
        let timed = round >= WARM_UP;
        let mut results = Vec::new();
        for plugin in &mut order {
            results.push(plugin.add(&pod, timed)?);
        }
        for (plugin, result) in order.iter_mut().zip(results) {
            plugin.check(&pod, result, timed)?;
        }
        pods.push(pod);
    }
    for pod in &pods {
        for plugin in [&ours, &theirs] {
            plugin.call("DEL", pod, &plugin.conf)?;
        }
    }
    Ok((ours, theirs))
}

fn make_namespace(pod: &str) -> Result<()> {
    let path = format!("/run/netns/{pod}");
    fs::write(&path, "").with_context(|| format!("making {path}"))?;
    let status = Command::new("unshare")
        .args(["--net", "mount", "--bind", "/proc/self/ns/net", &path])
        .status()
        .context("starting unshare")?;
    ensure!(status.success(), "making the namespace {path}: {status}");
    Ok(())
}

impl Plugin {
    fn new(program: PathBuf, interface: &'static str, conf: Value) -> Self {
        Self {
            program,
            interface,
            conf,
            adds: Vec::new(),
            checks: Vec::new(),
        }
    }

    fn add(&mut self, pod: &str, timed: bool) -> Result<Value> {
        let (took, answer) = self.call("ADD", pod, &self.conf)?;
        if timed {
            self.adds.push(took);
        }
        serde_json::from_str(&answer).with_context(|| format!("ADD answered {answer:?}"))
    }

    fn check(&mut self, pod: &str, result: Value, timed: bool) -> Result<()> {
        let mut conf = self.conf.clone();
        conf["prevResult"] = result;
        let (took, _) = self.call("CHECK", pod, &conf)?;
        if timed {
            self.checks.push(took);
        }
        Ok(())
    }

    /// A call as a runtime makes it: milliseconds from exec to exit, and what it printed.
    fn call(&self, verb: &str, pod: &str, conf: &Value) -> Result<(f64, String)> {
        // Neither the configuration nor the answer fills a pipe, so nobody has to read or write while the plugin runs.
        let (input, mut conf_end) = std::io::pipe()?;
        let (mut answer_end, output) = std::io::pipe()?;
        conf_end.write_all(conf.to_string().as_bytes())?;
        drop(conf_end);
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod)
            .env("CNI_NETNS", format!("/run/netns/{pod}"))
            .env("CNI_IFNAME", self.interface)
            .env("CNI_PATH", REFERENCE)
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::inherit());
        let started = Instant::now();
        let status = command
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?
            .wait()?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        // It holds our ends of the pipes; the answer ends only without them.
        drop(command);
        let mut answer = String::new();
        answer_end.read_to_string(&mut answer)?;
        ensure!(
            status.success(),
            "{} {verb} in {pod}: {status}: {answer}",
            self.program.display()
        );
        Ok((took, answer))
    }
}
