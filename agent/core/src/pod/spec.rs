//! What the runtime is told of a pod: sandbox and containers, in words of our own. The CRI door turns them into messages.

mod notes;
mod security;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use k8s_openapi::{
    api::core::v1::{self as api, Pod, PodSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

pub use self::{
    notes::{container_hash, label},
    security::{Security, non_root_problem},
};
use super::{
    env::{self, Missing, NodeFacts, Sources},
    resources::{self, Qos, Resources},
};
use crate::object::Key;

/// Where a namespace of the pod comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// One for the pod.
    Pod,
    /// One per container.
    Container,
    /// The host's.
    Node,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID.
    pub uid: String,
    /// Counts sandboxes.
    pub attempt: u32,
    /// Host name inside; empty on the host's network.
    pub hostname: String,
    /// Network, process and IPC namespaces.
    pub network: Share,
    /// Processes.
    pub pid: Share,
    /// IPC.
    pub ipc: Share,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Container ports with a host port.
    pub host_ports: Vec<HostPort>,
    /// Sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// User, where the pod sets one for all.
    pub run_as_user: Option<i64>,
    /// Group.
    pub run_as_group: Option<i64>,
    /// Some container is privileged.
    pub privileged: bool,
    /// Limits of the pod.
    pub resources: Resources,
    /// Class.
    pub qos: Qos,
}

/// A port of the host for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// On the host.
    pub host_port: i32,
    /// In the pod.
    pub container_port: i32,
    /// Address on the host; empty = all.
    pub host_ip: String,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Name in the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// Image as the pod names it.
    pub image: String,
    /// Replaces the image's entry point.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Working directory; empty = the image's.
    pub working_dir: String,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Mounts of volumes.
    pub mounts: Vec<VolumeMount>,
    /// Where its last word is read from.
    pub termination_message_path: String,
    /// Log, below the pod's log directory.
    pub log_path: PathBuf,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Limits.
    pub resources: Resources,
    /// For the kernel's out-of-memory killer.
    pub oom_score_adj: i64,
    /// Security.
    pub security: Security,
    /// Standard input stays open.
    pub stdin: bool,
    /// It is closed after the first client.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
}

/// A mount of one of the pod's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume.
    pub volume: String,
    /// Path inside.
    pub path: String,
    /// Path within the volume; empty = all of it.
    pub sub_path: String,
    /// Read only.
    pub read_only: bool,
    /// `None`, `HostToContainer` or `Bidirectional`.
    pub propagation: Option<String>,
}

/// `Always`, `IfNotPresent` or `Never`; unset: `Always` for `:latest` and no tag.
pub fn pull_policy(container: &api::Container) -> &str {
    if let Some(policy) = container
        .image_pull_policy
        .as_deref()
        .filter(|policy| !policy.is_empty())
    {
        return policy;
    }
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        _ if image.contains('@') => "IfNotPresent",
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// The pod's sandbox.
pub fn sandbox(pod: &Pod, attempt: u32) -> SandboxSpec {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let Key { namespace, name } = Key::of(&pod.metadata);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let security = spec.security_context.as_ref();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(&namespace, &name, &uid));
    let host_network = spec.host_network.unwrap_or(false);
    let share = |host: Option<bool>, other: Share| if host.unwrap_or(false) { Share::Node } else { other };
    let processes = if spec.share_process_namespace.unwrap_or(false) {
        Share::Pod
    } else {
        Share::Container
    };
    SandboxSpec {
        hostname: if host_network {
            String::new()
        } else {
            hostname(spec, &name)
        },
        network: share(spec.host_network, Share::Pod),
        pid: share(spec.host_pid, processes),
        ipc: share(spec.host_ipc, Share::Pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        host_ports: if host_network {
            Vec::new()
        } else {
            host_ports(spec)
        },
        sysctls: security
            .and_then(|security| security.sysctls.as_ref())
            .into_iter()
            .flatten()
            .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
            .collect(),
        run_as_user: security.and_then(|security| security.run_as_user),
        run_as_group: security.and_then(|security| security.run_as_group),
        privileged: containers(spec).any(|c| {
            c.security_context
                .as_ref()
                .is_some_and(|s| s.privileged == Some(true))
        }),
        resources: resources::pod(spec),
        qos: resources::qos(spec),
        name,
        namespace,
        uid,
        attempt,
        labels,
    }
}

/// A container, with its environment; fails naming what is missing.
pub fn container(
    container: &api::Container,
    attempt: u32,
    sources: &Sources<'_>,
) -> Result<ContainerSpec, Missing> {
    let empty = PodSpec::default();
    let spec = sources.pod.spec.as_ref().unwrap_or(&empty);
    let env = env::environment(container, sources)?;
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let expand = |list: Option<&Vec<String>>| {
        list.into_iter()
            .flatten()
            .map(|text| env::expand(text, &known))
            .collect()
    };
    let Key { namespace, name } = Key::of(&sources.pod.metadata);
    let uid = sources.pod.metadata.uid.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = identity(&namespace, &name, &uid).into_iter().collect();
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt,
        image: container.image.clone().unwrap_or_default(),
        command: expand(container.command.as_ref()),
        args: expand(container.args.as_ref()),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: mounts(container, &known)?,
        termination_message_path: termination_path(container).to_owned(),
        log_path: log_path(&container.name, attempt),
        labels,
        annotations: notes::annotations(container, attempt, sources.pod),
        resources: resources::container(container),
        oom_score_adj: resources::oom_score_adj(spec, container, sources.node.memory),
        security: security::of(spec, container),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        env,
    })
}

/// A container's log below the pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> PathBuf {
    PathBuf::from(container).join(format!("{attempt}.log"))
}

/// Where a probe or hook that names a port by name goes.
pub fn port_number(container: &api::Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = ports.into_iter().find(|port| port.name.as_deref() == Some(name));
            named
                .and_then(|port| u16::try_from(port.container_port).ok())
                .or_else(|| name.parse().ok())
        }
    }
}

/// The host name inside the pod, at most 63 characters.
pub fn hostname(spec: &PodSpec, pod_name: &str) -> String {
    let name = spec
        .hostname
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or(pod_name);
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn identity(namespace: &str, name: &str, uid: &str) -> [(String, String); 3] {
    [
        (label::POD_NAMESPACE.to_owned(), namespace.to_owned()),
        (label::POD_NAME.to_owned(), name.to_owned()),
        (label::POD_UID.to_owned(), uid.to_owned()),
    ]
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &api::Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                host_port: port.host_port.filter(|port| *port != 0)?,
                container_port: port.container_port,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn mounts(container: &api::Container, known: &BTreeMap<String, String>) -> Result<Vec<VolumeMount>, Missing> {
    let mount = |mount: &api::VolumeMount| {
        Ok(VolumeMount {
            volume: mount.name.clone(),
            path: mount.mount_path.clone(),
            sub_path: match mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
                Some(expression) => sub_path(expression, known)?,
                None => mount.sub_path.clone().unwrap_or_default(),
            },
            read_only: mount.read_only.unwrap_or(false),
            propagation: mount.mount_propagation.clone(),
        })
    };
    container.volume_mounts.iter().flatten().map(mount).collect()
}

/// A path of variables: unlike elsewhere an unknown one is an error, since a folder of its name would be made. And what the
/// variables hold must not lead out of the volume.
fn sub_path(expression: &str, known: &BTreeMap<String, String>) -> Result<String, Missing> {
    if let Some(name) = env::unknown(expression, known) {
        return Err(format!(
            "failed to expand subPathExpr \"{expression}\": missing value for \"{name}\""
        ));
    }
    let path = env::expand(expression, known);
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!(
            "subPathExpr \"{expression}\" gives \"{path}\": it must be a relative path without '..'"
        ));
    }
    Ok(path)
}

fn termination_path(container: &api::Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log")
}

/// The pod's addresses as its status and its containers see them.
pub fn pod_ips(spec: &PodSpec, sandbox_ips: &[IpAddr], node: &NodeFacts) -> Vec<IpAddr> {
    if spec.host_network.unwrap_or(false) {
        node.ips.clone()
    } else {
        sandbox_ips.to_vec()
    }
}
