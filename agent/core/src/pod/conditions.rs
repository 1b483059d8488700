//! A pod's conditions. Those of others (readiness gates) are kept as they are; a time changes only with a status.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

use super::{
    containers::View,
    status::{is_ready, time},
};

/// The conditions this agent writes.
pub const OURS: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// A condition's outcome: holds (with a reason, where there is one), or not and why.
type Outcome = Result<&'static str, (&'static str, String)>;

/// All conditions, ours first.
pub fn conditions(view: &View<'_>, status: &PodStatus, previous: &[PodCondition]) -> Vec<PodCondition> {
    let terminal = status
        .phase
        .as_deref()
        .filter(|phase| matches!(*phase, "Succeeded" | "Failed"));
    let sandbox = view
        .observed
        .sandbox()
        .is_some_and(|sandbox| view.spec.host_network.unwrap_or(false) || !sandbox.ips.is_empty());
    let containers = containers_ready(view, terminal);
    let ready = containers.clone().and_then(|_| gates(view, previous));
    let outcomes: [(&str, Outcome); 5] = [
        (
            "PodReadyToStartContainers",
            if sandbox { Ok("") } else { Err(("", network(view))) },
        ),
        ("Initialized", initialized(view, terminal)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Ok("")),
    ];
    let ours = outcomes
        .into_iter()
        .map(|(kind, outcome)| condition(kind, outcome, previous, view.now, view.pod.metadata.generation));
    let foreign = previous
        .iter()
        .filter(|condition| !OURS.contains(&condition.type_.as_str()))
        .cloned();
    ours.chain(foreign).collect()
}

/// Why there is no sandbox: users look for it here first.
fn network(view: &View<'_>) -> String {
    let trouble = view
        .observed
        .sandbox_error
        .as_ref()
        .map(|trouble| trouble.message.clone());
    trouble
        .or_else(|| view.observed.network.clone())
        .unwrap_or_default()
}

fn initialized(view: &View<'_>, terminal: Option<&str>) -> Outcome {
    if terminal == Some("Succeeded") {
        return Ok("PodCompleted");
    }
    let open = view.open_inits().iter().map(|init| init.name.as_str());
    let open: Vec<&str> = open.collect();
    if open.is_empty() {
        return Ok("");
    }
    Err((
        "ContainersNotInitialized",
        format!("containers with incomplete status: [{}]", open.join(" ")),
    ))
}

fn containers_ready(view: &View<'_>, terminal: Option<&str>) -> Outcome {
    match terminal {
        Some("Succeeded") => return Err(("PodCompleted", String::new())),
        Some(_) => return Err(("PodFailed", String::new())),
        None => {}
    }
    let unready: Vec<&str> = view
        .spec
        .containers
        .iter()
        .filter(|container| {
            !view
                .observed
                .latest(&container.name)
                .is_some_and(|latest| is_ready(container, latest))
        })
        .map(|container| container.name.as_str())
        .collect();
    if unready.is_empty() {
        return Ok("");
    }
    Err((
        "ContainersNotReady",
        format!("containers with unready status: [{}]", unready.join(" ")),
    ))
}

fn gates(view: &View<'_>, previous: &[PodCondition]) -> Outcome {
    let missing: Vec<&str> = view
        .spec
        .readiness_gates
        .iter()
        .flatten()
        .map(|gate| gate.condition_type.as_str())
        .filter(|kind| {
            !previous
                .iter()
                .any(|condition| condition.type_ == *kind && condition.status == "True")
        })
        .collect();
    if missing.is_empty() {
        return Ok("");
    }
    let list = missing
        .iter()
        .map(|kind| format!("the status of pod readiness gate \"{kind}\" is not \"True\""));
    Err(("ReadinessGatesNotReady", list.collect::<Vec<_>>().join(", ")))
}

fn condition(
    kind: &str,
    outcome: Outcome,
    previous: &[PodCondition],
    now: Timestamp,
    generation: Option<i64>,
) -> PodCondition {
    let holds = if outcome.is_ok() { "True" } else { "False" };
    let (reason, message) = match outcome {
        Ok(reason) => (reason, String::new()),
        Err(why) => why,
    };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let since = previous
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == holds)
        .and_then(|condition| condition.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: holds.to_owned(),
        reason: some(reason.to_owned()),
        message: some(message),
        last_transition_time: since.or(Some(time(now))),
        last_probe_time: None,
        observed_generation: generation,
    }
}
