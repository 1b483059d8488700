//! What each container should do now. Plan and status both ask here.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as api, Pod, PodSpec};

use super::{
    backoff::{self, Backoffs},
    observed::{Container, Observed, Prepared, Pull, State, Trouble},
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
    /// Its sandbox is dead, or the runtime lost it.
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

    /// The init container whose turn it is.
    pub fn first_open_init(&self) -> Option<&'a api::Container> {
        let inits = self.spec.init_containers.as_deref().unwrap_or_default();
        if inits.is_empty() || self.regular_was_made() {
            return None;
        }
        inits.iter().find(|init| !self.init_succeeded(&init.name))
    }

    /// Whether an init container ended well in the sandbox that counts.
    pub fn init_succeeded(&self, name: &str) -> bool {
        let here = |container: &&Container| self.counts(&container.sandbox);
        let newest = self
            .observed
            .of(name)
            .filter(here)
            .max_by_key(|container| container.attempt);
        newest.is_some_and(|container| container.state == State::Exited && container.exit_code == 0)
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
        let newest = || {
            self.observed
                .sandboxes
                .iter()
                .max_by_key(|sandbox| sandbox.attempt)
        };
        let Some(current) = self.observed.sandbox().or_else(newest) else {
            return true;
        };
        current.id == sandbox
    }

    /// `Always`, `OnFailure` or `Never`.
    pub fn restart_policy(&self) -> &'a str {
        self.spec.restart_policy.as_deref().unwrap_or("Always")
    }

    /// Whether a container that ended is started again.
    pub fn restarts(&self, init: bool, exit_code: i32) -> bool {
        match self.restart_policy() {
            "Never" => false,
            "OnFailure" => exit_code != 0,
            // An init container that ended well is done under every policy.
            _ => !init || exit_code != 0,
        }
    }

    /// Whether the pod has run to its end: a failed init container that is not restarted, or all regular ones ended for good.
    pub fn is_done(&self) -> bool {
        self.observed.terminated || self.init_failed() || self.all_ended()
    }

    /// An init container failed for good.
    pub fn init_failed(&self) -> bool {
        self.first_open_init().is_some_and(|init| {
            self.observed.latest(&init.name).is_some_and(|container| {
                container.state == State::Exited
                    && self.counts(&container.sandbox)
                    && container.exit_code != 0
                    && !self.restarts(true, container.exit_code)
            })
        })
    }

    fn all_ended(&self) -> bool {
        let ended = |container: &api::Container| {
            self.observed.latest(&container.name).is_some_and(|latest| {
                latest.state == State::Exited && !self.restarts(false, latest.exit_code)
            })
        };
        !self.spec.containers.is_empty() && self.spec.containers.iter().all(ended)
    }

    /// What a container of the pod should do now, with the pod meant to run.
    pub fn decide(&self, container: &'a api::Container, init: bool) -> Decision {
        let Some(latest) = self.observed.latest(&container.name) else {
            return self.start(container, 0);
        };
        let here = self
            .observed
            .sandbox()
            .is_some_and(|sandbox| sandbox.id == latest.sandbox);
        match latest.state {
            State::Created if here && latest.hash == spec::container_hash(container) => self
                .startable(container)
                .map_or_else(Decision::Wait, |()| Decision::StartCreated {
                    id: latest.id.clone(),
                }),
            State::Created => Decision::Remove {
                id: latest.id.clone(),
            },
            State::Running if self.observed.killing.contains_key(&latest.id) => Decision::Leave,
            State::Running => self
                .ended(container, latest, here)
                .map_or(Decision::Leave, |why| self.kill(latest, why)),
            State::Unknown => self.kill(latest, Ended::Lost),
            State::Exited if init && here && latest.exit_code == 0 => Decision::Leave,
            State::Exited if !here && init => self.start(container, latest.attempt + 1),
            State::Exited if self.restarts(init, latest.exit_code) => self.restart(container, latest),
            State::Exited => Decision::Leave,
        }
    }

    fn kill(&self, container: &Container, why: Ended) -> Decision {
        Decision::Kill {
            id: container.id.clone(),
            why,
        }
    }

    fn ended(&self, container: &api::Container, latest: &Container, here: bool) -> Option<Ended> {
        if !here {
            return Some(Ended::Lost);
        }
        if latest.hash != spec::container_hash(container) {
            return Some(Ended::Changed);
        }
        if container.startup_probe.is_some() && latest.startup == Some(false) {
            return Some(Ended::Startup);
        }
        (container.liveness_probe.is_some() && latest.liveness == Some(false)).then_some(Ended::Liveness)
    }

    fn restart(&self, container: &'a api::Container, latest: &Container) -> Decision {
        let image = container.image.as_deref().unwrap_or_default();
        let key = backoff::key(&container.name, image);
        let finished = latest.finished_at.unwrap_or(latest.created_at);
        match self.backoffs.until(&key, latest.started_at, finished) {
            Some(until) if until > self.now => {
                let seconds = self.backoffs.wait(&key).as_secs();
                let name = &container.name;
                let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
                let message = format!("back-off {seconds}s restarting failed container={name} pod={pod}");
                Decision::Wait(Waiting::until("CrashLoopBackOff", message, until))
            }
            _ => self.start(container, latest.attempt + 1),
        }
    }

    /// Start, if all that a start needs is there.
    fn start(&self, container: &'a api::Container, attempt: u32) -> Decision {
        if let Err(waiting) = self.startable(container) {
            return Decision::Wait(waiting);
        }
        let image = container.image.as_deref().unwrap_or_default();
        match self.image(container, image) {
            Err(decision) => decision,
            Ok(()) => Decision::Start { attempt },
        }
    }

    fn startable(&self, container: &api::Container) -> Result<(), Waiting> {
        let creating = || self.creating(container);
        let network = self
            .observed
            .network
            .as_ref()
            .filter(|_| !self.spec.host_network.unwrap_or(false));
        if let (Some(message), None) = (network, self.observed.sandbox()) {
            return Err(Waiting::new(
                "ContainerCreating",
                format!("network is not ready: {message}"),
            ));
        }
        if let Some(Trouble { message, retry_at }) = &self.observed.sandbox_error {
            return Err(Waiting::until("ContainerCreating", message, *retry_at));
        }
        if self.observed.sandbox().is_none() {
            return Err(creating());
        }
        for prepared in [&self.observed.cgroup, &self.observed.volumes] {
            match prepared {
                Prepared::Yes => {}
                Prepared::No => return Err(creating()),
                Prepared::Failed(Trouble { message, retry_at }) => {
                    return Err(Waiting::until("ContainerCreating", message, *retry_at));
                }
            }
        }
        if let Some(message) = self.observed.config_errors.get(&container.name) {
            return Err(Waiting::new("CreateContainerConfigError", message));
        }
        if let Some(error) = self
            .observed
            .start_errors
            .get(&container.name)
            .filter(|e| e.trouble.retry_at > self.now)
        {
            return Err(Waiting::until(
                &error.reason,
                &error.trouble.message,
                error.trouble.retry_at,
            ));
        }
        Ok(())
    }

    /// A container that nothing is wrong with: before its turn, or while things are being made.
    pub fn creating(&self, container: &api::Container) -> Waiting {
        let inits = self.spec.init_containers.as_deref().unwrap_or_default();
        let waits =
            !inits.is_empty() && !inits.iter().any(|init| init.name == container.name) && !self.initialized();
        Waiting::new(
            if waits {
                "PodInitializing"
            } else {
                "ContainerCreating"
            },
            "",
        )
    }

    fn image(&self, container: &api::Container, image: &str) -> Result<(), Decision> {
        let state = self.observed.images.get(image).cloned().unwrap_or_default();
        let wait = |reason: &str, message: String| Decision::Wait(Waiting::new(reason, message));
        match spec::pull_policy(container) {
            "Never" if state.present => Ok(()),
            "Never" => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                Err(wait("ErrImageNeverPull", message))
            }
            "IfNotPresent" if state.present => Ok(()),
            _ => match state.pull {
                Pull::Done => Ok(()),
                Pull::Running => Err(Decision::Wait(self.creating(container))),
                Pull::Failed(Trouble { message, retry_at }) if retry_at > self.now => {
                    // The failure itself is told first, then that it is being waited out.
                    let message = format!("Back-off pulling image \"{image}\": {message}");
                    Err(Decision::Wait(Waiting::until(
                        "ImagePullBackOff",
                        message,
                        retry_at,
                    )))
                }
                Pull::Idle | Pull::Failed(_) => Err(Decision::Pull {
                    image: image.to_owned(),
                }),
            },
        }
    }
}
