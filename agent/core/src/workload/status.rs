//! What a Deployment says of itself.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    pods::{Member, State},
    rollout::{limits, wanted},
    template::{Generations, count},
};

/// Reasons of the condition `Progressing`, as Kubernetes names them.
mod reason {
    pub(super) const COMPLETE: &str = "NewReplicaSetAvailable";
    pub(super) const MOVING: &str = "ReplicaSetUpdated";
    pub(super) const LATE: &str = "ProgressDeadlineExceeded";
    pub(super) const PAUSED: &str = "DeploymentPaused";
    pub(super) const RESUMED: &str = "DeploymentResumed";
}

/// The status, and when the progress deadline passes.
pub(super) fn status(
    deployment: &Deployment,
    members: &[Member<'_>],
    known: &Generations,
    now: Timestamp,
) -> (DeploymentStatus, Option<Timestamp>) {
    let Some(spec) = &deployment.spec else {
        return (DeploymentStatus::default(), None);
    };
    let old = deployment.status.clone().unwrap_or_default();
    let hash = known
        .current
        .and_then(|at| known.all.get(at))
        .map(|one| one.hash.as_str());
    let number =
        |which: &dyn Fn(&Member<'_>) -> bool| count(members.iter().filter(|member| which(member)).count());
    let available = number(&|member| member.available);
    let asked: i32 = known.all.iter().map(|one| one.replicas).sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(number(&|member| member.active())),
        updated_replicas: Some(number(&|member| member.active() && Some(member.hash) == hash)),
        ready_replicas: Some(number(&|member| member.ready)),
        available_replicas: Some(available),
        unavailable_replicas: Some((asked - available).max(0)),
        terminating_replicas: Some(number(&|member| member.state == State::Ending)),
        collision_count: (known.collisions > 0).then_some(known.collisions),
        conditions: None,
    };
    let (progressing, deadline) = progressing(spec, &old, &status, now);
    status.conditions = Some(vec![availability(spec, &old, available, now), progressing]);
    (status, deadline)
}

fn availability(
    spec: &DeploymentSpec,
    old: &DeploymentStatus,
    available: i32,
    now: Timestamp,
) -> DeploymentCondition {
    let floor = if wanted(spec) == 0 {
        0
    } else {
        limits(spec).available
    };
    let (status, reason) = if available >= floor {
        ("True", "MinimumReplicasAvailable")
    } else {
        ("False", "MinimumReplicasUnavailable")
    };
    let message = format!(
        "{available} of {} pods are available, {floor} are needed",
        wanted(spec)
    );
    condition(old, "Available", status, reason, message, now, false)
}

fn progressing(
    spec: &DeploymentSpec,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    now: Timestamp,
) -> (DeploymentCondition, Option<Timestamp>) {
    let make = |status, reason, message: String, moved| {
        condition(old, "Progressing", status, reason, message, now, moved)
    };
    let before = find(old, "Progressing");
    let was = before.and_then(|condition| condition.reason.as_deref());
    if spec.paused == Some(true) {
        return (
            make(
                "Unknown",
                reason::PAUSED,
                "the Deployment is paused".to_owned(),
                false,
            ),
            None,
        );
    }
    let replicas = wanted(spec);
    let [updated, _, available] = counted(new);
    let counts =
        format!("{updated} of {replicas} pods are of the newest template and {available} are available");
    if counted(new) == [replicas; 3] && new.replicas == Some(replicas) {
        let moved = was != Some(reason::COMPLETE);
        return (make("True", reason::COMPLETE, counts, moved), None);
    }
    // A new template starts a new deadline.
    let restarted = was == Some(reason::COMPLETE) && new.observed_generation != old.observed_generation;
    match was {
        Some(reason::PAUSED) => (make("True", reason::RESUMED, counts, true), deadline(spec, now)),
        _ if before.is_none() || progress(old, new) || restarted => {
            (make("True", reason::MOVING, counts, true), deadline(spec, now))
        }
        // Once complete, pods that fail are no matter of a rollout.
        Some(reason::COMPLETE) => (make("True", reason::COMPLETE, counts, false), None),
        _ => {
            let since = before.and_then(|condition| condition.last_update_time.as_ref());
            let end = deadline(spec, since.map_or(now, |time| time.0));
            if was == Some(reason::LATE) || end.is_some_and(|end| end <= now) {
                let seconds = spec.progress_deadline_seconds.unwrap_or(600);
                let message = format!("no progress within {seconds} seconds: {counts}");
                (
                    make("False", reason::LATE, message, was != Some(reason::LATE)),
                    None,
                )
            } else {
                (make("True", was.unwrap_or(reason::MOVING), counts, false), end)
            }
        }
    }
}

/// Pods of the newest template, ready ones, available ones.
fn counted(status: &DeploymentStatus) -> [i32; 3] {
    [
        status.updated_replicas,
        status.ready_replicas,
        status.available_replicas,
    ]
    .map(|number| number.unwrap_or(0))
}

/// Whether there are more of those that shall be, or fewer of those that shall not.
fn progress(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let former = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - counted(status)[0];
    counted(new).iter().zip(counted(old)).any(|(new, old)| *new > old) || former(new) < former(old)
}

fn deadline(spec: &DeploymentSpec, since: Timestamp) -> Option<Timestamp> {
    let seconds = spec.progress_deadline_seconds.unwrap_or(600);
    since.checked_add(SignedDuration::from_secs(seconds.into())).ok()
}

fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
}

/// A condition whose times move only with what they stand for: `moved` = there was progress.
fn condition(
    old: &DeploymentStatus,
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
    moved: bool,
) -> DeploymentCondition {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let before = find(old, type_);
    let same_status = before.filter(|before| before.status == status);
    let same_reason = same_status.filter(|before| before.reason.as_deref() == Some(reason) && !moved);
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: same_status
            .and_then(|before| before.last_transition_time.clone())
            .or_else(|| Some(now.clone())),
        last_update_time: same_reason
            .and_then(|before| before.last_update_time.clone())
            .or(Some(now)),
    }
}
