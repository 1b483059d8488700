//! The steps of a plan. Those of one plan are independent: the short ones are done at once and together, the long ones
//! beside the rounds.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container as PodContainer, Pod};
use keelson_core::pod::{Kill, Observed, Pull, Sandbox, Step, containers::Ended};
use tokio::time::Instant;
use tracing::warn;

use super::{
    hooks, sandbox,
    start::{Started, Startup},
    tell,
    worker::{Finished, Next, Worker},
};
use crate::{doors::cri::Error, world::Objects};

/// A pod that cannot be removed yet is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

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
pub enum Outcome {
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
                Finished::NotYet => Next::Wait(Some(Instant::now() + RETRY)),
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
        let never = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("Never");
        let then = if never { "" } else { ", will be restarted" };
        let message = match why {
            Ended::Pod => format!("Stopping container {name}"),
            Ended::Changed => format!("Container {name} definition changed, will be restarted"),
            Ended::Liveness => format!("Container {name} failed liveness probe{then}"),
            Ended::Startup => format!("Container {name} failed startup probe{then}"),
            Ended::Lost => format!("Container {name} has lost its place in the pod, it is ended"),
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

    pub(super) fn normal(&self, container: Option<&str>, reason: &str, message: &str) {
        tell::normal(
            &self.shared.ctx.world,
            &self.key,
            &self.uid,
            container,
            reason,
            message,
        );
    }

    pub(super) fn warn(&self, container: Option<&str>, reason: &str, message: &str) {
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
