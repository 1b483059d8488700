//! What the machine shows of a pod.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;

/// All that is known of a pod besides its object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The runtime's network is not ready, and why. Does not concern pods on the host's network.
    pub network: Option<String>,
    /// The pod's cgroup is made, or cannot be.
    pub cgroup: Prepared,
    /// The pod's volumes are made, or cannot be.
    pub volumes: Volumes,
    /// The pod's sandboxes in the runtime, in any order.
    pub sandboxes: Vec<Sandbox>,
    /// The pod's containers in the runtime, in any order, dead ones too.
    pub containers: Vec<Container>,
    /// Images by the name that the pod uses.
    pub images: BTreeMap<String, ImageState>,
    /// Containers that cannot be described to the runtime yet (a missing ConfigMap key, …), and why.
    pub config_errors: BTreeMap<String, String>,
    /// Containers that the runtime refused to make or start.
    pub start_errors: BTreeMap<String, StartError>,
    /// The sandbox could not be made.
    pub sandbox_error: Option<Trouble>,
    /// Containers being ended now, and when the runtime will kill them at the latest.
    pub killing: BTreeMap<String, Timestamp>,
    /// The dataplane has taken the terminating pod out of its Services.
    pub endpoints_acknowledged: bool,
    /// Durable mark: the pod reached its end and never runs again.
    pub terminated: bool,
    /// The node refused the pod for good: reason and message.
    pub rejected: Option<(String, String)>,
    /// Addresses of the node, for pods on the host's network.
    pub host_ips: Vec<IpAddr>,
}

/// Something that is made once and may fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prepared {
    /// Not tried yet.
    #[default]
    No,
    /// There.
    Yes,
    /// Failed; tried again at the time given.
    Failed(Trouble),
}

/// Volumes are prepared as a whole.
pub type Volumes = Prepared;

/// Why something failed, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For people.
    pub message: String,
    /// Not before.
    pub retry_at: Timestamp,
}

/// The runtime refused a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// `CreateContainerError`, `RunContainerError` or `PostStartHookError`.
    pub reason: String,
    /// What it said, and when to try again.
    pub trouble: Trouble,
}

/// A sandbox in the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// 0 for the pod's first.
    pub attempt: u32,
    /// Its process and network are there.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses, primary first.
    pub ips: Vec<IpAddr>,
}

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, not started: the agent ended in between.
    Created,
    /// Runs.
    Running,
    /// Ended.
    Exited,
    /// The runtime lost it.
    Unknown,
}

/// A container in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Restart count when it was made.
    pub attempt: u32,
    /// The sandbox it belongs to.
    pub sandbox: String,
    /// State.
    pub state: State,
    /// Hash of what it was made from ([`crate::pod::spec::container_hash`]).
    pub hash: String,
    /// Image as the pod named it.
    pub image: String,
    /// Image as the runtime names it.
    pub image_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// The runtime's word for that: `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// Its last word.
    pub message: String,
    /// Verdicts of its probes; `None` = no verdict yet (or no such probe).
    pub startup: Option<bool>,
    /// Readiness.
    pub readiness: Option<bool>,
    /// Liveness.
    pub liveness: Option<bool>,
}

/// An image that the pod wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageState {
    /// It is in the runtime's store.
    pub present: bool,
    /// Where fetching it stands.
    pub pull: Pull,
}

/// Where fetching an image stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// Not asked for since the container last started.
    #[default]
    Idle,
    /// Under way.
    Running,
    /// Fetched since the container last started: what `imagePullPolicy: Always` asks for.
    Done,
    /// Failed.
    Failed(Trouble),
}

impl Sandbox {
    /// The greater, the newer. The id only makes the order of the list meaningless.
    pub fn age(&self) -> (u32, Timestamp, &str) {
        (self.attempt, self.created_at, &self.id)
    }
}

impl Container {
    /// The greater, the newer. The id only makes the order of the list meaningless.
    pub fn age(&self) -> (u32, Timestamp, &str) {
        (self.attempt, self.created_at, &self.id)
    }

    /// It has processes, or may have.
    pub fn is_alive(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }

    /// When it ended; where the runtime does not say, when it was made.
    pub fn ended_at(&self) -> Timestamp {
        self.finished_at.unwrap_or(self.created_at)
    }
}

impl Observed {
    /// The newest sandbox that is ready.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
            .max_by_key(|sandbox| sandbox.age())
    }

    /// The newest container of a name.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.of(name).max_by_key(|container| container.age())
    }

    /// The newest container of a name that ended, other than `except`.
    pub fn previous(&self, name: &str, except: Option<&str>) -> Option<&Container> {
        let ended = self.of(name).filter(|container| container.state == State::Exited);
        ended
            .filter(|container| Some(container.id.as_str()) != except)
            .max_by_key(|container| container.age())
    }

    /// All containers of a name.
    pub fn of<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Container> + use<'a, 'n> {
        self.containers
            .iter()
            .filter(move |container| container.name == name)
    }
}
