//! What a worker says of its pod: the observation for the decisions, the status for the world, verdicts for the disk.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use keelson_core::{
    object::Key,
    pod::{self as core, Observed, State},
};
use tokio::time::Instant;

use super::{
    dispatcher::Shared,
    keep::{self, Record},
    probing::{Kind, Subject, Teller},
    tell,
    worker::Worker,
};
use crate::health::subsystem;

impl Worker {
    /// All that is known, as the decisions want it.
    pub(super) fn observed(&self) -> Observed {
        let mut observed = self.memory.clone();
        observed.network = self.shared.ready.borrow().network.clone().err();
        observed.sandboxes.clone_from(&self.seen.sandboxes);
        observed.containers.clone_from(&self.seen.containers);
        for container in &mut observed.containers {
            let verdict = |kind| self.probes.board.get(&container.id, kind);
            container.startup = verdict(Kind::Startup);
            container.readiness = verdict(Kind::Readiness);
            container.liveness = verdict(Kind::Liveness);
        }
        observed.host_ips = self.host_ips();
        observed
    }

    pub(super) fn host_ips(&self) -> Vec<IpAddr> {
        if let Some(own) = self.shared.ctx.config.node_address {
            return vec![own];
        }
        self.shared.ctx.network.addresses().borrow().clone()
    }

    /// The node's address is part of every status, and that of a pod on the host's network. Until the network loop has looked for it
    /// nothing is said of a pod for the first time: a status would flap, and without an address a pod would be taken out of its
    /// Services.
    fn waits_for_the_nodes_address(&self, pod: &Pod, observed: &Observed) -> bool {
        let looked = || {
            self.shared
                .ctx
                .health
                .watch()
                .borrow()
                .contains_key(subsystem::NETWORK)
        };
        pod.status.is_none() && observed.host_ips.is_empty() && !looked()
    }

    /// The one place where a pod's status is written.
    pub(super) fn report(&mut self, pod: &Pod, observed: &Observed, now: Timestamp) {
        if pod.metadata.deletion_timestamp.is_some() && observed.sandboxes.is_empty() && pod.status.is_some()
        {
            // Its containers' records are gone with the sandbox: what was said last is how it ended.
            return;
        }
        if self.waits_for_the_nodes_address(pod, observed) {
            return;
        }
        let status = core::status(pod, observed, &self.backoffs, now);
        if pod.status.as_ref() == Some(&status) && self.keep.said {
            return;
        }
        self.keep.tell(&status);
        self.tell_back_offs(pod, &status);
        self.tell_of_network(pod, observed, &status);
        self.shared.ctx.world.update(|objects| {
            let current = objects.pods.get_mut(&self.key);
            if let Some(current) = current.filter(|current| current.metadata.uid.as_ref() == Some(&self.uid))
            {
                Arc::make_mut(current).status = Some(status);
                objects.revisions.pods += 1;
            }
        });
    }

    pub(super) fn probe(&mut self, pod: &Pod, observed: &Observed) {
        let address = self.address(pod, observed);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let containers = pod
            .spec
            .as_ref()
            .map(|spec| spec.containers.as_slice())
            .unwrap_or_default();
        let now = (self.shared.doors.clock)();
        let subjects: Vec<Subject> = containers
            .iter()
            .filter(|container| {
                container.liveness_probe.is_some()
                    || container.readiness_probe.is_some()
                    || container.startup_probe.is_some()
            })
            .filter_map(|container| {
                let latest = observed.latest(&container.name)?;
                let started = latest.started_at.filter(|_| latest.state == State::Running)?;
                let age = Duration::try_from(now.duration_since(started)).unwrap_or_default();
                let started = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
                let container = container.clone();
                Some(Subject {
                    id: latest.id.clone(),
                    container,
                    address: address.clone(),
                    started,
                })
            })
            .collect();
        self.probes.keep(&subjects, terminating);
        let known = |id: &str| observed.containers.iter().any(|container| container.id == id);
        self.probes.board.only(known);
    }

    pub(super) fn address(&self, pod: &Pod, observed: &Observed) -> String {
        let host = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or(false);
        let own = observed
            .sandbox()
            .and_then(|sandbox| sandbox.ips.first().copied());
        let address = if host {
            observed.host_ips.first().copied()
        } else {
            own
        };
        address.map_or_else(|| "127.0.0.1".to_owned(), |address| address.to_string())
    }

    pub(super) fn write_down(&mut self) {
        let running = self
            .seen
            .containers
            .iter()
            .filter(|container| container.state == State::Running);
        let probes = keep::verdicts(&self.probes.board, running.map(|container| container.id.as_str()));
        let Observed {
            terminated, rejected, ..
        } = &self.memory;
        self.keep.write(Record {
            terminated: *terminated,
            rejected: rejected.clone(),
            probes,
            status: self.keep.arrived.clone(),
        });
    }

    /// The pod with what was said of it before the agent was restarted, where the world knows of nothing.
    pub(super) fn remembered(&self, pod: Arc<Pod>) -> Arc<Pod> {
        match &self.keep.arrived {
            Some(status) if pod.status.is_none() => {
                let mut pod = (*pod).clone();
                pod.status = Some(status.clone());
                Arc::new(pod)
            }
            _ => pod,
        }
    }

    /// A pod that begins to wait for the network is worth an event.
    fn tell_of_network(&self, pod: &Pod, observed: &Observed, status: &PodStatus) {
        let Some(why) = &observed.network else { return };
        let message = format!("network is not ready: {why}");
        let waits = |status: &PodStatus| {
            statuses(status).iter().any(|one| {
                let waiting = one.state.as_ref().and_then(|state| state.waiting.as_ref());
                waiting.is_some_and(|waiting| waiting.message.as_ref() == Some(&message))
            })
        };
        if waits(status) && !pod.status.as_ref().is_some_and(waits) {
            tell::warning(
                &self.shared.ctx.world,
                &self.key,
                &self.uid,
                None,
                "NetworkNotReady",
                &message,
            );
        }
    }

    /// A container that begins to wait after failures is worth an event; that it still does is not.
    fn tell_back_offs(&self, pod: &Pod, status: &PodStatus) {
        let before = pod.status.as_ref().map(statuses).unwrap_or_default();
        for now in statuses(status) {
            let old = before
                .iter()
                .find(|old| old.name == now.name)
                .and_then(|old| back_off(old));
            let Some((reason, message)) = back_off(now) else {
                continue;
            };
            if old.is_some_and(|(before, _)| before == reason) {
                continue;
            }
            let text = if reason == "CrashLoopBackOff" {
                "Back-off restarting failed container"
            } else {
                message
            };
            tell::warning(
                &self.shared.ctx.world,
                &self.key,
                &self.uid,
                Some(&now.name),
                "BackOff",
                text,
            );
        }
    }
}

fn statuses(status: &PodStatus) -> Vec<&ContainerStatus> {
    status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .collect()
}

fn back_off(status: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting
        .reason
        .as_deref()
        .filter(|reason| reason.ends_with("BackOff"))?;
    Some((reason, waiting.message.as_deref().unwrap_or_default()))
}

/// Tells of probes' failures as events.
pub fn teller(shared: Shared, key: Key, uid: String) -> Teller {
    Arc::new(move |subject, _, message| {
        tell::warning(
            &shared.ctx.world,
            &key,
            &uid,
            Some(&subject.container.name),
            "Unhealthy",
            &message,
        );
    })
}
