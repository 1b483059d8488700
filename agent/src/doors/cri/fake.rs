//! A perfect runtime in memory: does what it is told, keeps what a real one keeps, and fails on demand.

mod runtime;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use keelson_proto::cri::{ContainerConfig, ContainerState, PodSandboxConfig, PodSandboxState};
use tokio::sync::mpsc;

use super::{Error, ErrorKind, Output};
use crate::doors::containerd::Event;

/// The runtime; clones share it.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Inner>>);

/// What it holds.
#[derive(Default)]
pub struct Inner {
    /// Sandboxes by id.
    pub sandboxes: BTreeMap<String, (PodSandboxConfig, PodSandboxState)>,
    /// Containers by id.
    pub containers: BTreeMap<String, Held>,
    /// Images that are there.
    pub images: Vec<String>,
    /// Calls so far: operation and object.
    pub calls: Vec<String>,
    /// Calls to fail: operation, how often, what kind, and whether the deed is done all the same.
    pub faults: VecDeque<Fault>,
    /// What commands give, by first word.
    pub commands: BTreeMap<String, Output>,
    /// Address of a streaming server; empty = nobody listens.
    pub streaming: String,
    /// Exit events go here.
    pub events: Option<mpsc::Sender<Event>>,
    /// What containers exit with when they are stopped; by default the signal's.
    pub stopped: Option<i32>,
    /// Not to be reached.
    pub down: bool,
    next: u32,
}

/// A container.
#[derive(Clone)]
pub struct Held {
    /// As it was created.
    pub config: ContainerConfig,
    /// Its sandbox.
    pub sandbox: String,
    /// Its state.
    pub state: ContainerState,
    /// Its exit code.
    pub code: i32,
    /// Nanoseconds: made, started, ended.
    pub times: [i64; 3],
}

/// A failure to come.
#[derive(Clone)]
pub struct Fault {
    /// The call.
    pub operation: &'static str,
    /// What is told.
    pub kind: ErrorKind,
    /// The call takes effect, and only its answer is lost.
    pub done: bool,
}

impl Fake {
    /// With these images.
    pub fn new(images: &[&str]) -> Self {
        let fake = Self::default();
        fake.lock().images = images.iter().map(|&name| name.to_owned()).collect();
        fake
    }

    /// Look inside, or change it.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panicked inside")
    }

    /// Let the next call of this name fail.
    pub fn fail(&self, operation: &'static str, kind: ErrorKind, done: bool) {
        self.lock().faults.push_back(Fault {
            operation,
            kind,
            done,
        });
    }

    /// A container's main process ends.
    pub fn exit(&self, id: &str, code: i32) {
        let events = {
            let mut inner = self.lock();
            if let Some(container) = inner.containers.get_mut(id) {
                container.end(code);
            }
            inner.events.clone()
        };
        if let Some(events) = events {
            let _ = events.try_send(Event::Exit {
                container: id.to_owned(),
            });
        }
    }

    /// Ids of running containers of this name.
    pub fn running(&self, name: &str) -> Vec<String> {
        let inner = self.lock();
        let running = inner.containers.iter().filter(|(_, container)| {
            container.state == ContainerState::ContainerRunning && container.name() == name
        });
        running.map(|(id, _)| id.clone()).collect()
    }

    /// How often a call was made.
    pub fn count(&self, operation: &str) -> usize {
        self.lock()
            .calls
            .iter()
            .filter(|call| call.split(' ').next() == Some(operation))
            .count()
    }

    /// Note the call; `Err` = it fails without effect, `Ok(Some)` = it takes effect and fails then.
    fn enter(&self, operation: &'static str, object: &str) -> Result<Option<Error>, Error> {
        let mut inner = self.lock();
        inner.calls.push(format!("{operation} {object}"));
        let error = |kind| Error {
            operation,
            object: object.to_owned(),
            kind,
            message: "the test asked for this".to_owned(),
        };
        if inner.down {
            return Err(error(ErrorKind::Unavailable));
        }
        let Some(at) = inner.faults.iter().position(|fault| fault.operation == operation) else {
            return Ok(None);
        };
        let Some(fault) = inner.faults.remove(at) else {
            return Ok(None);
        };
        if fault.done {
            Ok(Some(error(fault.kind)))
        } else {
            Err(error(fault.kind))
        }
    }
}

impl Inner {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    fn missing(operation: &'static str, id: &str) -> Error {
        let kind = ErrorKind::NotFound;
        Error {
            operation,
            object: id.to_owned(),
            kind,
            message: "not found".to_owned(),
        }
    }
}

impl Held {
    fn name(&self) -> &str {
        self.config
            .metadata
            .as_ref()
            .map_or("", |metadata| &metadata.name)
    }

    fn end(&mut self, code: i32) {
        if self.state == ContainerState::ContainerRunning {
            self.state = ContainerState::ContainerExited;
            self.code = code;
            self.times[2] = now();
        }
    }
}

/// The time of day, as far as it moves with the runtime's own clock: tests stop that one.
pub fn clock() -> jiff::Timestamp {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let start = *START.get_or_init(std::time::Instant::now);
    let passed = tokio::time::Instant::now()
        .into_std()
        .saturating_duration_since(start);
    let base = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
    base + jiff::SignedDuration::try_from(passed).expect("short")
}

fn now() -> i64 {
    clock().as_nanosecond() as i64
}

fn after<T>(late: Option<Error>, value: T) -> Result<T, Error> {
    late.map_or(Ok(value), Err)
}
