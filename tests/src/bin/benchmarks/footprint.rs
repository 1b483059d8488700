//! What the agent costs while nothing happens: memory and processor time with 30 pods, each asked over HTTP every ten seconds.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::{node, report::Measured};

/// What is measured here.
pub const FIGURES: [&str; 2] = ["agent_rss_30pods_mb", "agent_idle_cpu_pct"];
const PODS: usize = 30;
/// A window holds one probe of each pod.
const WINDOW: Duration = Duration::from_secs(10);
const WINDOWS: usize = 4;

/// Measure both.
pub fn measure() -> Result<Vec<Measured>> {
    let node = node(true, vec!["busybox"])?;
    let pods: Vec<String> = (0..PODS).map(manifest).collect();
    node.write_manifest("pods.yaml", &pods.join("---\n"))?;
    node.wait_ready("idle", PODS)?;
    let pid = node.agent_pid().context("there is no agent")?;
    // What the start left to do is done within one window; it is not counted.
    thread::sleep(WINDOW);
    let (mut memory, mut share) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        let before = seconds(pid)?;
        thread::sleep(WINDOW);
        share.push((seconds(pid)? - before) / WINDOW.as_secs_f64() * 100.0);
        memory.push(megabytes(pid, "VmRSS:")?);
    }
    let peak = megabytes(pid, "VmHWM:")?;
    // Still all there, or the figures are of something else.
    node.wait_ready("idle", PODS)?;
    node.down()?;
    Ok(vec![
        Measured::alone(
            FIGURES[0],
            "MB",
            &memory,
            format!("{PODS} pods; {peak:.1} MB at most, while they started"),
        )?,
        Measured::alone(
            FIGURES[1],
            "%",
            &share,
            format!(
                "of one core, {PODS} pods, {} s",
                WINDOW.as_secs() * WINDOWS as u64
            ),
        )?,
    ])
}

fn manifest(index: usize) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: idle-{index}, labels: {{app: idle}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "mkdir -p /www && echo fine > /www/index.html && exec httpd -f -p 8080 -h /www"]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 10}}
"#
    )
}

/// Memory of a process: the kernel writes kB for 1024 bytes, a MB here is a million.
fn megabytes(pid: u32, field: &str) -> Result<f64> {
    Ok(bytes(pid, field)? / 1e6)
}

/// A field of a process's status that the kernel writes in kB.
pub fn bytes(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    let kilobytes: f64 = number
        .with_context(|| format!("{path} has no {field}"))?
        .parse()?;
    Ok(kilobytes * 1024.0)
}

/// Processor time of a process, user and system.
fn seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks = ticks(&text).with_context(|| format!("{path} is {text:?}"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the length of a tick is unknown")?;
    Ok(ticks as f64 / per_second as f64)
}

/// utime + stime of a line of `/proc/PID/stat`.
fn ticks(line: &str) -> Option<u64> {
    // The name may hold blanks and brackets; the fields after its last bracket begin with the third.
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 1 0 5 0 0";
        assert_eq!(ticks(line), Some(42));
        assert_eq!(ticks("7 (a) S"), None);
    }

    #[test]
    fn we_have_memory_ourselves() {
        assert!(megabytes(std::process::id(), "VmRSS:").expect("our status") > 0.1);
    }
}
