//! What each container should do now. Plan and status both ask here.

mod decide;
mod image;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{self as api, Pod, PodSpec};

use super::{
    backoff::Backoffs,
    observed::{Container, Observed, State},
    spec,
};

/// Why a container does not run, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ContainerCreating`, `CrashLoopBackOff`, `ErrImageNeverPull`, …
    pub reason: String,
    /// For people; may be empty.
    pub message: String,
    /// When it may change by itself.
    pub until: Option<Timestamp>,
}

impl Waiting {
    /// A reason that only something else can end.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
            until: None,
        }
    }

    /// Nothing is wrong: things are being made.
    pub fn is_normal(&self) -> bool {
        self.reason == "ContainerCreating" || self.reason == "PodInitializing"
    }

    fn until(reason: &str, message: impl Into<String>, until: Timestamp) -> Self {
        Self {
            until: Some(until),
            ..Self::new(reason, message)
        }
    }
}

/// Why a running container is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its image changed.
    Changed,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Its sandbox is dead, the runtime lost it, or a newer one of its name is there.
    Lost,
    /// The pod ends.
    Pod,
}

/// What a container should do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it runs, or it ended for good.
    Leave,
    /// Be made and started, as this attempt.
    Start {
        /// Restart count.
        attempt: u32,
    },
    /// Be started: it was made before.
    StartCreated {
        /// The runtime's id.
        id: String,
    },
    /// Be removed: it was made but must not start.
    Remove {
        /// The runtime's id.
        id: String,
    },
    /// Have its image fetched first.
    Pull {
        /// The image.
        image: String,
    },
    /// Be ended; what comes after, the next look decides.
    Kill {
        /// The runtime's id.
        id: String,
        /// Why.
        why: Ended,
    },
    /// Wait.
    Wait(Waiting),
}

/// A pod's view that all decisions share.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its spec.
    pub spec: &'a PodSpec,
    /// The machine.
    pub observed: &'a Observed,
    /// Waits of crashed containers.
    pub backoffs: &'a Backoffs,
    /// Now.
    pub now: Timestamp,
}

impl<'a> View<'a> {
    /// Whether the pod's init containers are done: all of them ended well in the live sandbox, or a regular container was made
    /// there (then they are never run again, even if their records are gone).
    pub fn initialized(&self) -> bool {
        self.first_open_init().is_none()
    }

    /// The init container whose turn it is: the last that was begun, or the one after it. Those before it are done, even if
    /// somebody removed their records.
    pub fn first_open_init(&self) -> Option<&'a api::Container> {
        self.open_inits().first()
    }

    /// The init containers that are not done, in order.
    pub fn open_inits(&self) -> &'a [api::Container] {
        let inits = self.spec.init_containers.as_deref().unwrap_or_default();
        if inits.is_empty() || self.regular_was_made() {
            return &[];
        }
        let Some(last) = inits
            .iter()
            .rposition(|init| self.newest_here(&init.name).is_some())
        else {
            return inits;
        };
        let done = self.newest_here(&inits[last].name).is_some_and(ended_well);
        &inits[last + usize::from(done)..]
    }

    /// The newest record of a name in the sandbox that counts.
    fn newest_here(&self, name: &str) -> Option<&'a Container> {
        let here = self
            .observed
            .of(name)
            .filter(|container| self.counts(&container.sandbox));
        here.max_by_key(|container| container.age())
    }

    fn regular_was_made(&self) -> bool {
        let made =
            |container: &Container| self.counts(&container.sandbox) && container.state != State::Created;
        self.spec
            .containers
            .iter()
            .any(|regular| self.observed.of(&regular.name).any(made))
    }

    /// Records of the live sandbox count; without one those of the newest that was: a pod that is over has none alive.
    fn counts(&self, sandbox: &str) -> bool {
        let newest = || self.observed.sandboxes.iter().max_by_key(|sandbox| sandbox.age());
        let Some(current) = self.observed.sandbox().or_else(newest) else {
            return true;
        };
        current.id == sandbox
    }

    /// Names of all the pod's containers.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        let inits = self.spec.init_containers.iter().flatten();
        inits.chain(&self.spec.containers).map(|one| one.name.as_str())
    }

    /// `Always`, `OnFailure` or `Never`.
    pub fn restart_policy(&self) -> &'a str {
        self.spec.restart_policy.as_deref().unwrap_or("Always")
    }

    /// Whether a container that ended is started again. The exit code does not tell all: one that was ended for its probe has
    /// failed however it exits, and one that was ended for its new image has not run yet.
    pub fn restarts(&self, container: &api::Container, init: bool, latest: &Container) -> bool {
        // A record without a hash is not of our making: nothing can be said of its image.
        if !latest.hash.is_empty() && latest.hash != spec::container_hash(container) {
            return true;
        }
        let failed = latest.exit_code != 0 || failed_probe(container, latest).is_some();
        match self.restart_policy() {
            "Never" => false,
            "OnFailure" => failed,
            // An init container that ended well is done under every policy.
            _ => !init || failed,
        }
    }

    /// Whether the pod has run to its end: a failed init container that is not restarted, or all regular ones ended for good.
    pub fn is_done(&self) -> bool {
        self.observed.terminated || self.ended_by_itself()
    }

    /// The same, by what its containers did alone.
    pub fn ended_by_itself(&self) -> bool {
        self.init_failed() || self.all_ended()
    }

    /// An init container failed for good.
    pub fn init_failed(&self) -> bool {
        self.first_open_init().is_some_and(|init| {
            self.newest_here(&init.name).is_some_and(|newest| {
                newest.state == State::Exited && !ended_well(newest) && !self.restarts(init, true, newest)
            })
        })
    }

    fn all_ended(&self) -> bool {
        let ended = |container: &api::Container| {
            self.observed.latest(&container.name).is_some_and(|latest| {
                latest.state == State::Exited && !self.restarts(container, false, latest)
            })
        };
        !self.spec.containers.is_empty() && self.spec.containers.iter().all(ended)
    }

    /// Whether it is a container's turn: init containers one by one, then all the regular ones.
    pub fn has_turn(&self, container: &api::Container) -> bool {
        let inits = self.spec.init_containers.iter().flatten();
        match self.first_open_init() {
            Some(open) => open.name == container.name,
            None => inits.into_iter().all(|init| init.name != container.name),
        }
    }

    /// When the pod began: as its status says; else (the agent forgot) when its first sandbox was made.
    pub fn began(&self) -> Option<Timestamp> {
        let told = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref());
        told.map(|time| time.0).or_else(|| {
            let made = self.observed.sandboxes.iter().map(|sandbox| sandbox.created_at);
            made.filter(|at| *at > Timestamp::UNIX_EPOCH && *at <= self.now)
                .min()
        })
    }

    /// When `activeDeadlineSeconds` are over.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.began()?
            .checked_add(SignedDuration::from_secs(self.spec.active_deadline_seconds?))
            .ok()
    }

    /// Whether the deadline ends (or ended) the pod. One that came to its own end before is not touched by it.
    pub fn deadline_passed(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| deadline <= self.now && !self.ended_before(deadline))
    }

    fn ended_before(&self, deadline: Timestamp) -> bool {
        let ends = self.observed.containers.iter().map(Container::ended_at);
        self.ended_by_itself() && ends.max().is_some_and(|last| last <= deadline)
    }

    /// The status that was last told of a container.
    pub fn told(&self, name: &str) -> Option<&'a api::ContainerStatus> {
        let status = self.pod.status.as_ref()?;
        status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .flatten()
            .find(|told| told.name == name)
    }

    /// Restart count of a container that has no record: what was told, and one more if it ran by then.
    pub fn attempt_without_record(&self, name: &str) -> u32 {
        let Some(told) = self.told(name) else { return 0 };
        let count = u32::try_from(told.restart_count).unwrap_or(0);
        let ran = told
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        count + u32::from(ran)
    }
}

fn ended_well(container: &Container) -> bool {
    container.state == State::Exited && container.exit_code == 0
}

/// The probe whose verdict ends the container.
pub fn failed_probe(container: &api::Container, latest: &Container) -> Option<Ended> {
    if container.startup_probe.is_some() && latest.startup == Some(false) {
        return Some(Ended::Startup);
    }
    (container.liveness_probe.is_some() && latest.liveness == Some(false)).then_some(Ended::Liveness)
}
