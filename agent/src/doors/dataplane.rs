//! Door to the dataplane's maps, as far as Services need it.
//!
//! The network loop loads the programs and publishes the door; the service loop waits for it. The maps stay when the agent ends.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use keelson_core::service::{
    health::HealthChecks,
    plan::{Gone, Observed, Write},
};
use keelson_dataplane::{BatchMap, Dataplane, Plain, TakenOver};
use tokio::sync::watch;

use super::programs::Programs;

/// The Service maps. Calls are a few system calls on memory each, however much is written.
pub trait ServiceMaps: Send + Sync {
    /// Read all maps.
    fn observe(&self) -> anyhow::Result<Observed>;
    /// Do these writes, in this order.
    fn write(&self, writes: &[Write]) -> anyhow::Result<()>;
    /// Delete UDP flows to endpoints that stopped serving, and the affinity of clients of these ids. Looks at whole tables.
    fn forget(&self, gone: &BTreeSet<Gone>, affinity: &BTreeSet<u32>) -> anyhow::Result<()>;
    /// Routes of the host to these addresses, by way of the dataplane; those of earlier ones go.
    fn set_routes(&self, addresses: &[IpAddr]) -> anyhow::Result<()>;
    /// Services are programmed: from now on packets are the programs', with the connections that another proxy has made. `None`:
    /// they have been since before.
    fn take_over(&self) -> anyhow::Result<Option<TakenOver>>;
}

impl ServiceMaps for Dataplane {
    fn observe(&self) -> anyhow::Result<Observed> {
        let tables = self.service_tables()?;
        let members = tables.members.list()?.into_iter();
        let ranges = tables.ranges.list()?.into_iter();
        Ok(Observed {
            frontends: tables.frontends.list()?.into_iter().collect(),
            backends: tables.backends.list()?.into_iter().collect(),
            members: members
                .map(|(key, member)| ((key.service, key), member))
                .collect(),
            maglev: tables.maglev.list()?.into_iter().map(|(key, _)| key).collect(),
            ranges: ranges
                .map(|(key, _)| (u32::from_be(key.service_be), key))
                .collect(),
        })
    }

    fn write(&self, writes: &[Write]) -> anyhow::Result<()> {
        let tables = self.service_tables()?;
        // Neighbours of one kind are one call.
        for run in writes.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b)) {
            match run.first() {
                Some(Write::PutFrontend(..)) => put(&tables.frontends, run, |write| match write {
                    Write::PutFrontend(key, value) => Some((*key, *value)),
                    _ => None,
                })?,
                Some(Write::PutBackend(..)) => put(&tables.backends, run, |write| match write {
                    Write::PutBackend(key, value) => Some((*key, *value)),
                    _ => None,
                })?,
                Some(Write::PutMember(..)) => put(&tables.members, run, |write| match write {
                    Write::PutMember(key, value) => Some((*key, *value)),
                    _ => None,
                })?,
                Some(Write::PutMaglev(..)) => put(&tables.maglev, run, |write| match write {
                    Write::PutMaglev(key, value) => Some((*key, **value)),
                    _ => None,
                })?,
                Some(Write::PutRange(..)) => put(&tables.ranges, run, |write| match write {
                    Write::PutRange(key) => Some((*key, 1)),
                    _ => None,
                })?,
                Some(Write::RemoveFrontend(_)) => remove(&tables.frontends, run, |write| match write {
                    Write::RemoveFrontend(key) => Some(*key),
                    _ => None,
                })?,
                Some(Write::RemoveBackend(_)) => remove(&tables.backends, run, |write| match write {
                    Write::RemoveBackend(key) => Some(*key),
                    _ => None,
                })?,
                Some(Write::RemoveMember(_)) => remove(&tables.members, run, |write| match write {
                    Write::RemoveMember(key) => Some(*key),
                    _ => None,
                })?,
                Some(Write::RemoveMaglev(_)) => remove(&tables.maglev, run, |write| match write {
                    Write::RemoveMaglev(key) => Some(*key),
                    _ => None,
                })?,
                Some(Write::RemoveRange(_)) => remove(&tables.ranges, run, |write| match write {
                    Write::RemoveRange(key) => Some(*key),
                    _ => None,
                })?,
                None => {}
            }
        }
        Ok(())
    }

    fn forget(&self, gone: &BTreeSet<Gone>, affinity: &BTreeSet<u32>) -> anyhow::Result<()> {
        if !gone.is_empty() {
            let ends: BTreeSet<_> = gone
                .iter()
                .map(|one| (one.service, one.endpoint.addr, one.endpoint.port_be))
                .collect();
            self.forget_flows(|key, flow| {
                key.proto == UDP && ends.contains(&(flow.service, flow.other.dst, flow.other.dport_be))
            })?;
        }
        if !affinity.is_empty() {
            let tables = self.service_tables()?;
            let entries = tables.affinity.list()?.into_iter().map(|(key, _)| key);
            let stale: Vec<_> = entries.filter(|key| affinity.contains(&key.service)).collect();
            tables.affinity.remove(&stale)?;
        }
        Ok(())
    }

    fn set_routes(&self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        Ok(self.set_host_routes(addresses)?)
    }

    fn take_over(&self) -> anyhow::Result<Option<TakenOver>> {
        Ok(self.take_over()?)
    }
}

fn put<K: Plain, V: Plain>(
    map: &BatchMap<K, V>,
    run: &[Write],
    entry: fn(&Write) -> Option<(K, V)>,
) -> anyhow::Result<()> {
    Ok(map.put(run.iter().filter_map(entry))?)
}

fn remove<K: Plain, V: Plain>(
    map: &BatchMap<K, V>,
    run: &[Write],
    key: fn(&Write) -> Option<K>,
) -> anyhow::Result<()> {
    let keys: Vec<K> = run.iter().filter_map(key).collect();
    Ok(map.remove(&keys)?)
}

const UDP: u8 = 17;

/// What the network loop has made ready, for the loops that build on it.
pub struct NetworkState {
    maps: watch::Sender<Published>,
    addresses: watch::Sender<Vec<IpAddr>>,
    health_checks: watch::Sender<Arc<HealthChecks>>,
    programs: RwLock<Option<Arc<dyn Programs>>>,
}

/// The door, once the programs are loaded.
#[derive(Clone, Default)]
pub struct Published(pub Option<Arc<dyn ServiceMaps>>);

impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Published(ready)"
        } else {
            "Published(not ready)"
        })
    }
}

impl std::fmt::Debug for NetworkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkState")
            .field("maps", &*self.maps.borrow())
            .field("addresses", &*self.addresses.borrow())
            .finish_non_exhaustive()
    }
}

impl Default for NetworkState {
    fn default() -> Self {
        Self {
            maps: watch::Sender::new(Published::default()),
            addresses: watch::Sender::new(Vec::new()),
            health_checks: watch::Sender::default(),
            programs: RwLock::new(None),
        }
    }
}

impl NetworkState {
    /// The programs are loaded (again): here is the door.
    pub fn publish_maps(&self, maps: Arc<dyn ServiceMaps>) {
        self.maps.send_replace(Published(Some(maps)));
    }

    /// The programs are loaded (again): here is who can ask them.
    pub fn publish_programs(&self, programs: Arc<dyn Programs>) {
        *self.programs.write().unwrap_or_else(PoisonError::into_inner) = Some(programs);
    }

    /// The loaded programs, once there are any.
    pub fn programs(&self) -> Option<Arc<dyn Programs>> {
        self.programs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The node's own addresses, on all uplinks.
    pub fn publish_addresses(&self, addresses: Vec<IpAddr>) {
        self.addresses.send_if_modified(|current| {
            let changed = *current != addresses;
            *current = addresses;
            changed
        });
    }

    /// Wait for the door.
    pub fn maps(&self) -> watch::Receiver<Published> {
        self.maps.subscribe()
    }

    /// Watch the addresses.
    pub fn addresses(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.addresses.subscribe()
    }

    /// What the `healthCheckNodePort` servers are to answer, told by the service loop.
    pub fn publish_health_checks(&self, checks: HealthChecks) {
        self.health_checks.send_if_modified(|current| {
            let changed = **current != checks;
            if changed {
                *current = Arc::new(checks);
            }
            changed
        });
    }

    /// Watch what the `healthCheckNodePort` servers are to answer.
    pub fn health_checks(&self) -> watch::Receiver<Arc<HealthChecks>> {
        self.health_checks.subscribe()
    }
}
