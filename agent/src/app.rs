//! The agent as a whole: configuration → world → loops → control server, until it is told to stop.
//!
//! This is the only place, besides the pod loop, that spawns tasks. When the agent ends, pods and traffic go on.

mod health_endpoint;
mod systemd;

use std::{future::Future, sync::Arc};

use anyhow::Context as _;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::{error, info};

use crate::{
    config::Config,
    context::Context,
    control::{self, socket},
    doors::cri::client::Client,
    health::Health,
    loops,
    world::World,
};

/// Run until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let listener = socket::listen(&config.socket())?;
    let health = health_endpoint::listen(config.health_address).await?;
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    let (stop, shutdown) = watch::channel(false);
    let ctx = Context {
        world: World::new(node),
        health: Arc::new(Health::default()),
        network: Arc::default(),
        config: Arc::new(config),
        shutdown,
    };
    let runtime = Arc::new(Client::new(&ctx.config.containerd));
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, "manifests loop", loops::manifests::run(ctx.clone()));
    spawn(&mut tasks, "network loop", loops::network::run(ctx.clone()));
    spawn(&mut tasks, "service loop", loops::service::run(ctx.clone()));
    spawn(&mut tasks, "workload loop", loops::workload::run(ctx.clone()));
    spawn(&mut tasks, "pod loop", loops::pod::run(ctx.clone()));
    spawn(&mut tasks, "node loop", loops::node::run(ctx.clone()));
    spawn(
        &mut tasks,
        "health endpoint",
        health_endpoint::serve(ctx.clone(), health),
    );
    spawn(
        &mut tasks,
        "control server",
        control::serve(ctx.clone(), runtime, listener),
    );
    info!(node = ctx.config.node_name, socket = %ctx.config.socket().display(), "agent started");
    systemd::notify("READY=1");
    let ended = tokio::select! {
        result = signalled() => result,
        Some(ended) = tasks.join_next() => Err(match ended {
            Ok(Ok(name)) => anyhow::anyhow!("the {name} ended by itself"),
            Ok(Err(failure)) => failure,
            Err(panic) => anyhow::anyhow!("a task broke off: {panic}"),
        }),
    };
    systemd::notify("STOPPING=1");
    info!("agent stops; pods and traffic go on");
    // The loops hold receivers; there is nobody else to tell.
    let _ = stop.send(true);
    while let Some(ended) = tasks.join_next().await {
        if let Ok(Err(failure)) = ended {
            error!("while stopping: {failure:#}");
        }
    }
    ended
}

/// A task that tells its name when it ends.
fn spawn(
    tasks: &mut JoinSet<anyhow::Result<&'static str>>,
    name: &'static str,
    task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await
            .with_context(|| format!("the {name} failed"))
            .map(|()| name)
    });
}

async fn signalled() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening to SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
