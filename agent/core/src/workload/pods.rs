//! What counts about a pod of a Deployment.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use super::template::HASH_LABEL;

/// Annotation by which a user says which pods to end first: the cheapest.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A pod, and what follows from its state at this moment.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its generation.
    pub hash: &'a str,
    /// Where it is in its life.
    pub state: State,
    /// Its containers have ended and will not start again, whether it was told to end or not.
    pub over: bool,
    /// Its Ready condition holds.
    pub ready: bool,
    /// It has been ready for long enough to count on.
    pub available: bool,
    /// When it will count on, should it stay ready.
    pub available_at: Option<Timestamp>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs or will run.
    Active,
    /// It was told to end.
    Ending,
    /// It ended by itself and will not start again.
    Finished,
}

impl<'a> Member<'a> {
    /// What follows from the state of `pod` at `now`.
    pub fn of(pod: &'a Pod, min_ready_seconds: i32, now: Timestamp) -> Self {
        let status = pod.status.as_ref();
        let over = matches!(
            status.and_then(|status| status.phase.as_deref()),
            Some("Succeeded" | "Failed")
        );
        let state = match over {
            _ if pod.metadata.deletion_timestamp.is_some() => State::Ending,
            true => State::Finished,
            false => State::Active,
        };
        let condition = status
            .and_then(ready_condition)
            .filter(|_| state == State::Active);
        let ready = condition.is_some_and(|condition| condition.status == "True");
        let since = condition
            .filter(|_| ready)
            .and_then(|condition| condition.last_transition_time.as_ref());
        let ripe = since.and_then(|since| {
            since
                .0
                .checked_add(SignedDuration::from_secs(min_ready_seconds.into()))
                .ok()
        });
        let available = ready && (min_ready_seconds <= 0 || ripe.is_some_and(|ripe| ripe <= now));
        let labels = pod.metadata.labels.as_ref();
        Self {
            pod,
            hash: labels
                .and_then(|labels| labels.get(HASH_LABEL))
                .map_or("", String::as_str),
            state,
            over,
            ready,
            available,
            available_at: ripe.filter(|_| ready && !available),
        }
    }

    /// Whether it runs or will run.
    pub fn active(&self) -> bool {
        self.state == State::Active
    }

    /// Pods with smaller ranks are ended first: those that serve least, then those that served shortest.
    pub fn rank(&self) -> impl Ord + use<'a> {
        let status = self.pod.status.as_ref();
        let phase = match status.and_then(|status| status.phase.as_deref()) {
            Some("Running") => 2,
            Some("Unknown") => 1,
            _ => 0,
        };
        let scheduled = self
            .pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some());
        let since = status
            .and_then(ready_condition)
            .and_then(|condition| condition.last_transition_time.as_ref());
        let ready_since = since.filter(|_| self.ready).map(|time| time.0);
        let restarts = status
            .into_iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .map(|container| container.restart_count)
            .max()
            .unwrap_or(0);
        let metadata = &self.pod.metadata;
        let cost = metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(DELETION_COST))
            .and_then(|cost| cost.parse::<i32>().ok())
            .unwrap_or(0);
        let born = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let name = metadata.name.clone();
        // Availability is not among Kubernetes' criteria, but without it a pod that is counted on could go while one
        // that became ready a moment ago stays. "Later" goes first, hence the Reverse.
        (
            scheduled,
            phase,
            self.ready,
            self.available,
            cost,
            Reverse(ready_since),
            Reverse(restarts),
            Reverse(born),
            name,
        )
    }

    /// When it ended, as far as its status tells.
    pub fn finished_at(&self) -> Option<Timestamp> {
        let status = self.pod.status.as_ref();
        let containers = status
            .into_iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .filter_map(|container| {
                container
                    .state
                    .as_ref()?
                    .terminated
                    .as_ref()?
                    .finished_at
                    .as_ref()
            });
        let conditions = status
            .into_iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .filter_map(|condition| condition.last_transition_time.as_ref());
        containers
            .chain(conditions)
            .chain(&self.pod.metadata.creation_timestamp)
            .map(|time| time.0)
            .max()
    }
}

fn ready_condition(status: &PodStatus) -> Option<&PodCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready")
}

/// The earliest of those that are set.
pub fn earliest(times: impl IntoIterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    times.into_iter().flatten().min()
}
