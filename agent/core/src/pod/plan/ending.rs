//! The end of a pod, and how long its containers are given.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Kill, Planner, Step};
use crate::pod::{
    containers::{Ended, View},
    observed::{Container, Prepared, Sandbox, State},
};

/// A container is given at least this long between its signal and SIGKILL, unless the pod is deleted by force.
pub const GRACE_FLOOR: i64 = 2;

impl Planner<'_> {
    /// The pod ends: containers, sandbox, volumes and cgroup, object — each only after the one before.
    pub(super) fn end(&mut self, deleted: bool) {
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
            .filter(|container| container.is_alive())
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
