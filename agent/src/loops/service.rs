//! Service loop: allocates addresses and ports, derives EndpointSlices from pods, and keeps the dataplane's maps.
//!
//! Observe: Services, pods, slices (World), allocations (store), the two maps (read once, then followed; read again after a
//! failure and every `RELIST`). Plan: `keelson_core::service`. Apply: store, World, maps. Report: health, events, and the
//! pods revision that the maps reflect, which the pod loop waits for before it stops a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use keelson_core::{
    object::Key,
    service::{
        allocate::{self, Allocation, Allocations, Pools},
        desired::{self, NodeView},
        plan::{self, Observed, Step},
        slices,
    },
};
use tokio::{sync::watch, time};
use tracing::{debug, error, info, warn};

use crate::{
    context::Context,
    doors::{
        dataplane::ServiceMaps,
        store::{FileStore, Store, kind},
    },
    events::{self, Subject},
    health::subsystem,
    world::{Objects, Revisions},
};

/// The maps are read back this often even if nothing failed: somebody else may have written to them.
const RELIST: Duration = Duration::from_secs(300);
/// After a failure the loop tries again this soon, then ever more slowly.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Run until shutdown. What fails is reported and tried again.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let store = FileStore::new(&ctx.config.state);
    ServiceLoop::new(ctx, Box::new(store)).run().await
}

struct ServiceLoop {
    ctx: Context,
    store: Box<dyn Store>,
    pools: Pools,
    /// What each UID holds, as in the store.
    kept: BTreeMap<String, Allocation>,
    /// The maps as last written; `None` = read them first.
    maps: Option<Observed>,
    /// Refusals already told, so that each is told once.
    refused: BTreeMap<Key, String>,
    /// All pods were known once: from then on a pod without a status is a new one.
    pods_known: bool,
}

impl ServiceLoop {
    fn new(ctx: Context, store: Box<dyn Store>) -> Self {
        let (first, last) = ctx.config.node_port_range;
        let pools = Pools {
            addresses: ctx.config.service_cidr,
            node_ports: first..=last,
        };
        Self {
            ctx,
            store,
            pools,
            kept: BTreeMap::new(),
            maps: None,
            refused: BTreeMap::new(),
            pods_known: false,
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        self.kept = self.load();
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
                    self.maps = None;
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_LAST);
                    wait
                }
            };
            tokio::select! {
                () = concerned(&mut revisions, seen) => {}
                _ = door.changed() => self.maps = None,
                _ = addresses.changed() => {}
                () = time::sleep(wait) => self.maps = None,
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    /// Observe, plan, apply, report: once.
    fn round(&mut self, seen: Revisions, maps: Option<&dyn ServiceMaps>) -> anyhow::Result<()> {
        // Before the manifests were read, "no Service" means "not known yet".
        if seen.listed == 0 {
            return Ok(());
        }
        let snapshot = self.ctx.world.snapshot();
        self.pods_known |= snapshot.pods_are_known();
        let filled = self.allocate(&snapshot)?;
        // Endpoints of pods that were not looked at yet stay in the maps: an agent that returns changes only the difference.
        if !self.pods_known {
            self.publish(&filled, None);
            return Ok(());
        }
        let derived = slices::slices(&filled, &snapshot.pods);
        self.publish(&filled, Some(&derived));
        let Some(maps) = maps else { return Ok(()) };
        let mut all: BTreeMap<Key, Arc<EndpointSlice>> = snapshot
            .endpoint_slices
            .into_iter()
            .filter(|(_, slice)| !slices::is_ours(slice))
            .collect();
        all.extend(derived.into_iter().map(|(key, slice)| (key, Arc::new(slice))));
        let node = NodeView {
            name: self.ctx.config.node_name.clone(),
            zone: None,
            addresses: self.ctx.network.addresses().borrow().clone(),
        };
        let desired = desired::desired(&filled, &all, &node);
        self.program(maps, &desired)?;
        self.ctx.world.set_programmed(snapshot.revisions.pods);
        self.ctx.health.set(subsystem::SERVICES, Ok(()));
        Ok(())
    }

    fn program(&mut self, maps: &dyn ServiceMaps, desired: &desired::Desired) -> anyhow::Result<()> {
        let observed = match self.maps.take() {
            Some(observed) => observed,
            None => maps.observe()?,
        };
        let steps = plan::plan(desired, &observed, first_generation());
        let mut observed = observed;
        for step in &steps {
            debug!(?step, "service map");
            maps.apply(step)?;
            follow(&mut observed, step);
        }
        if !steps.is_empty() {
            info!(
                steps = steps.len(),
                groups = desired.groups.len(),
                "Services programmed"
            );
        }
        self.maps = Some(observed);
        Ok(())
    }

    /// Give every Service its address and ports, on disk before anyone sees them. Refused ones are left out.
    fn allocate(&mut self, snapshot: &Objects) -> anyhow::Result<BTreeMap<Key, Arc<Service>>> {
        let Allocations { given, refused } = allocate::allocate(&snapshot.services, &self.kept, &self.pools);
        let mut filled = BTreeMap::new();
        let mut uids = BTreeSet::new();
        for (key, allocation) in &given {
            let Some(service) = snapshot.services.get(key) else {
                continue;
            };
            if let Some(uid) = &service.metadata.uid {
                self.keep(uid, allocation)?;
                uids.insert(uid.clone());
            }
            filled.insert(key.clone(), Arc::new(allocate::fill(service, allocation)));
        }
        // A refused Service keeps what it held, so that it gets it back when the conflict is solved.
        uids.extend(
            refused
                .keys()
                .filter_map(|key| snapshot.services.get(key)?.metadata.uid.clone()),
        );
        let gone: Vec<String> = self
            .kept
            .keys()
            .filter(|uid| !uids.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.store.remove(kind::SERVICES, &uid)?;
            self.kept.remove(&uid);
        }
        self.tell_refused(&refused, snapshot);
        Ok(filled)
    }

    fn keep(&mut self, uid: &str, allocation: &Allocation) -> anyhow::Result<()> {
        if self.kept.get(uid) != Some(allocation) {
            self.store
                .put(kind::SERVICES, uid, &serde_json::to_value(allocation)?)?;
            self.kept.insert(uid.to_owned(), allocation.clone());
        }
        Ok(())
    }

    fn tell_refused(&mut self, refused: &BTreeMap<Key, allocate::Refusal>, snapshot: &Objects) {
        let current: BTreeMap<Key, String> = refused
            .iter()
            .map(|(key, refusal)| (key.clone(), refusal.to_string()))
            .collect();
        for (key, message) in &current {
            if self.refused.get(key) == Some(message) {
                continue;
            }
            warn!("{message}");
            let uid = snapshot
                .services
                .get(key)
                .and_then(|service| service.metadata.uid.clone());
            let subject = Subject {
                kind: "Service",
                key: key.clone(),
                uid,
                field: None,
            };
            let event = events::event(
                subject,
                events::WARNING,
                "FailedAllocation",
                message,
                Timestamp::now(),
            );
            self.ctx.world.update(|objects| objects.record(event));
        }
        self.refused = current;
    }

    /// Write what changed into the World: allocated fields, and our slices where they could be derived.
    fn publish(&self, filled: &BTreeMap<Key, Arc<Service>>, derived: Option<&BTreeMap<Key, EndpointSlice>>) {
        self.ctx.world.update(|objects| {
            for (key, service) in filled {
                // The object may have been replaced since the snapshot: only the allocated fields of the same one are written.
                let current = objects.services.get(key);
                if current.is_some_and(|current| current != service && current.metadata == service.metadata) {
                    objects.services.insert(key.clone(), service.clone());
                    objects.revisions.services += 1;
                }
            }
            let Some(derived) = derived else { return };
            let stale: Vec<Key> = objects
                .endpoint_slices
                .iter()
                .filter(|(key, slice)| slices::is_ours(slice) && !derived.contains_key(*key))
                .map(|(key, _)| key.clone())
                .collect();
            for key in stale {
                objects.endpoint_slices.remove(&key);
                objects.revisions.endpoint_slices += 1;
            }
            for (key, slice) in derived {
                if objects.endpoint_slices.get(key).map(AsRef::as_ref) != Some(slice) {
                    objects
                        .endpoint_slices
                        .insert(key.clone(), Arc::new(slice.clone()));
                    objects.revisions.endpoint_slices += 1;
                }
            }
        });
    }

    /// Allocations on disk. A damaged record costs that Service its place only, and is told.
    fn load(&self) -> BTreeMap<String, Allocation> {
        let records = self.store.list(kind::SERVICES).unwrap_or_else(|failure| {
            error!("reading the allocations of Services: {failure}; Services get new addresses");
            Vec::new()
        });
        let read = |(uid, value): (String, Result<serde_json::Value, _>)| {
            let allocation = value
                .map_err(anyhow::Error::from)
                .and_then(|value| Ok(serde_json::from_value(value)?));
            allocation
                .map_err(|failure| warn!("allocation of Service {uid}: {failure:#}"))
                .ok()
                .map(|a| (uid, a))
        };
        records.into_iter().filter_map(read).collect()
    }
}

/// Random: generations of Services that follow each other under one id must not meet.
fn first_generation() -> u32 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// What a step does to the maps, so that they need not be read after every change.
fn follow(maps: &mut Observed, step: &Step) {
    match *step {
        Step::RemoveFrontend(key) => drop(maps.frontends.remove(&key)),
        Step::PutFrontend(key, value) => drop(maps.frontends.insert(key, value)),
        Step::RemoveBackend(key) => drop(maps.backends.remove(&key)),
        Step::PutBackend(key, value) => drop(maps.backends.insert(key, value)),
        Step::ForgetUdpFlows { .. } => {}
    }
}

/// Wait for a change of something that Services are made of.
async fn concerned(revisions: &mut watch::Receiver<Revisions>, seen: Revisions) {
    let of = |r: &Revisions| (r.services, r.endpoint_slices, r.pods, r.listed);
    if revisions.wait_for(|now| of(now) != of(&seen)).await.is_err() {
        // The world is gone: the process ends.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
