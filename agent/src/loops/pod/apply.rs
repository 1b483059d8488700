//! The steps of a plan. Those of one plan are independent: the short ones are done at once and together, the long ones
//! beside the rounds.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container as PodContainer, Pod};
use keelson_core::pod::{
    Kill, Observed, Pull, Sandbox, State, Step, backoff,
    containers::Ended,
    observed::{Prepared, StartError, Trouble},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    hooks, sandbox,
    start::{self, Started, Startup},
    tell,
    worker::{Finished, Next, Worker},
};
use crate::{doors::cri::Error, world::Objects};

/// Waits after failures: of the sandbox, of a container's start, of volumes.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// And of fetching images, as everywhere in Kubernetes.
const PULL_FIRST: Duration = Duration::from_secs(10);
const PULL_LONGEST: Duration = Duration::from_secs(300);

/// A long step came to its end.
pub enum Done {
    /// A container was ended, or could not be.
    Killed {
        /// Its id.
        id: String,
        /// How it went.
        result: Result<(), Error>,
    },
    /// An image was fetched, or could not be.
    Pulled {
        /// Its name.
        image: String,
        /// How it went, and how long it took.
        result: Result<Duration, Error>,
    },
    /// A postStart hook ran.
    PostStart {
        /// The container's name and id.
        name: String,
        /// Its id.
        id: String,
        /// How it went.
        result: Result<(), String>,
    },
}

/// What a short step gave.
enum Outcome {
    Cgroup(Result<(), String>),
    Volumes(Result<(), String>),
    Sandbox(Result<Sandbox, Error>),
    Started(Box<Started>),
    /// The runtime was changed; what it shows now must be read.
    Changed(Result<(), Error>),
    Released(Result<(), String>),
}

impl Worker {
    /// Do the steps, take in what they gave, and say what comes next.
    pub(super) async fn apply(
        &mut self,
        pod: &Arc<Pod>,
        objects: &Objects,
        observed: Observed,
        steps: Vec<Step>,
    ) -> Next {
        if steps.contains(&Step::Finish) {
            return match self.finish().await {
                Finished::Gone => Next::End,
                Finished::NotYet => Next::Wait(Some(Instant::now() + FIRST)),
            };
        }
        let mut short = Vec::new();
        for step in steps {
            match step {
                Step::Kill(kill) => self.kill(pod, &observed, kill),
                Step::Pull { image } => self.pull(image),
                Step::MarkTerminated => {
                    self.memory.terminated = true;
                    self.write_down();
                }
                other => short.push(other),
            }
        }
        let work = short
            .into_iter()
            .map(|step| self.short(pod, objects, &observed, step));
        let outcomes = join_all(work.collect::<Vec<_>>()).await;
        for outcome in outcomes {
            self.take_in(outcome);
        }
        Next::Again
    }

    /// A short step; what it needs is taken along, so that several run at once.
    fn short<'a>(
        &self,
        pod: &'a Arc<Pod>,
        objects: &'a Objects,
        observed: &'a Observed,
        step: Step,
    ) -> futures::future::BoxFuture<'a, Outcome> {
        let shared = self.shared.clone();
        let (uid, key, poke) = (self.uid.clone(), self.key.clone(), self.poke.clone());
        let runtime = shared.doors.runtime.clone();
        Box::pin(async move {
            match step {
                Step::PrepareCgroup => Outcome::Cgroup(sandbox::cgroup(&shared, pod, objects).await),
                Step::PrepareVolumes => Outcome::Volumes(sandbox::volumes(&shared, pod, objects).await),
                Step::RunSandbox { attempt, replaces } => {
                    if !replaces.is_empty() {
                        let text = "Pod sandbox changed, it will be killed and re-created.";
                        tell::normal(&shared.ctx.world, &key, &uid, None, "SandboxChanged", text);
                    }
                    Outcome::Sandbox(sandbox::run(&shared, pod, attempt, &replaces, &poke).await)
                }
                Step::Start { name, attempt } => {
                    let startup = Startup {
                        shared,
                        pod,
                        objects,
                        observed,
                        poke,
                    };
                    Outcome::Started(Box::new(startup.start(&name, attempt).await))
                }
                Step::StartCreated { name, id } => {
                    let startup = Startup {
                        shared,
                        pod,
                        objects,
                        observed,
                        poke,
                    };
                    Outcome::Started(Box::new(startup.start_created(&name, &id).await))
                }
                Step::RemoveContainer { id } => {
                    shared.roster.remove(&id);
                    Outcome::Changed(runtime.remove(&id).await)
                }
                Step::StopSandbox { id } => Outcome::Changed(runtime.stop_sandbox(&id).await),
                Step::RemoveSandbox { id } => {
                    shared.roster.remove(&id);
                    Outcome::Changed(runtime.remove_sandbox(&id).await)
                }
                Step::Release => Outcome::Released(sandbox::release(&shared, &uid).await),
                Step::Pull { .. } | Step::Kill(_) | Step::MarkTerminated | Step::Finish => {
                    Outcome::Changed(Ok(()))
                }
            }
        })
    }

    fn take_in(&mut self, outcome: Outcome) {
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

    fn pull(&mut self, image: String) {
        self.memory.images.entry(image.clone()).or_default().pull = Pull::Running;
        self.normal(None, "Pulling", &format!("Pulling image \"{image}\""));
        let runtime = self.shared.doors.runtime.clone();
        self.beside.spawn(async move {
            let start = Instant::now();
            let result = runtime.pull(&image).await.map(|_| start.elapsed());
            Done::Pulled { image, result }
        });
    }

    /// End a container beside the rounds: hook, signal, SIGKILL.
    fn kill(&mut self, pod: &Arc<Pod>, observed: &Observed, kill: Kill) {
        let Kill { name, id, grace, why } = kill;
        let container = find(pod, &name).cloned();
        let message = match why {
            Ended::Pod => format!("Stopping container {name}"),
            Ended::Changed => format!("Container {name} definition changed, will be restarted"),
            Ended::Liveness => format!("Container {name} failed liveness probe, will be restarted"),
            Ended::Startup => format!("Container {name} failed startup probe, will be restarted"),
            Ended::Lost => format!("Container {name} has lost its sandbox, it is ended"),
        };
        self.normal(Some(&name), "Killing", &message);
        let now = (self.shared.doors.clock)();
        let by = now
            .checked_add(SignedDuration::from_secs(grace.max(0)))
            .unwrap_or(now);
        let again = self.memory.killing.insert(id.clone(), by).is_some();
        let address = self.address(pod, observed);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let ending = hooks::Ending {
            runtime: self.shared.doors.runtime.clone(),
            prober: self.shared.doors.prober.clone(),
            // A shorter grace while the hook runs: the hook is not run twice.
            hook: container
                .as_ref()
                .and_then(|container| container.lifecycle.as_ref()?.pre_stop.clone())
                .filter(|_| !again),
            container,
            id: id.clone(),
            address,
            grace,
        };
        let (world, key, uid) = (self.shared.ctx.world.clone(), self.key.clone(), self.uid.clone());
        self.beside.spawn(async move {
            let (hook, result) = ending.end().await;
            if let Err(message) = hook {
                tell::warning(&world, &key, &uid, Some(&name), "FailedPreStopHook", &message);
            }
            Done::Killed { id, result }
        });
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

    fn normal(&self, container: Option<&str>, reason: &str, message: &str) {
        tell::normal(
            &self.shared.ctx.world,
            &self.key,
            &self.uid,
            container,
            reason,
            message,
        );
    }

    fn warn(&self, container: Option<&str>, reason: &str, message: &str) {
        warn!(container, reason, "{message}");
        tell::warning(
            &self.shared.ctx.world,
            &self.key,
            &self.uid,
            container,
            reason,
            message,
        );
    }
}

/// A container of a pod by its name, an init container as well.
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a PodContainer> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
}
