//! Service loop: allocates addresses and ports, derives EndpointSlices from pods, and keeps the dataplane's maps.
//!
//! Observe: Services, pods, slices, the node (World), allocations (store), the maps (read once, then followed; read again after a
//! failure and every `RELIST`). Plan: `keelson_core::service`, for the Services that changed. Apply: store, World, maps. Report:
//! health, events, metrics, health check ports, and the pods revision that the maps reflect, which the pod loop waits for before
//! it stops a pod.
//!
//! | room | job |
//! |---|---|
//! | `allocation` | addresses and ports of Services, slices of pods (not for `keelson proxy`: its objects carry both) |
//! | `changes` | which objects changed |
//! | `takeover` | connections of the proxy that was here before |

mod allocation;
mod changes;
mod takeover;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use keelson_core::{
    object::Key,
    service::{
        desired::Report,
        node::{NodePortAddresses, NodeView, primary_addresses, zone},
        slices,
        state::{Outcome, Services},
    },
};
use tokio::{sync::watch, time};
use tracing::{debug, error, info, warn};

use crate::{
    config,
    context::Context,
    doors::{
        dataplane::ServiceMaps,
        store::{FileStore, Store},
    },
    events::{self, Subject},
    health::subsystem,
    world::Revisions,
};
use allocation::Allocator;

/// The maps are read back this often even if nothing failed: somebody else may have written to them.
const RELIST: Duration = Duration::from_secs(300);
/// After a failure the loop tries again this soon, then ever more slowly.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// When the endpoints of a Service changed last, as their author's clock has it.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Run until shutdown. What fails is reported and tried again.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let store = FileStore::new(&ctx.config.state);
    ServiceLoop::new(ctx, Box::new(store)).run().await
}

struct ServiceLoop {
    ctx: Context,
    allocator: Allocator,
    /// What the core knows of the objects, and of the maps.
    services: Services,
    known_services: BTreeMap<Key, Arc<Service>>,
    known_slices: BTreeMap<Key, Arc<EndpointSlice>>,
    /// What allocations and slices were last derived from.
    derived: Option<Derived>,
    /// Services with their allocated fields; empty where objects carry them.
    filled: BTreeMap<Key, Arc<Service>>,
    /// When the changes at hand were triggered, as far as their authors say.
    triggered: Vec<Timestamp>,
    /// Addresses that need routes of their own, as far as the door was told.
    routed: Option<Vec<IpAddr>>,
    /// All pods were known once: from then on a pod without a status is a new one.
    pods_known: bool,
}

/// Revisions that allocations and slices follow from.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Derived {
    services: u64,
    pods: u64,
}

impl ServiceLoop {
    fn new(ctx: Context, store: Box<dyn Store>) -> Self {
        Self {
            allocator: Allocator::new(&ctx, store),
            ctx,
            services: Services::default(),
            known_services: BTreeMap::new(),
            known_slices: BTreeMap::new(),
            derived: None,
            filled: BTreeMap::new(),
            triggered: Vec::new(),
            routed: None,
            pods_known: false,
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        self.allocator.load();
        let mut revisions = self.ctx.world.watch();
        let mut door = self.ctx.network.maps();
        let mut addresses = self.ctx.network.addresses();
        let mut shutdown = self.ctx.shutdown.clone();
        let mut retry = RETRY_FIRST;
        loop {
            let seen = *revisions.borrow_and_update();
            let maps = door.borrow_and_update().0.clone();
            addresses.mark_unchanged();
            let wait = match self.round(seen, maps.as_deref()) {
                Ok(()) => {
                    retry = RETRY_FIRST;
                    RELIST
                }
                Err(failure) => {
                    error!("programming Services: {failure:#}; trying again in {retry:?}");
                    self.ctx
                        .health
                        .set(subsystem::SERVICES, Err(format!("{failure:#}")));
                    self.forget_maps();
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_LAST);
                    wait
                }
            };
            tokio::select! {
                () = concerned(&mut revisions, seen) => {}
                _ = door.changed() => self.forget_maps(),
                _ = addresses.changed() => {}
                () = time::sleep(wait) => self.forget_maps(),
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    /// What was written is not known to be so any more.
    fn forget_maps(&mut self) {
        self.services.forget_maps();
        self.routed = None;
    }

    /// Observe, plan, apply, report: once.
    fn round(&mut self, seen: Revisions, maps: Option<&dyn ServiceMaps>) -> anyhow::Result<()> {
        // Before everything was listed, "no Service" means "not known yet".
        if seen.listed == 0 {
            return Ok(());
        }
        // The pods that the maps will reflect are those that slices were derived from: one that is deleted meanwhile is not
        // acknowledged before the next round.
        let pods = if self.ctx.config.part == config::Part::Node {
            self.derive()?
        } else {
            self.pods_known = true;
            seen.pods
        };
        // Endpoints of pods that were not looked at yet stay in the maps: an agent that returns changes only the difference.
        if !self.pods_known {
            return Ok(());
        }
        self.observe();
        let Some(maps) = maps else { return Ok(()) };
        self.program(maps)?;
        self.ctx.world.set_programmed(pods);
        self.ctx.proxy.updated();
        self.ctx.health.set(subsystem::SERVICES, Ok(()));
        Ok(())
    }

    /// Give Services their addresses and pods their slices, where something they follow from has changed; returns the revision
    /// of pods that the slices show.
    fn derive(&mut self) -> anyhow::Result<u64> {
        let now = self.ctx.world.read(|objects| Derived {
            services: objects.revisions.services,
            pods: objects.revisions.pods,
        });
        if self.pods_known && self.derived == Some(now) {
            return Ok(now.pods);
        }
        let snapshot = self.ctx.world.snapshot();
        let (services, pods) = (snapshot.revisions.services, snapshot.revisions.pods);
        self.pods_known |= snapshot.pods_are_known();
        if self.derived.is_none_or(|derived| derived.services != services) {
            self.filled = self.allocator.allocate(&self.ctx, &snapshot)?;
        }
        let slices = self
            .pods_known
            .then(|| slices::slices(&self.filled, &snapshot.pods));
        let (before, after) = allocation::publish(&self.ctx, &self.filled, slices.as_ref());
        // Our own writes need no second look; somebody else's do.
        let services = if before == services { after } else { services };
        self.derived = Some(Derived { services, pods });
        Ok(pods)
    }

    /// Tell the core what changed.
    fn observe(&mut self) {
        let (known_services, known_slices) = (&mut self.known_services, &mut self.known_slices);
        let (filled, part) = (&self.filled, self.ctx.config.part);
        let (services, endpoint_slices, node) = self.ctx.world.read(|objects| {
            let services = if part == config::Part::Node {
                filled
            } else {
                &objects.services
            };
            (
                changes::follow(known_services, services),
                changes::follow(known_slices, &objects.endpoint_slices),
                objects.node.clone(),
            )
        });
        if !services.is_empty() || !endpoint_slices.is_empty() {
            self.ctx.proxy.queued();
            self.ctx.metrics.queued(services.len(), endpoint_slices.len());
        }
        for (key, service) in services {
            self.services.set_service(&key, service);
        }
        for (key, slice) in endpoint_slices {
            self.triggered.extend(slice.as_deref().and_then(trigger_time));
            self.services.set_slice(&key, slice);
        }
        self.services.set_node(self.view(&node));
    }

    /// This node, as far as Services see it.
    fn view(&self, node: &Node) -> NodeView {
        let config = &self.ctx.config;
        let addresses = self.ctx.network.addresses().borrow().clone();
        NodeView {
            name: config.node_name.clone(),
            zone: zone(node),
            primary: primary_addresses(&addresses, config.node_address),
            node_ports: NodePortAddresses::of(&config.node_port_addresses),
            service_networks: config.all_service_cidrs(),
            external_ips: config.external_ips,
            reset_gone: config.reset_gone_connections,
            maglev: config.load_balancing == config::LoadBalancing::Maglev,
            localhost_node_ports: config.localhost_node_ports,
            addresses: addresses.into_iter().collect(),
        }
    }

    /// Bring the maps to what the objects ask.
    fn program(&mut self, maps: &dyn ServiceMaps) -> anyhow::Result<()> {
        if self.services.needs_maps() {
            self.services.observe(maps.observe()?, first_generation());
        }
        let started = Instant::now();
        let Outcome {
            plan,
            reports,
            health,
            ..
        } = self.services.plan();
        // The core says these once, whatever becomes of the writes.
        self.tell(reports);
        if health {
            self.ctx
                .network
                .publish_health_checks(self.services.health_checks().clone());
        }
        for write in &plan.writes {
            debug!(?write, "service map");
        }
        maps.write(&plan.writes)?;
        self.route(maps)?;
        takeover::run(&self.ctx, maps)?;
        self.count(started.elapsed(), plan.writes.len());
        // The programs choose anew by themselves: nobody waits for this.
        maps.forget(&plan.gone, &plan.forget_affinity)
    }

    /// Addresses beyond the Service networks reach the dataplane by routes of their own.
    fn route(&mut self, maps: &dyn ServiceMaps) -> anyhow::Result<()> {
        let routes: Vec<_> = self.services.routes().collect();
        if self.routed.as_ref() != Some(&routes) {
            maps.set_routes(&routes)?;
            self.routed = Some(routes);
        }
        Ok(())
    }

    /// Metrics of what was programmed.
    fn count(&mut self, took: Duration, writes: usize) {
        if writes != 0 {
            info!(writes, ?took, "Services programmed");
        }
        self.ctx.metrics.programmed(took);
        for triggered in self.triggered.drain(..) {
            self.ctx.metrics.endpoint_programmed(triggered);
        }
    }

    /// What of a Service is not programmed as its author may expect.
    fn tell(&self, reports: Vec<(Key, Report)>) {
        for (key, report) in reports {
            warn!("Service {key}: {}", report.message);
            let uid = self
                .known_services
                .get(&key)
                .and_then(|service| service.metadata.uid.clone());
            let subject = Subject {
                kind: "Service",
                key,
                uid,
                field: None,
            };
            let event = events::event(
                subject,
                events::WARNING,
                report.reason,
                &report.message,
                Timestamp::now(),
            );
            self.ctx.world.update(|objects| objects.record(event));
        }
    }
}

/// When the change that a slice shows happened.
fn trigger_time(slice: &EndpointSlice) -> Option<Timestamp> {
    slice
        .metadata
        .annotations
        .as_ref()?
        .get(TRIGGER_TIME)?
        .parse()
        .ok()
}

/// Random: generations of Services that follow each other under one id must not meet.
fn first_generation() -> u32 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Wait for a change of something that Services are made of.
async fn concerned(revisions: &mut watch::Receiver<Revisions>, seen: Revisions) {
    let of = |r: &Revisions| (r.services, r.endpoint_slices, r.pods, r.node, r.listed);
    if revisions.wait_for(|now| of(now) != of(&seen)).await.is_err() {
        // The world is gone: the process ends.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
