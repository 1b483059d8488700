//! Door to the dataplane's maps, as far as Services need it.
//!
//! The network loop loads the programs and publishes the door; the service loop waits for it. The maps stay when the agent ends.

use std::{net::IpAddr, sync::Arc};

use keelson_core::service::{
    health::HealthChecks,
    plan::{Observed, Step},
};
use keelson_dataplane::Dataplane;
use tokio::sync::watch;

/// The Service maps. Calls are a few system calls on memory each, so loops call them directly.
pub trait ServiceMaps: Send + Sync {
    /// Read both maps.
    fn observe(&self) -> anyhow::Result<Observed>;
    /// Do one write.
    fn apply(&self, step: &Step) -> anyhow::Result<()>;
}

impl ServiceMaps for Dataplane {
    fn observe(&self) -> anyhow::Result<Observed> {
        let frontends = self.frontends()?.into_iter().collect();
        let backends = self.backends()?.into_iter().collect();
        Ok(Observed { frontends, backends })
    }

    fn apply(&self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::RemoveFrontend(key) => self.remove_frontend(key).map(drop)?,
            Step::PutFrontend(key, value) => self.put_frontend(key, value)?,
            Step::RemoveBackend(key) => self.remove_backend(key).map(drop)?,
            Step::PutBackend(key, value) => self.put_backend(key, value)?,
            Step::ForgetUdpFlows { service } => {
                self.forget_flows(|key, flow| key.proto == UDP && flow.service == *service)?;
            }
        }
        Ok(())
    }
}

const UDP: u8 = 17;

/// What the network loop has made ready, for the loops that build on it.
#[derive(Debug)]
pub struct NetworkState {
    maps: watch::Sender<Published>,
    addresses: watch::Sender<Vec<IpAddr>>,
    health_checks: watch::Sender<Arc<HealthChecks>>,
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

impl Default for NetworkState {
    fn default() -> Self {
        Self {
            maps: watch::Sender::new(Published::default()),
            addresses: watch::Sender::new(Vec::new()),
            health_checks: watch::Sender::default(),
        }
    }
}

impl NetworkState {
    /// The programs are loaded (again): here is the door.
    pub fn publish_maps(&self, maps: Arc<dyn ServiceMaps>) {
        self.maps.send_replace(Published(Some(maps)));
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
