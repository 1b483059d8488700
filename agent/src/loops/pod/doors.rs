//! The doors a worker goes through, as one value.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;

use super::probing::{Network, Prober};
use crate::{
    config::Config,
    doors::{
        cgroups::{self, Cgroups},
        cri::{Runtime, client::Client},
        store::{FileStore, Store},
        volumes::Volumes,
    },
};

/// Shared by all workers; cheap to clone.
#[derive(Clone)]
pub struct Doors {
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Pods' directories and logs.
    pub volumes: Volumes,
    /// Pods' cgroups.
    pub cgroups: Cgroups,
    /// Network probes.
    pub prober: Arc<dyn Prober>,
    /// What survives a restart.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: fn() -> Timestamp,
    /// containerd's socket, for what CRI cannot do.
    pub socket: PathBuf,
}

impl Doors {
    /// The real ones.
    pub fn open(config: &Config) -> Result<Self, cgroups::Error> {
        Ok(Self {
            runtime: Arc::new(Client::new(&config.containerd)),
            volumes: Volumes::new(&config.root, &config.pod_logs),
            cgroups: Cgroups::detect(&config.cgroup, &config.cgroup_parent)?,
            prober: Arc::new(Network),
            store: Arc::new(FileStore::new(&config.state)),
            clock: Timestamp::now,
            socket: config.containerd.clone(),
        })
    }
}
