//! The next steps. All steps of one plan are independent of each other: whoever applies them may do so at once, and then plans
//! again. There is no rollback: the next plan is the repair. A settled pod has an empty plan.

mod ending;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

pub use self::ending::GRACE_FLOOR;
use super::{
    backoff::Backoffs,
    containers::{Decision, Ended, View},
    observed::{Container, Observed, Prepared, State},
};

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
    if deleted || observed.terminated || observed.rejected.is_some() || view.deadline_passed() {
        planner.end(deleted);
    } else if view.is_done() {
        planner.plan.steps.push(Step::MarkTerminated);
    } else {
        planner.run();
    }
    planner.plan
}

struct Planner<'a> {
    view: View<'a>,
    plan: Plan,
}

impl Planner<'_> {
    /// The pod is meant to run.
    fn run(&mut self) {
        self.wake(self.view.deadline());
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
        self.strays();
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
        // The runtime puts the sandbox below the pod's cgroup, so that must be there first. And stopping a dead sandbox ends what
        // still runs in it without grace, so that must have ended first.
        let busy = observed.containers.iter().any(Container::is_alive);
        if !network_ready || observed.cgroup != Prepared::Yes || busy {
            return;
        }
        let attempt = observed
            .sandboxes
            .iter()
            .map(|sandbox| sandbox.attempt + 1)
            .max()
            .unwrap_or(0);
        let mut replaces: Vec<String> = observed
            .sandboxes
            .iter()
            .map(|sandbox| sandbox.id.clone())
            .collect();
        replaces.sort_unstable();
        self.plan.steps.push(Step::RunSandbox { attempt, replaces });
    }

    /// What runs and is not the newest of its name in the live sandbox is ended: duplicates, containers of a dead sandbox, strangers.
    fn strays(&mut self) {
        let observed = self.view.observed;
        let live = observed.sandbox().map(|sandbox| sandbox.id.as_str());
        for container in observed.containers.iter().filter(|one| one.is_alive()) {
            let known = self.view.names().any(|name| name == container.name);
            let newest = observed.latest(&container.name).map(|latest| latest.id.as_str());
            let at_home = known && newest == Some(&container.id) && live == Some(&container.sandbox);
            if !at_home && !observed.killing.contains_key(&container.id) {
                let decision = self.view.kill(container, Ended::Lost);
                self.push(&container.name, decision);
            }
        }
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

    /// The newest two records of each name are kept: the last state, and the log of the one before. Older ones go, and what was made
    /// but never started. So do sandboxes that were replaced.
    fn tidy(&mut self) {
        let observed = self.view.observed;
        for container in &observed.containers {
            let newer = self.newer(container);
            let gone = match container.state {
                State::Exited => newer >= 2,
                State::Created => newer >= 1,
                State::Running | State::Unknown => false,
            };
            if gone {
                self.plan.steps.push(Step::RemoveContainer {
                    id: container.id.clone(),
                });
            }
        }
        let Some(live) = observed.sandbox() else { return };
        for old in observed.sandboxes.iter().filter(|sandbox| sandbox.id != live.id) {
            let mut inside = observed.containers.iter().filter(|one| one.sandbox == old.id);
            if inside.clone().any(Container::is_alive) {
                continue;
            }
            if old.ready {
                self.plan.steps.push(Step::StopSandbox { id: old.id.clone() });
            } else if inside.all(|container| self.newer(container) >= 2) {
                // Removing a sandbox removes its containers: the newest records of each name must stay.
                self.plan.steps.push(Step::RemoveSandbox { id: old.id.clone() });
            }
        }
    }

    fn newer(&self, container: &Container) -> usize {
        let same = self.view.observed.of(&container.name);
        same.filter(|other| other.age() > container.age()).count()
    }

    fn wake(&mut self, at: Option<Timestamp>) {
        let Some(at) = at.filter(|at| *at > self.view.now) else {
            return;
        };
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}
