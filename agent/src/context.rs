//! What every loop is handed.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    config::Config,
    doors::dataplane::NetworkState,
    health::{Health, ProxyHealth},
    metrics::Metrics,
    world::World,
};

/// Shared by all loops; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The node's configuration.
    pub config: Arc<Config>,
    /// The objects.
    pub world: Arc<World>,
    /// What the node's Ready condition is made of.
    pub health: Arc<Health>,
    /// Whether Services are programmed as fast as they change.
    pub proxy: Arc<ProxyHealth>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the network loop has made ready: the dataplane's maps, the node's addresses.
    pub network: Arc<NetworkState>,
    /// Becomes true when the agent is to stop. Pods and traffic go on.
    pub shutdown: watch::Receiver<bool>,
}
