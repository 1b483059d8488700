//! Node loop: the Node object says what the machine is, how it is, and what the subsystems report.
//!
//! Observe: the machine (once; its use every ten seconds, which nothing announces), the subsystems' health and the node's
//! addresses (by their changes), the runtime's version (when it comes to life). Plan: `keelson_core::node`. Apply: the world.
//! Report: events when something turns.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use keelson_core::{
    node::{self, Machine, Turn, View},
    object::Key,
};
use serde::{Deserialize, Serialize};
use tokio::time;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    config::Part,
    context::Context,
    doors::{
        cri::{Runtime, client::Client},
        machine::{Host, ThisHost},
        store::{FileStore, Store, kind},
    },
    events::{self, Subject},
    health::subsystem,
};

/// The machine's use is looked at this often.
const PERIOD: Duration = Duration::from_secs(10);
/// Subsystems without which a node is not ready.
const NEEDED: [&str; 3] = [subsystem::RUNTIME, subsystem::NETWORK, subsystem::SERVICES];

/// Run until shutdown. What fails is reported and tried again.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let runtime = Client::new(&ctx.config.containerd);
    let store = FileStore::new(&ctx.config.state);
    NodeLoop::new(ctx, Arc::new(runtime), Arc::new(ThisHost), Arc::new(store))
        .run()
        .await
}

/// What is kept of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uid: String,
    created: Timestamp,
    boot_id: String,
}

struct NodeLoop<R> {
    ctx: Context,
    runtime: Arc<R>,
    host: Arc<dyn Host>,
    store: Arc<dyn Store>,
    machine: Machine,
    record: Record,
    /// Whether the store lags behind the record.
    unsaved: bool,
    /// The runtime's name and version; empty until it answered.
    version: String,
    /// Whether the machine's use could be read the last time.
    readable: bool,
}

impl<R: Runtime> NodeLoop<R> {
    fn new(ctx: Context, runtime: Arc<R>, host: Arc<dyn Host>, store: Arc<dyn Store>) -> Self {
        let record = Record {
            uid: String::new(),
            created: Timestamp::UNIX_EPOCH,
            boot_id: String::new(),
        };
        Self {
            ctx,
            runtime,
            host,
            store,
            machine: Machine::default(),
            record,
            unsaved: true,
            version: String::new(),
            readable: true,
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        self.machine = self.host.machine().unwrap_or_else(|error| {
            error!("what this machine is: {error}; the node shows less of it");
            Machine::default()
        });
        self.load();
        self.event(events::NORMAL, "Starting", "the agent starts");
        let mut health = self.ctx.health.watch();
        let mut addresses = self.ctx.network.addresses();
        let mut revisions = self.ctx.world.watch();
        let mut shutdown = self.ctx.shutdown.clone();
        let mut period = time::interval(PERIOD);
        period.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let reports = health.borrow_and_update().clone();
            let own = addresses.borrow_and_update().clone();
            let given = revisions.borrow_and_update().given_node;
            self.learn_version(&reports).await;
            self.round(&reports, own);
            self.save();
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
                Ok(()) = health.changed() => {}
                Ok(()) = addresses.changed() => {}
                Ok(_) = revisions.wait_for(|now| now.given_node != given) => {}
                _ = period.tick() => {}
            }
        }
    }

    fn round(&mut self, reports: &BTreeMap<&'static str, Result<(), String>>, addresses: Vec<IpAddr>) {
        let usage = self.host.usage(&self.ctx.config.root);
        if let Err(error) = &usage
            && self.readable
        {
            error!("how much of this machine is in use: {error}");
        }
        self.readable = usage.is_ok();
        let needed = match self.ctx.config.part {
            Part::Node => &NEEDED[..],
            // Whoever runs the pods says how the runtime is.
            Part::Proxy => &NEEDED[1..],
        };
        let mut all: node::Reports<'_> = needed.iter().map(|name| (*name, None)).collect();
        all.extend(reports.iter().map(|(name, report)| (*name, Some(report.clone()))));
        let addresses = match self.ctx.config.node_address {
            Some(main) => [main]
                .into_iter()
                .chain(addresses.into_iter().filter(|other| *other != main))
                .collect(),
            None => addresses,
        };
        let view = View {
            name: &self.ctx.config.node_name,
            uid: &self.record.uid,
            created: self.record.created,
            version: env!("CARGO_PKG_VERSION"),
            runtime: &self.version,
            pod_cidrs: self
                .ctx
                .config
                .all_pod_cidrs()
                .iter()
                .map(ToString::to_string)
                .collect(),
            machine: &self.machine,
            usage: usage.ok(),
            addresses: &addresses,
            reports: all,
            given: None,
        };
        let turns = self.ctx.world.update(|objects| {
            let given = objects.given_node.clone();
            let view = View {
                given: given.as_deref(),
                ..view
            };
            let (node, turns) = node::node(&objects.node, &view, Timestamp::now());
            if *objects.node != node {
                objects.node = Arc::new(node);
                objects.revisions.node += 1;
            }
            turns
        });
        turns.into_iter().for_each(|turn| self.tell(turn));
    }

    fn tell(&self, turn: Turn) {
        match turn {
            Turn::Ready => {
                info!("node ready");
                self.event(events::NORMAL, "NodeReady", "the node is ready");
            }
            Turn::NotReady(why) => {
                warn!("node not ready: {why}");
                self.event(
                    events::WARNING,
                    "NodeNotReady",
                    &format!("the node is not ready: {why}"),
                );
            }
            Turn::Pressure(reason, message) => {
                warn!("{reason}: {message}");
                self.event(events::WARNING, &reason, &message);
            }
            Turn::Relief(reason, message) => {
                info!("{reason}: {message}");
                self.event(events::NORMAL, &reason, &message);
            }
        }
    }

    /// Ask who the runtime is, once it works; again after it was away, since it may have been exchanged.
    async fn learn_version(&mut self, reports: &BTreeMap<&'static str, Result<(), String>>) {
        if !matches!(reports.get(subsystem::RUNTIME), Some(Ok(()))) {
            self.version.clear();
        } else if self.version.is_empty() {
            match time::timeout(PERIOD, self.runtime.version()).await {
                Ok(Ok(version)) => self.version = format!("{}://{}", version.name, version.version),
                // It works, hence the next round will learn it.
                Ok(Err(error)) => warn!("version of the container runtime: {error}"),
                Err(_) => warn!("version of the container runtime: no answer within {PERIOD:?}"),
            }
        }
    }

    /// The node's UID and birth are those of its first start.
    fn load(&mut self) {
        let name = self.ctx.config.node_name.clone();
        let known = match self.store.get(kind::NODE, &name) {
            Ok(value) => value.and_then(|value| serde_json::from_value::<Record>(value).ok()),
            Err(error) => {
                error!("the node's record: {error}; the node gets a new UID");
                None
            }
        };
        let boot_id = self.machine.boot_id.clone();
        match known {
            Some(known) if known.boot_id == boot_id => (self.record, self.unsaved) = (known, false),
            Some(known) => {
                self.record = Record { boot_id, ..known };
                self.event(
                    events::WARNING,
                    "Rebooted",
                    "the machine was started anew since the agent ran last",
                );
            }
            None => {
                self.record = Record {
                    uid: Uuid::new_v4().to_string(),
                    created: Timestamp::now(),
                    boot_id,
                }
            }
        }
    }

    fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        let Ok(value) = serde_json::to_value(&self.record) else {
            return;
        };
        match self.store.put(kind::NODE, &self.ctx.config.node_name, &value) {
            Ok(()) => self.unsaved = false,
            Err(error) => error!("the node's UID is not on disk: {error}"),
        }
    }

    fn event(&self, type_: &str, reason: &str, message: &str) {
        let key = Key::new("default", &self.ctx.config.node_name);
        let subject = Subject {
            kind: "Node",
            key,
            uid: Some(self.record.uid.clone()),
            field: None,
        };
        let event = events::event(subject, type_, reason, message, Timestamp::now());
        self.ctx.world.update(|objects| objects.record(event));
    }
}
