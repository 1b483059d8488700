//! From the decisions' words to the runtime's messages. Pure.

use std::{collections::HashMap, path::Path};

use keelson_core::pod::{
    resources::{CPU_PERIOD, Resources},
    spec::{ContainerSpec, HostPort, SandboxSpec, Security, Share},
};
use keelson_proto::cri::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol, SecurityProfile, security_profile::ProfileType,
};

/// A sandbox: its description, where its logs go, its cgroup.
pub fn sandbox(spec: &SandboxSpec, dns: Option<DnsConfig>, logs: &Path, cgroup: &str) -> PodSandboxConfig {
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: spec.run_as_user.map(|value| Int64Value { value }),
        // A group without a user means nothing to the runtime.
        run_as_group: spec
            .run_as_group
            .filter(|_| spec.run_as_user.is_some())
            .map(|value| Int64Value { value }),
        privileged: spec.privileged,
        seccomp: Some(profile("RuntimeDefault", Path::new(""))),
        ..LinuxSandboxSecurityContext::default()
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: spec.name.clone(),
            uid: spec.uid.clone(),
            namespace: spec.namespace.clone(),
            attempt: spec.attempt,
        }),
        hostname: spec.hostname.clone(),
        log_directory: logs.display().to_string(),
        dns_config: dns,
        port_mappings: spec.host_ports.iter().map(port).collect(),
        labels: map(&spec.labels),
        annotations: map(&spec.annotations),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup.to_owned(),
            security_context: Some(security),
            sysctls: map(&spec.sysctls),
            ..LinuxPodSandboxConfig::default()
        }),
    }
}

/// A container in it; `mounts` are resolved already, `profiles` is the folder of seccomp profiles.
pub fn container(
    spec: &ContainerSpec,
    sandbox: &SandboxSpec,
    mounts: Vec<Mount>,
    profiles: &Path,
) -> ContainerConfig {
    let env = |(key, value): &(String, String)| KeyValue {
        key: key.clone(),
        value: value.clone(),
    };
    let mut resources = resources(&spec.resources);
    resources.oom_score_adj = spec.oom_score_adj;
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: spec.name.clone(),
            attempt: spec.attempt,
        }),
        image: Some(ImageSpec {
            image: spec.image.clone(),
            user_specified_image: spec.image.clone(),
            ..ImageSpec::default()
        }),
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: spec.working_dir.clone(),
        envs: spec.env.iter().map(env).collect(),
        mounts,
        labels: map(&spec.labels),
        annotations: map(&spec.annotations),
        log_path: spec.log_path.display().to_string(),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security(&spec.security, sandbox, profiles)),
        }),
        ..ContainerConfig::default()
    }
}

/// A plain mount.
pub fn mount(container_path: &str, host_path: &Path, readonly: bool, propagation: Option<&str>) -> Mount {
    let propagation = match propagation {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        readonly,
        propagation: propagation.into(),
        ..Mount::default()
    }
}

fn namespaces(spec: &SandboxSpec) -> NamespaceOption {
    let mode = |share| match share {
        Share::Pod => NamespaceMode::Pod,
        Share::Container => NamespaceMode::Container,
        Share::Node => NamespaceMode::Node,
    };
    NamespaceOption {
        network: mode(spec.network).into(),
        pid: mode(spec.pid).into(),
        ipc: mode(spec.ipc).into(),
        ..NamespaceOption::default()
    }
}

fn resources(resources: &Resources) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares: signed(resources.cpu_shares),
        cpu_period: resources.cpu_quota.map_or(0, |_| signed(CPU_PERIOD)),
        cpu_quota: resources.cpu_quota.map_or(0, signed),
        memory_limit_in_bytes: resources.memory.map_or(0, signed),
        ..LinuxContainerResources::default()
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn security(security: &Security, sandbox: &SandboxSpec, profiles: &Path) -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            ..Capability::default()
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(sandbox)),
        run_as_user: security.run_as_user.map(|value| Int64Value { value }),
        run_as_username: security.run_as_username.clone(),
        run_as_group: security.run_as_group.map(|value| Int64Value { value }),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: security.supplemental_groups.clone(),
        no_new_privs: security.no_new_privileges,
        seccomp: Some(profile(&security.seccomp, profiles)),
        ..LinuxContainerSecurityContext::default()
    }
}

fn profile(name: &str, profiles: &Path) -> SecurityProfile {
    let (kind, file) = match name.split_once('/') {
        Some(("Localhost", file)) => (ProfileType::Localhost, profiles.join(file).display().to_string()),
        _ if name == "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: file,
    }
}

fn port(port: &HostPort) -> PortMapping {
    let protocol = match port.protocol.as_str() {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port: port.host_port,
        host_ip: port.host_ip.clone(),
    }
}

fn map(map: &std::collections::BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
