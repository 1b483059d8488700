//! What is said of a pod, in Kubernetes' words. The same observation always gives the same status, whoever asks and however often
//! the agent was restarted in between.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        self as api, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    backoff::Backoffs,
    conditions,
    containers::{Decision, View, Waiting},
    observed::{Container, Observed, State},
    plan::deadline_passed,
    resources,
};

/// The pod's status. What an earlier one said is kept where it must not change: start time, transition times, a terminal phase.
pub fn status(pod: &Pod, observed: &Observed, backoffs: &Backoffs, now: Timestamp) -> PodStatus {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let previous = pod.status.clone().unwrap_or_default();
    let view = View {
        pod,
        spec,
        observed,
        backoffs,
        now,
    };
    let start_time = previous.start_time.clone().or(Some(Time(now)));
    if let Some((reason, message)) = &observed.rejected {
        return rejected(spec, previous, start_time, reason, message);
    }
    let init_statuses: Vec<ContainerStatus> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| container_status(&view, container, true))
        .collect();
    let statuses: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|container| container_status(&view, container, false))
        .collect();
    let overdue =
        deadline_passed(&view) && !matches!(previous.phase.as_deref(), Some("Succeeded" | "Failed"));
    let phase = phase(&view, previous.phase.as_deref(), overdue);
    let ips = pod_ips(&view, &previous);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: previous.reason.clone(),
        message: previous.message.clone(),
        qos_class: Some(resources::qos(spec).name().to_owned()),
        start_time,
        host_ip: observed.host_ips.first().map(ToString::to_string),
        host_ips: listed(&observed.host_ips, |ip| HostIP { ip }),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: listed(&ips, |ip| PodIP { ip }),
        init_container_statuses: Some(init_statuses).filter(|all| !all.is_empty()),
        container_statuses: Some(statuses),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    };
    if overdue {
        status.reason = Some("DeadlineExceeded".into());
        status.message = Some("Pod was active on the node longer than the specified deadline".into());
    }
    status.conditions = Some(conditions::conditions(
        &view,
        &status,
        previous.conditions.as_deref().unwrap_or_default(),
    ));
    status
}

fn rejected(
    spec: &PodSpec,
    previous: PodStatus,
    start_time: Option<Time>,
    reason: &str,
    message: &str,
) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(reason.to_owned()),
        message: Some(format!("Pod was rejected: {message}")),
        qos_class: Some(resources::qos(spec).name().to_owned()),
        start_time,
        ..previous
    }
}

fn listed<T>(ips: &[IpAddr], wrap: impl Fn(String) -> T) -> Option<Vec<T>> {
    (!ips.is_empty()).then(|| ips.iter().map(|ip| wrap(ip.to_string())).collect())
}

/// A pod without a live sandbox keeps the addresses it had: events and logs name them.
fn pod_ips(view: &View<'_>, previous: &PodStatus) -> Vec<IpAddr> {
    if view.spec.host_network.unwrap_or(false) {
        return view.observed.host_ips.clone();
    }
    match view.observed.sandbox() {
        Some(sandbox) => sandbox.ips.clone(),
        None => previous
            .pod_ips
            .iter()
            .flatten()
            .filter_map(|ip| ip.ip.parse().ok())
            .collect(),
    }
}

/// The phase. Terminal ones never change.
fn phase(view: &View<'_>, previous: Option<&str>, overdue: bool) -> &'static str {
    match previous {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if overdue || view.init_failed() {
        return "Failed";
    }
    if !view.initialized() {
        return "Pending";
    }
    let latest: Vec<Option<&Container>> = view
        .spec
        .containers
        .iter()
        .map(|container| view.observed.latest(&container.name))
        .collect();
    let ended = |container: &Option<&Container>| container.is_some_and(|c| c.state == State::Exited);
    let all_ended = !latest.is_empty() && latest.iter().all(ended);
    let over = view.is_done() || view.pod.metadata.deletion_timestamp.is_some();
    if all_ended && over {
        let good = latest.iter().flatten().all(|container| container.exit_code == 0);
        return if good { "Succeeded" } else { "Failed" };
    }
    if view.observed.terminated && latest.iter().any(Option::is_none) {
        return "Failed";
    }
    let started = |container: &Option<&Container>| {
        container.is_some_and(|container| !matches!(container.state, State::Created) || container.attempt > 0)
    };
    if latest.iter().all(started) && !latest.is_empty() {
        "Running"
    } else {
        "Pending"
    }
}

fn container_status(view: &View<'_>, container: &api::Container, init: bool) -> ContainerStatus {
    let latest = view.observed.latest(&container.name);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: latest.map_or_else(
            || container.image.clone().unwrap_or_default(),
            |latest| latest.image.clone(),
        ),
        image_id: latest.map(|latest| latest.image_id.clone()).unwrap_or_default(),
        restart_count: latest.map_or(0, |latest| i32::try_from(latest.attempt).unwrap_or(i32::MAX)),
        container_id: latest.map(|latest| format!("containerd://{}", latest.id)),
        resources: container.resources.clone(),
        ..ContainerStatus::default()
    };
    let (state, last) = states(view, container, init);
    status.started = Some(latest.is_some_and(|latest| is_started(container, latest)));
    status.ready = if init {
        latest.is_some_and(|latest| latest.state == State::Exited && latest.exit_code == 0)
    } else {
        latest.is_some_and(|latest| is_ready(container, latest))
    };
    status.state = Some(state);
    status.last_state = Some(last);
    status
}

/// Runs, and its startup probe (where it has one) has succeeded.
pub fn is_started(container: &api::Container, latest: &Container) -> bool {
    latest.state == State::Running && (container.startup_probe.is_none() || latest.startup == Some(true))
}

/// Started, and its readiness probe (where it has one) succeeds.
pub fn is_ready(container: &api::Container, latest: &Container) -> bool {
    is_started(container, latest) && (container.readiness_probe.is_none() || latest.readiness == Some(true))
}

/// State now, and the state before.
fn states(view: &View<'_>, container: &api::Container, init: bool) -> (ContainerState, ContainerState) {
    let latest = view.observed.latest(&container.name);
    let before = |except: Option<&str>| {
        view.observed
            .previous(&container.name, except)
            .map(terminated)
            .unwrap_or_default()
    };
    let waits = |waiting: Waiting, except: Option<&str>| (waiting_state(waiting), before(except));
    let over = view.observed.terminated || view.pod.metadata.deletion_timestamp.is_some();
    match latest {
        Some(latest) if latest.state == State::Running => (running(latest), before(Some(&latest.id))),
        Some(latest) if latest.state == State::Exited && (over || view.is_done()) => {
            (terminated(latest), before(Some(&latest.id)))
        }
        None if over => (waiting_state(view.creating(container)), ContainerState::default()),
        Some(latest) if latest.state == State::Unknown => (lost(latest), before(Some(&latest.id))),
        _ => {
            let turn = view
                .first_open_init()
                .is_none_or(|open| init && open.name == container.name);
            if !turn {
                return match latest {
                    Some(latest) if latest.state == State::Exited => {
                        (terminated(latest), before(Some(&latest.id)))
                    }
                    _ => waits(view.creating(container), None),
                };
            }
            match (view.decide(container, init), latest) {
                (Decision::Wait(waiting), _) => waits(waiting, None),
                (Decision::Leave, Some(latest)) if latest.state == State::Exited => {
                    (terminated(latest), before(Some(&latest.id)))
                }
                // About to start again: until then its end is what there is to see.
                (Decision::Start { .. }, Some(latest)) if latest.state == State::Exited => {
                    (terminated(latest), before(Some(&latest.id)))
                }
                _ => waits(view.creating(container), None),
            }
        }
    }
}

fn waiting_state(waiting: Waiting) -> ContainerState {
    let message = Some(waiting.message).filter(|message| !message.is_empty());
    let waiting = ContainerStateWaiting {
        reason: Some(waiting.reason),
        message,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn running(container: &Container) -> ContainerState {
    let started_at = Some(Time(container.started_at.unwrap_or(container.created_at)));
    ContainerState {
        running: Some(ContainerStateRunning { started_at }),
        ..ContainerState::default()
    }
}

fn terminated(container: &Container) -> ContainerState {
    let reason = match (container.reason.as_str(), container.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", container.id)),
        exit_code: container.exit_code,
        reason: Some(reason.to_owned()),
        message: Some(container.message.clone()).filter(|message| !message.is_empty()),
        started_at: container.started_at.map(Time),
        finished_at: container.finished_at.map(Time),
        signal: None,
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

fn lost(container: &Container) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", container.id)),
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was inspected".into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}
