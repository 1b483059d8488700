//! The next steps. All steps of one plan are independent of each other: whoever applies them may do so at once, and then plans
//! again. There is no rollback: the next plan is the repair. A settled pod has an empty plan.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{
    backoff::Backoffs,
    containers::{Decision, Ended, View},
    observed::{Container, Observed, Prepared, Sandbox, State},
};

/// A container is given at least this long between its signal and SIGKILL, unless the pod is deleted by force.
pub const GRACE_FLOOR: i64 = 2;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the pod's cgroup.
    PrepareCgroup,
    /// Make the pod's volumes.
    PrepareVolumes,
    /// Fetch an image.
    Pull {
        /// Its name.
        image: String,
    },
    /// Make a sandbox, after stopping the dead ones it replaces.
    RunSandbox {
        /// Counts the pod's sandboxes.
        attempt: u32,
        /// Ids of those it replaces.
        replaces: Vec<String>,
    },
    /// Make and start a container; then its postStart hook.
    Start {
        /// Name in the pod.
        name: String,
        /// Restart count.
        attempt: u32,
    },
    /// Start a container that was made before.
    StartCreated {
        /// Name in the pod.
        name: String,
        /// The runtime's id.
        id: String,
    },
    /// End a container: preStop hook, signal, SIGKILL, all within the grace.
    Kill(Kill),
    /// Remove a container's remains.
    RemoveContainer {
        /// The runtime's id.
        id: String,
    },
    /// Stop a sandbox: its network is released.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Remove a sandbox with its containers.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Write the durable mark: the pod is over and never runs again.
    MarkTerminated,
    /// Volumes and cgroup go; nothing of the pod runs any more.
    Release,
    /// The deleted pod is gone from the machine: remove the object.
    Finish,
}

/// How to end a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Name in the pod.
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// Seconds from now until SIGKILL; 0 = at once, without the preStop hook.
    pub grace: i64,
    /// Why.
    pub why: Ended,
}

/// What to do now, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Independent of each other.
    pub steps: Vec<Step>,
    /// Time alone may change the plan then.
    pub wake_at: Option<Timestamp>,
}

/// Plan for one pod.
pub fn plan(pod: &Pod, observed: &Observed, backoffs: &Backoffs, now: Timestamp) -> Plan {
    let Some(spec) = &pod.spec else {
        return Plan::default();
    };
    let view = View {
        pod,
        spec,
        observed,
        backoffs,
        now,
    };
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let mut planner = Planner {
        view,
        plan: Plan::default(),
    };
    if deleted || observed.terminated || observed.rejected.is_some() || deadline_passed(&view) {
        planner.end(deleted);
    } else if view.is_done() {
        planner.plan.steps.push(Step::MarkTerminated);
    } else {
        planner.run();
    }
    planner.plan
}

/// `activeDeadlineSeconds` counts from the pod's start.
pub fn deadline_passed(view: &View<'_>) -> bool {
    deadline(view).is_some_and(|deadline| deadline <= view.now)
}

fn deadline(view: &View<'_>) -> Option<Timestamp> {
    let started = view.pod.status.as_ref()?.start_time.as_ref()?.0;
    started
        .checked_add(SignedDuration::from_secs(view.spec.active_deadline_seconds?))
        .ok()
}

struct Planner<'a> {
    view: View<'a>,
    plan: Plan,
}

impl Planner<'_> {
    /// The pod is meant to run.
    fn run(&mut self) {
        self.wake(deadline(&self.view));
        let network_ready =
            self.view.observed.network.is_none() || self.view.spec.host_network.unwrap_or(false);
        let live = self.view.observed.sandbox().is_some();
        // Cgroup and volumes are made beside the sandbox: its runtime start is the long part.
        if live || network_ready {
            self.prepare();
        }
        if !live {
            self.sandbox(network_ready);
        }
        self.containers();
        self.tidy();
    }

    fn prepare(&mut self) {
        let observed = self.view.observed;
        for (prepared, step) in [
            (&observed.cgroup, Step::PrepareCgroup),
            (&observed.volumes, Step::PrepareVolumes),
        ] {
            match prepared {
                Prepared::Yes => {}
                Prepared::Failed(trouble) if trouble.retry_at > self.view.now => {
                    self.wake(Some(trouble.retry_at))
                }
                Prepared::No | Prepared::Failed(_) => self.plan.steps.push(step),
            }
        }
    }

    fn sandbox(&mut self, network_ready: bool) {
        let observed = self.view.observed;
        if let Some(trouble) = observed
            .sandbox_error
            .as_ref()
            .filter(|trouble| trouble.retry_at > self.view.now)
        {
            return self.wake(Some(trouble.retry_at));
        }
        // The runtime puts the sandbox below the pod's cgroup, so that must be there first.
        if !network_ready || observed.cgroup != Prepared::Yes {
            return;
        }
        let attempt = observed
            .sandboxes
            .iter()
            .map(|sandbox| sandbox.attempt + 1)
            .max()
            .unwrap_or(0);
        let replaces = observed
            .sandboxes
            .iter()
            .map(|sandbox| sandbox.id.clone())
            .collect();
        self.plan.steps.push(Step::RunSandbox { attempt, replaces });
    }

    /// The init container whose turn it is, or all regular ones.
    fn containers(&mut self) {
        if let Some(init) = self.view.first_open_init() {
            let decision = self.view.decide(init, true);
            self.push(&init.name, decision);
            return;
        }
        for container in &self.view.spec.containers {
            let decision = self.view.decide(container, false);
            self.push(&container.name, decision);
        }
    }

    fn push(&mut self, name: &str, decision: Decision) {
        let name = name.to_owned();
        let step = match decision {
            Decision::Leave => return,
            Decision::Wait(waiting) => return self.wake(waiting.until),
            Decision::Start { attempt } => Step::Start { name, attempt },
            Decision::StartCreated { id } => Step::StartCreated { name, id },
            Decision::Remove { id } => Step::RemoveContainer { id },
            Decision::Pull { image } => Step::Pull { image },
            Decision::Kill { id, why } => {
                let grace = self.view.grace(&name, why);
                Step::Kill(Kill { name, id, grace, why })
            }
        };
        if !self.plan.steps.contains(&step) {
            self.plan.steps.push(step);
        }
    }

    /// One dead container of each name is kept for its log and its last state; older ones go. So do sandboxes that were replaced.
    fn tidy(&mut self) {
        let observed = self.view.observed;
        for container in &observed.containers {
            let newer = observed
                .of(&container.name)
                .filter(|other| other.attempt > container.attempt)
                .count();
            let ended = matches!(container.state, State::Exited | State::Created);
            if ended && newer >= 2 {
                self.plan.steps.push(Step::RemoveContainer {
                    id: container.id.clone(),
                });
            }
        }
        let Some(live) = observed.sandbox() else { return };
        for old in observed.sandboxes.iter().filter(|sandbox| sandbox.id != live.id) {
            if old.ready {
                self.plan.steps.push(Step::StopSandbox { id: old.id.clone() });
            } else if !self.holds_a_last_state(old) {
                self.plan.steps.push(Step::RemoveSandbox { id: old.id.clone() });
            }
        }
    }

    /// Removing a sandbox removes its containers: the newest record of each name must stay.
    fn holds_a_last_state(&self, sandbox: &Sandbox) -> bool {
        let observed = self.view.observed;
        observed
            .containers
            .iter()
            .filter(|container| container.sandbox == sandbox.id)
            .any(|container| {
                observed
                    .of(&container.name)
                    .filter(|other| other.attempt > container.attempt)
                    .count()
                    < 2
            })
    }

    /// The pod ends: containers, sandbox, volumes and cgroup, object — each only after the one before.
    fn end(&mut self, deleted: bool) {
        let observed = self.view.observed;
        if !deleted && !observed.terminated {
            self.plan.steps.push(Step::MarkTerminated);
        }
        // Traffic must have left before the pod is told to stop; one that is deleted by force does not wait.
        if deleted && !observed.endpoints_acknowledged && self.view.deletion_grace() > 0 {
            return;
        }
        let alive: Vec<&Container> = observed
            .containers
            .iter()
            .filter(|c| matches!(c.state, State::Running | State::Unknown))
            .collect();
        for container in &alive {
            self.end_container(container);
        }
        for made in observed
            .containers
            .iter()
            .filter(|container| container.state == State::Created)
        {
            self.plan
                .steps
                .push(Step::RemoveContainer { id: made.id.clone() });
        }
        if !alive.is_empty() {
            return;
        }
        let ready: Vec<&Sandbox> = observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
            .collect();
        if !ready.is_empty() {
            self.plan
                .steps
                .extend(ready.iter().map(|sandbox| Step::StopSandbox {
                    id: sandbox.id.clone(),
                }));
            return;
        }
        if deleted && !observed.sandboxes.is_empty() {
            let all = observed.sandboxes.iter();
            self.plan.steps.extend(all.map(|sandbox| Step::RemoveSandbox {
                id: sandbox.id.clone(),
            }));
            return;
        }
        if observed.cgroup != Prepared::No || observed.volumes != Prepared::No {
            self.plan.steps.push(Step::Release);
        } else if deleted {
            self.plan.steps.push(Step::Finish);
        }
    }

    fn end_container(&mut self, container: &Container) {
        let grace = self.view.grace(&container.name, Ended::Pod);
        let planned = self
            .view
            .now
            .checked_add(SignedDuration::from_secs(grace))
            .unwrap_or(self.view.now);
        match self.view.observed.killing.get(&container.id) {
            // Being ended, and no sooner end is asked for. (A second of slack: planned anew at every look.)
            Some(by)
                if *by
                    <= planned
                        .saturating_add(SignedDuration::from_secs(1))
                        .unwrap_or(planned) => {}
            _ => self.plan.steps.push(Step::Kill(Kill {
                name: container.name.clone(),
                id: container.id.clone(),
                grace,
                why: Ended::Pod,
            })),
        }
    }

    fn wake(&mut self, at: Option<Timestamp>) {
        let Some(at) = at.filter(|at| *at > self.view.now) else {
            return;
        };
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

impl View<'_> {
    /// The grace of a deleted pod, as asked.
    pub fn deletion_grace(&self) -> i64 {
        let own = || self.spec.termination_grace_period_seconds.unwrap_or(30);
        self.pod
            .metadata
            .deletion_grace_period_seconds
            .unwrap_or_else(own)
    }

    /// Seconds until SIGKILL for a container that is to end now.
    pub fn grace(&self, container: &str, why: Ended) -> i64 {
        let own = self.spec.termination_grace_period_seconds.unwrap_or(30).max(0);
        let spec = self
            .spec
            .containers
            .iter()
            .find(|candidate| candidate.name == container);
        let probe = match why {
            Ended::Liveness => spec.and_then(|spec| spec.liveness_probe.as_ref()),
            Ended::Startup => spec.and_then(|spec| spec.startup_probe.as_ref()),
            Ended::Changed | Ended::Lost | Ended::Pod => None,
        };
        if let Some(seconds) = probe.and_then(|probe| probe.termination_grace_period_seconds) {
            return seconds.max(0);
        }
        let Some(asked) = self.pod.metadata.deletion_timestamp.as_ref() else {
            return own;
        };
        let grace = self.deletion_grace();
        if grace <= 0 {
            return 0;
        }
        // What is left of the pod's grace; it began when deletion was asked for.
        let passed =
            Duration::try_from(self.now.duration_since(asked.0)).map_or(0, |passed| passed.as_secs());
        (grace - i64::try_from(passed).unwrap_or(i64::MAX)).max(GRACE_FLOOR)
    }
}
