//! The agent as a whole: configuration → world → loops → control server, until it is told to end.
//!
//! This is the only place, besides the pod loop, that spawns tasks. Whatever ends the agent, pods and traffic go on.

mod health_endpoint;
mod systemd;

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use keelson_core::health::Family;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::{JoinError, JoinSet},
    time::timeout,
};
use tracing::{error, info, warn};

use crate::{
    config::{Config, Part},
    context::Context,
    control::{self, socket},
    doors::cri::client::Client,
    health::{Health, ProxyHealth},
    loops,
    world::World,
};

/// Tasks that have not ended this long after they were told to are left behind: their work is repeatable.
const FAREWELL: Duration = Duration::from_secs(5);

/// Each task tells its name when it ends.
type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Run until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // Before anything else, so that a signal during the start is not lost.
    let mut signals = Signals::new()?;
    // Two agents on one node would undo each other's work: the second gets no socket.
    let listener = socket::listen(&config.socket())?;
    // That address is the kubelet's, where there is one.
    let health = match config.part {
        Part::Node => Some(health_endpoint::listen(config.health_address)?),
        Part::Proxy => None,
    };
    set_oom_score(&config);
    let (stop, shutdown) = watch::channel(false);
    let ctx = context(config, shutdown);
    let mut tasks = Tasks::new();
    spawn_loops(&mut tasks, &ctx);
    let runtime = Arc::new(Client::new(&ctx.config.containerd));
    spawn(
        &mut tasks,
        "control server",
        control::serve(ctx.clone(), runtime, listener),
    );
    if let Some(listener) = health {
        spawn(
            &mut tasks,
            "health endpoint",
            health_endpoint::serve(ctx.clone(), listener),
        );
    }
    info!(
        node = ctx.config.node_name,
        socket = %ctx.config.socket().display(),
        manifests = %ctx.config.manifests.display(),
        "agent started"
    );
    systemd::notify("READY=1");
    let ended = tokio::select! {
        name = signals.next() => {
            info!("{name}: the agent stops; pods and traffic go on");
            Ok(())
        }
        Some(ended) = tasks.join_next() => Err(unexpected(ended)),
    };
    systemd::notify("STOPPING=1");
    // The loops hold receivers; there is nobody else to tell.
    stop.send_replace(true);
    farewell(tasks, &mut signals).await;
    ended
}

fn context(config: Config, shutdown: watch::Receiver<bool>) -> Context {
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    let families: &[Family] = match config.service_cidr_v6() {
        Some(_) => &[Family::V4, Family::V6],
        None => &[Family::V4],
    };
    Context {
        proxy: Arc::new(ProxyHealth::new(config.sync_period, families)),
        config: Arc::new(config),
        world: World::new(node),
        health: Arc::new(Health::default()),
        metrics: Arc::default(),
        network: Arc::default(),
        shutdown,
    }
}

fn spawn_loops(tasks: &mut Tasks, ctx: &Context) {
    spawn(tasks, "manifests loop", loops::manifests::run(ctx.clone()));
    spawn(tasks, "network loop", loops::network::run(ctx.clone()));
    spawn(tasks, "service loop", loops::service::run(ctx.clone()));
    spawn(tasks, "health loop", loops::health::run(ctx.clone()));
    spawn(tasks, "observation loop", loops::observation::run(ctx.clone()));
    spawn(tasks, "node loop", loops::node::run(ctx.clone()));
    if ctx.config.part == Part::Node {
        spawn(tasks, "workload loop", loops::workload::run(ctx.clone()));
        spawn(tasks, "pod loop", loops::pod::run(ctx.clone()));
    }
}

/// As the configuration says, if it says so. The agent goes on without.
fn set_oom_score(config: &Config) {
    let Some(score) = config.oom_score_adj else { return };
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        warn!("oomScoreAdj {score}: {error}; to lower it takes CAP_SYS_RESOURCE");
    }
}

fn spawn(
    tasks: &mut Tasks,
    name: &'static str,
    task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    tasks.spawn(async move { (name, task.await) });
}

/// A part that ends by itself leaves a node that looks alive and is not: the agent ends, so that it is started again.
fn unexpected(ended: Result<(&'static str, anyhow::Result<()>), JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Err(error))) => error.context(format!("the {name} cannot go on")),
        Ok((name, Ok(()))) => anyhow!("the {name} ended though nobody told it to"),
        Err(error) => anyhow!("a part of the agent broke off: {error}"),
    }
}

async fn farewell(mut tasks: Tasks, signals: &mut Signals) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok((name, Err(error))) => error!("while stopping: the {name}: {error:#}"),
                Ok(_) => {}
                Err(error) => error!("while stopping: a part of the agent broke off: {error}"),
            }
        }
    };
    tokio::select! {
        done = timeout(FAREWELL, all) => {
            if done.is_err() {
                // Commands in containers that run for a caller, most likely.
                info!("not every part of the agent ended within {} s; it ends without them", FAREWELL.as_secs());
            }
        }
        name = signals.next() => warn!("{name} again: the agent ends at once"),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
