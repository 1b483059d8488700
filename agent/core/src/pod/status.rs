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
    let start_time = Some(time(view.began().unwrap_or(now)));
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
        view.deadline_passed() && !matches!(previous.phase.as_deref(), Some("Succeeded" | "Failed"));
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

/// Times of an object have whole seconds: one that was written and read again must be the same.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
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
    let Some(latest) = view.observed.latest(&container.name) else {
        return without_record(view, container, init);
    };
    let (state, last) = states(view, container, latest, init);
    let requests = container.resources.as_ref().and_then(|set| set.requests.clone());
    ContainerStatus {
        name: container.name.clone(),
        image: latest.image.clone(),
        image_id: latest.image_id.clone(),
        restart_count: count(latest.attempt),
        container_id: Some(format!("containerd://{}", latest.id)),
        resources: container.resources.clone(),
        allocated_resources: requests,
        started: Some(is_started(container, latest)),
        ready: if init {
            latest.state == State::Exited && latest.exit_code == 0
        } else {
            is_ready(container, latest)
        },
        state: Some(state),
        last_state: Some(last),
        ..ContainerStatus::default()
    }
}

/// A container that the runtime knows nothing of: it was not made yet, or somebody removed its record. Then what was told of its end
/// stays told, and one that ran when it was last seen was lost.
fn without_record(view: &View<'_>, container: &api::Container, init: bool) -> ContainerStatus {
    let told = view.told(&container.name).cloned().unwrap_or_default();
    let state = told.state.clone().unwrap_or_default();
    if state.terminated.is_some() {
        return told;
    }
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: told.restart_count,
        resources: container.resources.clone(),
        started: Some(false),
        last_state: Some(told.last_state.unwrap_or_default()),
        ..ContainerStatus::default()
    };
    let over = view.observed.terminated || view.pod.metadata.deletion_timestamp.is_some();
    let waiting = match view.decide(container, init) {
        Decision::Wait(waiting) if !over && view.has_turn(container) => waiting,
        _ => view.creating(container),
    };
    match state.running {
        Some(_) if over => status.state = Some(lost(told.container_id, state.running)),
        Some(_) => {
            status.restart_count = count(view.attempt_without_record(&container.name));
            status.last_state = Some(lost(told.container_id, state.running));
            status.state = Some(waiting_state(waiting));
        }
        None => status.state = Some(waiting_state(waiting)),
    }
    status
}

fn count(attempt: u32) -> i32 {
    i32::try_from(attempt).unwrap_or(i32::MAX)
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
fn states(
    view: &View<'_>,
    container: &api::Container,
    latest: &Container,
    init: bool,
) -> (ContainerState, ContainerState) {
    let before = |except: Option<&str>| {
        view.observed
            .previous(&container.name, except)
            .map(terminated)
            .unwrap_or_default()
    };
    let shown = match latest.state {
        State::Running => running(latest),
        State::Unknown => lost(
            Some(format!("containerd://{}", latest.id)),
            running(latest).running,
        ),
        State::Created => {
            let waiting = match view.decide(container, init) {
                Decision::Wait(waiting) => waiting,
                _ => view.creating(container),
            };
            return (waiting_state(waiting), before(None));
        }
        State::Exited => match waits_after_end(view, container, init) {
            Some(waiting) => return (waiting_state(waiting), before(None)),
            None => terminated(latest),
        },
    };
    (shown, before(Some(&latest.id)))
}

/// Why a container that ended is not started again at once. Where nothing holds it up, its end is what there is to see.
fn waits_after_end(view: &View<'_>, container: &api::Container, init: bool) -> Option<Waiting> {
    let over = view.is_done() || view.pod.metadata.deletion_timestamp.is_some();
    if over || !view.has_turn(container) {
        return None;
    }
    match view.decide(container, init) {
        Decision::Wait(waiting) if !waiting.is_normal() => Some(waiting),
        _ => None,
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
    let started_at = Some(time(container.started_at.unwrap_or(container.created_at)));
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
        started_at: container.started_at.map(time),
        finished_at: container.finished_at.map(time),
        signal: None,
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

/// A container that ran when it was last seen, and of which nothing is known now.
fn lost(container_id: Option<String>, ran: Option<ContainerStateRunning>) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id,
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was inspected".into()),
        started_at: ran.and_then(|ran| ran.started_at),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}
