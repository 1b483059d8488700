//! What each subsystem says of itself; the node loop turns it into the node's conditions.

use std::collections::BTreeMap;

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
