//! What steps gave: taken into what the worker knows, told where a user should hear of it, and with a time to try again
//! where they failed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use keelson_core::pod::{
    Pull, State, backoff,
    observed::{Prepared, StartError, Trouble},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    apply::{Done, Outcome, find},
    start::{self, Started},
    worker::Worker,
};
use crate::doors::cri::Error;

/// Waits after failures: of the sandbox, of a container's start, of volumes.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// And of fetching images, as everywhere in Kubernetes.
const PULL_FIRST: Duration = Duration::from_secs(10);
const PULL_LONGEST: Duration = Duration::from_secs(300);

impl Worker {
    /// Take in what a short step gave.
    pub(super) fn take_in(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Cgroup(result) => {
                let reason = "FailedCreatePodContainer";
                self.memory.cgroup =
                    self.prepared("cgroup", reason, "unable to ensure pod container exists", result);
            }
            Outcome::Volumes(result) => {
                self.memory.volumes =
                    self.prepared("volumes", "FailedMount", "MountVolume.SetUp failed", result);
            }
            Outcome::Sandbox(Ok(sandbox)) => {
                self.failures.remove("sandbox");
                self.memory.sandbox_error = None;
                self.seen.sandboxes.retain(|other| other.id != sandbox.id);
                // Those it replaces were stopped; whether they are still listed, the next list says.
                self.stale |= !self.seen.sandboxes.is_empty();
                self.seen.sandboxes.push(sandbox);
            }
            Outcome::Sandbox(Err(error)) => self.sandbox_failed(&error),
            Outcome::Started(started) => self.started(*started),
            Outcome::Changed(result) => {
                self.stale = true;
                if let Err(error) = result {
                    warn!(%error, "the step is planned again");
                    self.pause(&error);
                }
            }
            Outcome::Released(Ok(())) => {
                self.memory.cgroup = Prepared::No;
                self.memory.volumes = Prepared::No;
            }
            Outcome::Released(Err(message)) => {
                warn!(message, "volumes and cgroup of the pod are not released yet");
                self.pause_until = Some(Instant::now() + FIRST);
            }
        }
    }

    /// A failure that the plan does not know of: the same step is planned again, but not at once.
    fn pause(&mut self, error: &Error) {
        debug!(outage = error.is_outage(), "paused after a failure");
        self.pause_until = Some(Instant::now() + FIRST);
    }

    fn prepared(&mut self, what: &str, reason: &str, prefix: &str, result: Result<(), String>) -> Prepared {
        match result {
            Ok(()) => {
                self.failures.remove(what);
                Prepared::Yes
            }
            Err(message) => {
                self.warn(None, reason, &format!("{prefix}: {message}"));
                let retry_at = self.retry_at(what, FIRST, LONGEST);
                Prepared::Failed(Trouble { message, retry_at })
            }
        }
    }

    fn sandbox_failed(&mut self, error: &Error) {
        // It may have been made all the same.
        self.stale = true;
        let retry_at = self.retry_at("sandbox", FIRST, LONGEST);
        let message = format!("Failed to create pod sandbox: {error}");
        if !error.is_outage() {
            self.warn(None, "FailedCreatePodSandBox", &message);
        }
        self.memory.sandbox_error = Some(Trouble { message, retry_at });
    }

    fn started(&mut self, started: Started) {
        let Started {
            name,
            attempt,
            outcome,
        } = started;
        let what = format!("start {name}");
        match outcome {
            start::Outcome::Running(container, hook) => {
                self.failures.remove(&what);
                self.memory.start_errors.remove(&name);
                self.count_restart(&name, attempt);
                // The next start asks anew, and fetches anew where the policy says so.
                if let Some(state) = self.memory.images.get_mut(&container.image) {
                    state.present = false;
                    if state.pull == Pull::Done {
                        state.pull = Pull::Idle;
                    }
                }
                if let Some(hook) = hook {
                    let (name, id) = (name.clone(), container.id.clone());
                    self.beside.spawn(async move {
                        Done::PostStart {
                            name,
                            id,
                            result: hook.await,
                        }
                    });
                }
                self.seen.containers.retain(|other| other.id != container.id);
                self.seen.containers.push(*container);
            }
            start::Outcome::Unconfigured(message) => {
                self.warn(Some(&name), "Failed", &format!("Error: {message}"));
                self.memory.config_errors.insert(name, message);
            }
            start::Outcome::Refused { reason, error } => {
                self.stale = true;
                if let Some(image) = self.image_of(&name) {
                    // It may be the image that is gone.
                    self.memory.images.remove(&image);
                }
                if !error.is_outage() {
                    self.warn(Some(&name), "Failed", &format!("Error: {error}"));
                }
                let trouble = Trouble {
                    message: error.to_string(),
                    retry_at: self.retry_at(&what, FIRST, LONGEST),
                };
                self.memory.start_errors.insert(
                    name,
                    StartError {
                        reason: reason.to_owned(),
                        trouble,
                    },
                );
            }
        }
    }

    /// The container that was replaced decides how long the next one would wait.
    fn count_restart(&mut self, name: &str, attempt: u32) {
        let before = self
            .seen
            .containers
            .iter()
            .filter(|seen| seen.name == name && seen.attempt < attempt);
        let Some(ended) = before
            .max_by_key(|seen| seen.attempt)
            .filter(|seen| seen.state == State::Exited)
        else {
            return;
        };
        let finished = ended.finished_at.unwrap_or(ended.created_at);
        self.backoffs
            .restarted(&backoff::key(name, &ended.image), ended.started_at, finished);
    }

    fn image_of(&self, name: &str) -> Option<String> {
        let objects = self.shared.ctx.world.snapshot();
        let pod = objects.pods.get(&self.key)?;
        let container = find(pod, name)?;
        container.image.clone()
    }

    /// Take in the end of a long step.
    pub(super) fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Killed { id, result }) => {
                self.stale = true;
                if let Err(error) = result {
                    warn!(%error, "the container was not ended yet");
                    self.memory.killing.remove(&id);
                    self.pause(&error);
                }
            }
            Ok(Done::Pulled { image, result }) => self.pulled(&image, result),
            Ok(Done::PostStart { name, id, result }) => self.post_started(&name, &id, result),
            Err(error) => {
                warn!(%error, "a step broke off");
                self.memory.killing.clear();
                self.stale = true;
            }
        }
    }

    fn pulled(&mut self, image: &str, result: Result<Duration, Error>) {
        let what = format!("pull {image}");
        let pull = match result {
            Ok(took) => {
                self.failures.remove(&what);
                let text = format!("Successfully pulled image \"{image}\" in {} ms", took.as_millis());
                self.normal(None, "Pulled", &text);
                Pull::Done
            }
            Err(error) => {
                let text = format!("Failed to pull image \"{image}\": {error}");
                self.warn(None, "Failed", &text);
                let retry_at = self.retry_at(&what, PULL_FIRST, PULL_LONGEST);
                Pull::Failed(Trouble {
                    message: error.to_string(),
                    retry_at,
                })
            }
        };
        let state = self.memory.images.entry(image.to_owned()).or_default();
        state.present = pull == Pull::Done;
        state.pull = pull;
    }

    fn post_started(&mut self, name: &str, id: &str, result: Result<(), String>) {
        let Err(message) = result else { return };
        self.warn(Some(name), "FailedPostStartHook", &message);
        let trouble = Trouble {
            message,
            retry_at: self.retry_at(&format!("start {name}"), FIRST, LONGEST),
        };
        let reason = "PostStartHookError".to_owned();
        self.memory
            .start_errors
            .insert(name.to_owned(), StartError { reason, trouble });
        let runtime = self.shared.doors.runtime.clone();
        let id = id.to_owned();
        let now = (self.shared.doors.clock)();
        self.memory.killing.insert(id.clone(), now);
        self.beside.spawn(async move {
            let result = runtime.stop(&id, Duration::from_secs(2)).await;
            Done::Killed { id, result }
        });
    }

    /// A wait that grows with the failures of one thing.
    pub(super) fn retry_at(&mut self, what: &str, first: Duration, longest: Duration) -> Timestamp {
        let count = self.failures.entry(what.to_owned()).or_insert(0);
        let wait = first
            .saturating_mul(2u32.saturating_pow((*count).min(16)))
            .min(longest);
        *count += 1;
        let now = (self.shared.doors.clock)();
        SignedDuration::try_from(wait)
            .ok()
            .and_then(|wait| now.checked_add(wait).ok())
            .unwrap_or(now)
    }
}
