//! Probes of running containers: one task each, for as long as the container runs.
//!
//! A task asks, counts, and puts verdicts on a board; the pod's worker is poked when one changes and reads the board.
//! Nothing else is shared. A verdict that ends the container (liveness, startup) ends the task as well: the next
//! container gets a new one.
//!
//! A container that is not ready yet is asked more often than its period says, so that one which starts fast is ready
//! fast: 100 ms after the first try, then ever later. These early failures are not counted and not told.

mod task;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::{task::JoinHandle, time::Instant};

pub use self::task::port;
use self::task::{Counter, Task};
use super::roster::Poke;
use crate::doors::{
    cri::Runtime,
    probes::{Outcome, Target},
};

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Until it succeeds, the other two wait.
    Startup,
    /// Failure: the container is restarted.
    Liveness,
    /// Failure: the pod gets no traffic.
    Readiness,
}

impl Kind {
    /// As it is written in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// A container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Carries out network probes; a fake one in tests.
#[tonic::async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Ask once.
    async fn probe(&self, target: &Target, limit: Duration) -> Outcome;
}

/// The real prober.
pub struct Network;

#[tonic::async_trait]
impl Prober for Network {
    async fn probe(&self, target: &Target, limit: Duration) -> Outcome {
        crate::doors::probes::probe(target, limit).await
    }
}

/// Verdicts of all probes by container id and kind. What is absent was not decided yet.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<(String, Kind), bool>>>);

impl Board {
    /// A verdict, where there is one.
    pub fn get(&self, container: &str, kind: Kind) -> Option<bool> {
        self.lock().get(&(container.to_owned(), kind)).copied()
    }

    /// Put a verdict up (from a task, or from before a restart of the agent).
    pub fn set(&self, container: &str, kind: Kind, good: bool) {
        self.lock().insert((container.to_owned(), kind), good);
    }

    /// Forget all containers but these. Verdicts outlive the container: they tell why it was ended.
    pub fn only(&self, known: impl Fn(&str) -> bool) {
        self.lock().retain(|(id, _), _| known(id));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, Kind), bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task needs to know.
#[derive(Clone)]
pub struct Subject {
    /// The container's id in the runtime.
    pub id: String,
    /// Its part of the pod.
    pub container: Container,
    /// The pod's address: where probes go that name no host.
    pub address: String,
    /// When it started.
    pub started: Instant,
}

/// Told of failures, for events.
pub type Teller = Arc<dyn Fn(&Subject, Kind, String) + Send + Sync>;

/// The probes of one pod.
pub struct Probes {
    tasks: HashMap<(String, Kind), JoinHandle<()>>,
    /// Verdicts.
    pub board: Board,
    runtime: Arc<dyn Runtime>,
    prober: Arc<dyn Prober>,
    poke: Poke,
    tell: Teller,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Probes {
    /// None yet.
    pub fn new(runtime: Arc<dyn Runtime>, prober: Arc<dyn Prober>, poke: Poke, tell: Teller) -> Self {
        Self {
            tasks: HashMap::new(),
            board: Board::default(),
            runtime,
            prober,
            poke,
            tell,
        }
    }

    /// Let exactly the probes of these containers run. `terminating`: only readiness goes on.
    pub fn keep(&mut self, subjects: &[Subject], terminating: bool) {
        let mut wanted = BTreeSet::new();
        for subject in subjects {
            let started = Kind::Startup.of(&subject.container).is_none()
                || self.board.get(&subject.id, Kind::Startup) == Some(true);
            let kinds: &[Kind] = match (terminating, started) {
                (true, true) => &[Kind::Readiness],
                (true, false) => &[],
                (false, true) => &[Kind::Liveness, Kind::Readiness],
                (false, false) => &[Kind::Startup],
            };
            for &kind in kinds {
                if let Some(probe) = kind.of(&subject.container) {
                    wanted.insert((subject.id.clone(), kind));
                    self.start(subject, kind, probe);
                }
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
    }

    fn start(&mut self, subject: &Subject, kind: Kind, probe: &Probe) {
        let key = (subject.id.clone(), kind);
        if self.tasks.contains_key(&key) {
            return;
        }
        let task = Task {
            subject: subject.clone(),
            kind,
            probe: probe.clone(),
            counter: Counter::new(probe, self.board.get(&subject.id, kind)),
            board: self.board.clone(),
            runtime: self.runtime.clone(),
            prober: self.prober.clone(),
            poke: self.poke.clone(),
            tell: self.tell.clone(),
        };
        self.tasks.insert(key, tokio::spawn(task.run()));
    }
}

#[cfg(test)]
mod tests;
