//! The row of a pod. STATUS is the one word that says most, as kubectl chooses it.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{NONE, restarts};
use crate::cli::duration::age;

/// What a pod's row says besides its name and age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Containers that are ready.
    pub ready: usize,
    /// Containers that could be.
    pub total: usize,
    /// The one word.
    pub status: String,
    /// How often containers were started again.
    pub restarts: i32,
    /// When that was last.
    pub last_restart: Option<Time>,
}

/// The row.
pub fn row(pod: &Pod, now: Timestamp, wide: bool) -> Vec<String> {
    let summary = summarize(pod);
    let mut row = vec![
        pod.metadata.name.clone().unwrap_or_default(),
        format!("{}/{}", summary.ready, summary.total),
        summary.status,
        restarts(summary.restarts, summary.last_restart.as_ref(), now),
        age(pod.metadata.creation_timestamp.as_ref(), now),
    ];
    if wide {
        let status = pod.status.as_ref();
        let spec = pod.spec.as_ref();
        let or_none = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
        row.extend([
            or_none(status.and_then(|status| status.pod_ip.as_ref())).unwrap_or_else(|| NONE.to_owned()),
            or_none(spec.and_then(|spec| spec.node_name.as_ref())).unwrap_or_else(|| NONE.to_owned()),
            or_none(status.and_then(|status| status.nominated_node_name.as_ref()))
                .unwrap_or_else(|| NONE.to_owned()),
            gates(pod),
        ]);
    }
    row
}

/// How many readiness gates are open, of how many.
fn gates(pod: &Pod) -> String {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    let Some(gates) = gates.filter(|gates| !gates.is_empty()) else {
        return NONE.to_owned();
    };
    let open = gates
        .iter()
        .filter(|gate| condition(pod, &gate.condition_type) == Some("True"))
        .count();
    format!("{open}/{}", gates.len())
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some(&found.status)
}

/// Counts restarts and remembers the last.
#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Time>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.count += status.restart_count;
        let ended = status
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .and_then(|terminated| terminated.finished_at.as_ref());
        if let Some(ended) = ended
            && self.last.as_ref().is_none_or(|last| last.0 < ended.0)
        {
            self.last = Some(ended.clone());
        }
    }
}

/// Whether an init container stays beside the others.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod's state comes to.
pub fn summarize(pod: &Pod) -> Summary {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let init = spec.init_containers.unwrap_or_default();
    let sidecars = init.iter().filter(|container| is_sidecar(container)).count();
    let mut summary = Summary {
        ready: 0,
        total: spec.containers.len() + sidecars,
        status: status
            .reason
            .clone()
            .filter(|reason| !reason.is_empty())
            .or_else(|| status.phase.clone())
            .unwrap_or_else(|| "Pending".to_owned()),
        restarts: 0,
        last_restart: None,
    };
    let mut restarts = Restarts::default();
    let mut of_sidecars = Restarts::default();
    let initializing = init_status(&init, &status, &mut summary, &mut restarts, &mut of_sidecars);
    if !initializing || condition(pod, "Initialized") == Some("True") {
        restarts = of_sidecars;
        main_status(pod, &status, &mut summary, &mut restarts);
    }
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            summary.status = "Unknown".to_owned();
        } else if !over {
            summary.status = "Terminating".to_owned();
        }
    }
    summary.restarts = restarts.count;
    summary.last_restart = restarts.last;
    summary
}

/// The init container that holds the pod back decides; false if none does.
fn init_status(
    init: &[Container],
    status: &PodStatus,
    summary: &mut Summary,
    restarts: &mut Restarts,
    of_sidecars: &mut Restarts,
) -> bool {
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        restarts.add(container);
        let sidecar = init
            .iter()
            .any(|one| one.name == container.name && is_sidecar(one));
        if sidecar {
            of_sidecars.add(container);
        }
        let state = container.state.clone().unwrap_or_default();
        let waiting = state.waiting.and_then(|waiting| waiting.reason);
        summary.status = match (state.terminated, waiting) {
            (Some(ended), _) if ended.exit_code == 0 => continue,
            _ if sidecar && container.started == Some(true) => {
                summary.ready += usize::from(container.ready);
                continue;
            }
            (Some(ended), _) => format!("Init:{}", ended_word(&ended)),
            (None, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => {
                format!("Init:{reason}")
            }
            _ => format!("Init:{index}/{}", init.len()),
        };
        return true;
    }
    false
}

/// The first container that has something to say decides.
fn main_status(pod: &Pod, status: &PodStatus, summary: &mut Summary, restarts: &mut Restarts) {
    let mut running = false;
    for container in status.container_statuses.iter().flatten().rev() {
        restarts.add(container);
        let state = container.state.clone().unwrap_or_default();
        let waiting = state.waiting.and_then(|waiting| waiting.reason);
        match (waiting, state.terminated) {
            (Some(reason), _) if !reason.is_empty() => summary.status = reason,
            (_, Some(ended)) => summary.status = ended_word(&ended),
            _ if container.ready && state.running.is_some() => {
                running = true;
                summary.ready += 1;
            }
            _ => {}
        }
    }
    if summary.status == "Completed" && running {
        let ready = condition(pod, "Ready") == Some("True");
        summary.status = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn ended_word(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref(), ended.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended.exit_code),
    }
}
