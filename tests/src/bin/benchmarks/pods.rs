//! Pods' starts by the agent, from the manifest's file to the running container, beside a bare client that makes the same three calls:
//! RunPodSandbox, CreateContainer, StartContainer. Both ends of both times are taken alike: the clock here, and `started_at` from the runtime.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use keelson_proto::cri::ContainerState;
use keelson_tests::cri::{self, Client};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    node,
    report::Measured,
    rounds::{Rounds, calm},
};

/// One pod at a time.
pub const START: [&str; 1] = ["pod_start_over_cri_ms"];
/// Many at once.
pub const BURST: [&str; 1] = ["burst30_over_cri_ratio"];
const PEER: &str = "bare CRI client";
const PODS_OF_A_BURST: usize = 30;
const START_LEAST: usize = 15;
const START_MOST: usize = 30;
const START_BUDGET: Duration = Duration::from_secs(60);
const BURST_LEAST: usize = 3;
const BURST_MOST: usize = 5;
const BURST_BUDGET: Duration = Duration::from_secs(60);
/// No start or removal takes longer.
const LIMIT: Duration = Duration::from_secs(60);
/// The runtime is asked this often whether it is done; asking costs it less than a millisecond.
const STEP: Duration = Duration::from_millis(20);
/// No pod starts faster: until then the runtime is left alone.
const HEAD_START: Duration = Duration::from_millis(80);

/// Milliseconds of all rounds.
#[derive(Default)]
struct Times {
    agent: Vec<f64>,
    bare: Vec<f64>,
}

/// What the agent adds to one pod's start.
pub fn start() -> Result<Vec<Measured>> {
    let times = measure(1, Rounds::new(START_LEAST, START_MOST, START_BUDGET))?;
    let shares: Vec<f64> = times
        .agent
        .iter()
        .zip(&times.bare)
        .map(|(agent, bare)| agent - bare)
        .collect();
    let figure = Measured::beside(
        START[0],
        "ms",
        &shares,
        PEER,
        (&times.agent, &times.bare),
        "ms to running",
    )?;
    Ok(vec![figure])
}

/// How much longer many pods take.
pub fn burst() -> Result<Vec<Measured>> {
    let times = measure(
        PODS_OF_A_BURST,
        Rounds::new(BURST_LEAST, BURST_MOST, BURST_BUDGET),
    )?;
    let ratios = keelson_bench::stats::pairwise(&times.agent, &times.bare);
    let figure = Measured::beside(
        BURST[0],
        "",
        &ratios,
        PEER,
        (&times.agent, &times.bare),
        "ms until the last runs",
    )?;
    Ok(vec![figure])
}

fn measure(count: usize, rounds: Rounds) -> Result<Times> {
    let node = node(true, vec!["busybox"])?;
    let folder = node.manifests();
    let times = cri::block_on(&node, move |runtime| async move {
        let mut bench = Bench { runtime, folder };
        bench.all(count, rounds).await
    });
    let times =
        times.with_context(|| format!("{count} pods at once; agent's log ends:\n{}", node.log_tail(20)))?;
    node.down()?;
    Ok(times)
}

/// Both sides of the comparison.
struct Bench {
    runtime: Client,
    folder: PathBuf,
}

impl Bench {
    async fn all(&mut self, count: usize, rounds: Rounds) -> Result<Times> {
        // The first start imports the image and fills the page cache, on both sides.
        self.agent(1, "warm").await?;
        self.bare(1, "warm-bare").await?;
        let mut times = Times::default();
        for round in rounds {
            for turn in 0..2 {
                calm()?;
                if (round + turn) % 2 == 0 {
                    times.agent.push(self.agent(count, &format!("a{round}")).await?);
                } else {
                    times.bare.push(self.bare(count, &format!("b{round}")).await?);
                }
            }
        }
        Ok(times)
    }

    /// Start by manifest; returns milliseconds until the last container started.
    async fn agent(&mut self, count: usize, prefix: &str) -> Result<f64> {
        let text: Vec<String> = (0..count)
            .map(|index| manifest(&format!("{prefix}-{index}")))
            .collect();
        let (temporary, path) = (self.folder.join(".pods.tmp"), self.folder.join("pods.yaml"));
        fs::write(&temporary, text.join("---\n")).context("writing the manifest")?;
        let begun = now()?;
        rename(&temporary, &path)?;
        let last = self.last_start(count).await?;
        fs::remove_file(&path).context("removing the manifest")?;
        self.wait_empty().await?;
        milliseconds(begun, last)
    }

    /// Start by hand, all in parallel.
    async fn bare(&mut self, count: usize, prefix: &str) -> Result<f64> {
        let begun = now()?;
        let mut starts = JoinSet::new();
        for index in 0..count {
            let mut runtime = self.runtime.clone();
            let name = format!("{prefix}-{index}");
            starts.spawn(async move {
                let sandbox = runtime.run_sandbox(&name, &name).await?;
                let command = ["sleep", "1000"];
                let container = runtime.run_container(&sandbox, &name, &name, "busybox:1", &command);
                container.await?;
                anyhow::Ok(sandbox)
            });
        }
        let mut sandboxes = Vec::new();
        while let Some(sandbox) = starts.join_next().await {
            sandboxes.push(sandbox??);
        }
        let last = self.last_start(count).await?;
        let mut removals = JoinSet::new();
        for sandbox in sandboxes {
            let mut runtime = self.runtime.clone();
            removals.spawn(async move {
                runtime.stop_sandbox(&sandbox).await?;
                runtime.remove_sandbox(&sandbox).await
            });
        }
        while let Some(removal) = removals.join_next().await {
            removal??;
        }
        self.wait_empty().await?;
        milliseconds(begun, last)
    }

    /// Wait until so many containers run; returns when the last of them started.
    async fn last_start(&mut self, count: usize) -> Result<i64> {
        sleep(HEAD_START).await;
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut containers = self.runtime.containers().await?;
            containers.retain(|container| container.state() == ContainerState::ContainerRunning);
            if containers.len() == count {
                let mut last = 0;
                for container in containers {
                    last = last.max(self.runtime.started_at(&container.id).await?);
                }
                return Ok(last);
            }
            ensure!(
                Instant::now() < deadline,
                "{} of {count} containers run after {LIMIT:?}",
                containers.len()
            );
            sleep(STEP).await;
        }
    }

    async fn wait_empty(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = self.runtime.sandboxes().await?.len();
            if left == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{left} sandboxes are left after {LIMIT:?}"
            );
            sleep(STEP).await;
        }
    }
}

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - {{name: main, image: \"busybox:1\", command: [sleep, \"1000\"]}}\n"
    )
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("writing {}", to.display()))
}

/// The runtime's clock: nanoseconds since the epoch.
fn now() -> Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_nanos())?)
}

fn milliseconds(from: i64, to: i64) -> Result<f64> {
    let took = to - from;
    ensure!(
        took > 0,
        "a container started {took} ns after it was asked for: the clock was set"
    );
    Ok(took as f64 / 1e6)
}
