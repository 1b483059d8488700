//! Pod loop: what the world asks for runs in the runtime.
//!
//! ```text
//! world, ConfigMaps ──┐                    ┌── containerd's exit and OOM events
//! runtime's readiness ─┴► dispatcher ─poke─┴► one worker per pod UID ◄── verdicts of probes
//!                                               │
//!     observe (runtime) ─► core::pod::plan ─► steps ─► apply ─► observe … until the plan is empty
//!                                 └► core::pod::status ─► the world
//! ```
//! The runtime keeps the state: a worker that starts over finds everything there, and changes only the difference.
//! What must be known besides (a pod that is over, verdicts of probes) is a small record on disk.

mod acknowledge;
mod apply;
mod dispatcher;
mod doors;
mod hooks;
pub mod images;
mod keep;
mod messages;
mod observe;
mod orphan;
mod outcome;
pub mod probing;
mod report;
mod resolver;
pub mod roster;
mod sandbox;
mod start;
mod tell;
mod worker;

use crate::context::Context;

/// Run until shutdown. Pods go on.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let doors = doors::Doors::open(&ctx.config)?;
    if let Err(error) = std::fs::create_dir_all(&ctx.config.images) {
        let folder = ctx.config.images.display();
        tracing::warn!(%error, %folder, "the folder of images cannot be made; nothing is imported from it");
    }
    dispatcher::Dispatcher::new(ctx, doors)
        .run_with_containerd()
        .await
}

#[cfg(test)]
mod tests;
