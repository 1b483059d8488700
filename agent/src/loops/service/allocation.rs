//! Addresses and ports of Services: given once, kept on disk, written into the objects; and the slices that follow from pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use keelson_core::{
    object::Key,
    service::{
        allocate::{self, Allocation, Allocations, Pools},
        slices,
    },
};
use tracing::{error, warn};

use crate::{
    context::Context,
    doors::store::{Store, kind},
    events::{self, Subject},
    world::Objects,
};

/// What Services hold, in memory and on disk.
pub(super) struct Allocator {
    pools: Pools,
    store: Box<dyn Store>,
    /// What each UID holds, as in the store.
    kept: BTreeMap<String, Allocation>,
    /// Refusals already told, so that each is told once.
    refused: BTreeMap<Key, String>,
}

impl Allocator {
    /// With the node's pools; nothing is read yet.
    pub fn new(ctx: &Context, store: Box<dyn Store>) -> Self {
        let (first, last) = ctx.config.node_port_range;
        let pools = Pools {
            addresses: ctx.config.service_cidr,
            addresses_v6: ctx.config.service_cidr_v6(),
            node_ports: first..=last,
        };
        Self {
            pools,
            store,
            kept: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Give every Service its address and ports, on disk before anyone sees them. Refused ones are left out.
    pub fn allocate(
        &mut self,
        ctx: &Context,
        snapshot: &Objects,
    ) -> anyhow::Result<BTreeMap<Key, Arc<Service>>> {
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
        self.tell_refused(ctx, &refused, snapshot);
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

    fn tell_refused(
        &mut self,
        ctx: &Context,
        refused: &BTreeMap<Key, allocate::Refusal>,
        snapshot: &Objects,
    ) {
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
            ctx.world.update(|objects| objects.record(event));
        }
        self.refused = current;
    }

    /// Read what is on disk. A damaged record costs that Service its place only, and is told.
    pub fn load(&mut self) {
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
        self.kept = records.into_iter().filter_map(read).collect();
    }
}

/// Write what changed into the World: allocated fields, and our slices where they could be derived. Returns the revision of Services
/// before and after.
pub(super) fn publish(
    ctx: &Context,
    filled: &BTreeMap<Key, Arc<Service>>,
    derived: Option<&BTreeMap<Key, EndpointSlice>>,
) -> (u64, u64) {
    ctx.world.update(|objects| {
        let before = objects.revisions.services;
        for (key, service) in filled {
            // The object may have been replaced since the snapshot: only the allocated fields of the same one are written.
            let current = objects.services.get(key);
            if current.is_some_and(|current| current != service && current.metadata == service.metadata) {
                objects.services.insert(key.clone(), service.clone());
                objects.revisions.services += 1;
            }
        }
        let revisions = (before, objects.revisions.services);
        let Some(derived) = derived else { return revisions };
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
        revisions
    })
}
