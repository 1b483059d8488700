//! The Node object: what the machine is, how it is, and what its subsystems say.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};

/// Pods a node takes unless told otherwise.
pub const MAX_PODS: u32 = 110;
/// Below this much available memory the node says that it is short of it.
const MEMORY_FLOOR: u64 = 100 << 20;
/// A condition that does not change is confirmed this often.
const HEARTBEAT: SignedDuration = SignedDuration::from_mins(5);

/// What the machine is; it does not change while the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// As the kernel knows it.
    pub host_name: String,
    /// CPUs that are online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// From the firmware; empty where there is none.
    pub system_uuid: String,
    /// Differs after every boot.
    pub boot_id: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// In Go's words, as Kubernetes writes it: `amd64`, `arm64`.
    pub architecture: String,
}

/// How the machine is at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory that could be had without swapping.
    pub memory_available: u64,
    /// Bytes of the file system that holds the pods' directories.
    pub disk: u64,
    /// Of these available.
    pub disk_available: u64,
    /// Processes and threads.
    pub pids: u64,
    /// How many there may be.
    pub pids_most: u64,
}

/// What each subsystem says: `None` = nothing yet.
pub type Reports<'a> = BTreeMap<&'a str, Option<Result<(), String>>>;

/// All that a Node object is made of.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UID, kept over restarts.
    pub uid: &'a str,
    /// When it was first seen.
    pub created: Timestamp,
    /// The agent's version.
    pub version: &'a str,
    /// The runtime's, such as `containerd://1.6.20`; empty until it answered.
    pub runtime: &'a str,
    /// Pods' networks on this node.
    pub pod_cidrs: Vec<String>,
    /// The machine.
    pub machine: &'a Machine,
    /// How it is; `None` = it could not be read.
    pub usage: Option<Usage>,
    /// The node's own addresses, the main one first.
    pub addresses: &'a [IpAddr],
    /// What the subsystems say.
    pub reports: Reports<'a>,
    /// What a manifest says of this node.
    pub given: Option<&'a Node>,
}

/// A turn that a user should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Became ready.
    Ready,
    /// Is not ready any more, and why.
    NotReady(String),
    /// A condition other than Ready became true: its reason and message.
    Pressure(String, String),
    /// No pressure any more: reason and message.
    Relief(String, String),
}

/// The Node as it is now, and what turned since `old`.
pub fn node(old: &Node, view: &View<'_>, now: Timestamp) -> (Node, Vec<Turn>) {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let known = old
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let conditions: Vec<NodeCondition> = judge(view)
        .into_iter()
        .map(|condition| timed(condition, known, now))
        .collect();
    let turns = conditions
        .iter()
        .filter_map(|condition| turn(condition, known))
        .collect();
    let own = [
        ("kubernetes.io/hostname", view.name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &view.machine.architecture),
    ];
    let mut labels = view
        .given
        .and_then(|given| given.metadata.labels.clone())
        .unwrap_or_default();
    for (key, value) in own {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let said = view.given.and_then(|given| given.spec.as_ref());
    let node = Node {
        metadata: ObjectMeta {
            name: Some(view.name.to_owned()),
            uid: Some(view.uid.to_owned()),
            creation_timestamp: Some(Time(
                Timestamp::from_second(view.created.as_second()).unwrap_or(view.created),
            )),
            labels: Some(labels),
            annotations: view.given.and_then(|given| given.metadata.annotations.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: view.pod_cidrs.first().cloned(),
            pod_cidrs: Some(view.pod_cidrs.clone()).filter(|networks| !networks.is_empty()),
            taints: said.and_then(|spec| spec.taints.clone()),
            unschedulable: said.and_then(|spec| spec.unschedulable),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses(view)),
            // Nothing is set aside for the system, so all of it can be given to pods.
            allocatable: Some(capacity(view)),
            capacity: Some(capacity(view)),
            conditions: Some(conditions),
            node_info: Some(info(view)),
            ..NodeStatus::default()
        }),
    };
    (node, turns)
}

fn capacity(view: &View<'_>) -> BTreeMap<String, Quantity> {
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), Quantity(view.machine.cpus.to_string())),
        (
            "memory".to_owned(),
            Quantity(format!("{}Ki", view.machine.memory / 1024)),
        ),
        ("pods".to_owned(), Quantity(MAX_PODS.to_string())),
    ]);
    if let Some(usage) = view.usage {
        capacity.insert(
            "ephemeral-storage".to_owned(),
            Quantity(format!("{}Ki", usage.disk / 1024)),
        );
    }
    capacity
}

fn addresses(view: &View<'_>) -> Vec<NodeAddress> {
    let internal = view
        .addresses
        .iter()
        .map(|address| ("InternalIP", address.to_string()));
    let name = Some(("Hostname", view.machine.host_name.clone())).filter(|(_, name)| !name.is_empty());
    internal
        .chain(name)
        .map(|(type_, address)| NodeAddress {
            type_: type_.to_owned(),
            address,
        })
        .collect()
}

fn info(view: &View<'_>) -> NodeSystemInfo {
    let machine = view.machine;
    NodeSystemInfo {
        architecture: machine.architecture.clone(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: view.runtime.to_owned(),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: format!("v{}", view.version),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        swap: (machine.swap > 0).then(|| NodeSwapStatus {
            capacity: i64::try_from(machine.swap).ok(),
        }),
        system_uuid: machine.system_uuid.clone(),
    }
}

/// The conditions without their times, Ready last.
fn judge(view: &View<'_>) -> Vec<NodeCondition> {
    let mut conditions = match view.usage {
        Some(usage) => pressures(usage).to_vec(),
        None => ["MemoryPressure", "DiskPressure", "PIDPressure"]
            .map(unread)
            .to_vec(),
    };
    conditions.push(ready(view));
    conditions
}

/// What is short on this machine.
fn pressures(usage: Usage) -> [NodeCondition; 3] {
    let disk = percent(usage.disk_available, usage.disk);
    let pids = percent(usage.pids_most.saturating_sub(usage.pids), usage.pids_most);
    [
        condition(
            "MemoryPressure",
            usage.memory_available < MEMORY_FLOOR,
            ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
            format!("{} MiB of memory are available", usage.memory_available >> 20),
        ),
        condition(
            "DiskPressure",
            disk < 10,
            ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
            format!("{disk} % of the file system of pods' directories are available"),
        ),
        condition(
            "PIDPressure",
            pids < 10,
            ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
            format!(
                "{} of {} processes and threads are in use",
                usage.pids, usage.pids_most
            ),
        ),
    ]
}

/// A pressure that could not be looked at.
fn unread(type_: &str) -> NodeCondition {
    let message = "could not be read".to_owned();
    NodeCondition {
        status: "Unknown".to_owned(),
        ..condition(type_, false, ["NodeStatusUnknown"; 2], message)
    }
}

/// Ready while every subsystem works; else their own words.
fn ready(view: &View<'_>) -> NodeCondition {
    let complaint = |(name, report): (&&str, &Option<Result<(), String>>)| match report {
        Some(Ok(())) => None,
        Some(Err(message)) => Some(format!("{name}: {message}")),
        None => Some(format!("{name}: has not reported yet")),
    };
    let complaints: Vec<String> = view.reports.iter().filter_map(complaint).collect();
    let message = if complaints.is_empty() {
        "all subsystems work".to_owned()
    } else {
        complaints.join("; ")
    };
    condition(
        "Ready",
        complaints.is_empty(),
        ["KubeletReady", "KubeletNotReady"],
        message,
    )
}

fn condition(type_: &str, holds: bool, [when, unless]: [&str; 2], message: String) -> NodeCondition {
    NodeCondition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(if holds { when } else { unless }.to_owned()),
        message: Some(message),
        last_heartbeat_time: None,
        last_transition_time: None,
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    // A whole of nothing was not measured, which is no shortage.
    if whole == 0 {
        100
    } else {
        (u128::from(part) * 100 / u128::from(whole))
            .try_into()
            .unwrap_or(100)
    }
}

/// Times move with what they stand for. Figures in a message change all the time: they are told with the heartbeat.
fn timed(new: NodeCondition, known: &[NodeCondition], now: Timestamp) -> NodeCondition {
    let old = known.iter().find(|old| old.type_ == new.type_);
    let same = old.filter(|old| old.status == new.status && old.reason == new.reason);
    let recent = |old: &&NodeCondition| {
        old.last_heartbeat_time
            .as_ref()
            .is_some_and(|time| now.duration_since(time.0) < HEARTBEAT)
    };
    // What Ready says is always news: it names what is wrong.
    if let Some(old) = same
        .filter(recent)
        .filter(|old| new.type_ != "Ready" || old.message == new.message)
    {
        return old.clone();
    }
    let since = old
        .filter(|old| old.status == new.status)
        .and_then(|old| old.last_transition_time.clone());
    NodeCondition {
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
        ..new
    }
}

fn turn(new: &NodeCondition, known: &[NodeCondition]) -> Option<Turn> {
    let old = known
        .iter()
        .find(|old| old.type_ == new.type_)
        .map(|old| old.status.as_str());
    let message = new.message.clone().unwrap_or_default();
    let reason = new.reason.clone().unwrap_or_default();
    match (new.type_.as_str(), old, new.status.as_str()) {
        (_, Some(old), new) if old == new => None,
        ("Ready", _, "True") => Some(Turn::Ready),
        // At the start nothing is ready yet: that is no turn.
        ("Ready", old, _) => old.map(|_| Turn::NotReady(message)),
        (_, _, "True") => Some(Turn::Pressure(reason, message)),
        (_, Some("True"), "False") => Some(Turn::Relief(reason, message)),
        _ => None,
    }
}
