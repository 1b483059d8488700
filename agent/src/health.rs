//! What each subsystem says of itself; the node loop turns it into the node's conditions.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use keelson_core::health::{Family, Progresses, Verdict};
use tokio::sync::watch;

/// Names of the subsystems that report.
pub mod subsystem {
    /// The container runtime (CRI).
    pub const RUNTIME: &str = "runtime";
    /// The pod network: dataplane loaded, plugin configured.
    pub const NETWORK: &str = "network";
    /// Services are programmed.
    pub const SERVICES: &str = "services";
}

/// Subsystem → what is wrong with it; absent = has not reported yet.
#[derive(Debug)]
pub struct Health {
    states: watch::Sender<BTreeMap<&'static str, Result<(), String>>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            states: watch::Sender::new(BTreeMap::new()),
        }
    }
}

impl Health {
    /// Report a subsystem's state.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        self.states
            .send_if_modified(|states| states.insert(name, state.clone()).as_ref() != Some(&state));
    }

    /// Watch all states.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<&'static str, Result<(), String>>> {
        self.states.subscribe()
    }
}

/// Whether the service proxy keeps up with what it is told: written by the service loop, read by whoever answers for it.
#[derive(Debug)]
pub struct ProxyHealth {
    began: Instant,
    limit: Duration,
    progresses: Mutex<Progresses>,
}

impl Default for ProxyHealth {
    fn default() -> Self {
        Self::new(Duration::from_secs(30), &[Family::V4])
    }
}

impl ProxyHealth {
    /// A proxy for these families that is unhealthy once a change waited for two periods.
    pub fn new(sync_period: Duration, families: &[Family]) -> Self {
        let mut progresses = Progresses::default();
        progresses.expect(families);
        Self {
            began: Instant::now(),
            limit: sync_period * 2,
            progresses: Mutex::new(progresses),
        }
    }

    /// A change is to be programmed.
    pub fn queued(&self) {
        self.lock().queued(self.began.elapsed());
    }

    /// All that was told is programmed.
    pub fn updated(&self) {
        self.lock().updated(Timestamp::now());
    }

    /// What it is now.
    pub fn verdict(&self) -> Verdict {
        self.lock()
            .verdict(self.began.elapsed(), Timestamp::now(), self.limit)
    }

    fn lock(&self) -> MutexGuard<'_, Progresses> {
        // No change of it can be left half done.
        self.progresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
