//! The page of a pod.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStatus, EnvVar, Pod, PodStatus, Probe, ResourceRequirements,
        Volume, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Page, head, keyed, labels, time_of};
use crate::cli::columns::{NONE, or_none, pod::summarize};

/// All about a pod but its events.
pub fn describe(page: &mut Page, pod: &Pod) {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    head(page, &pod.metadata, true);
    page.field(0, "Priority", spec.priority.unwrap_or(0).to_string());
    page.field(
        0,
        "Service Account",
        spec.service_account_name.as_deref().unwrap_or("default"),
    );
    let address = status.host_ip.as_deref().unwrap_or_default();
    let node = spec.node_name.as_deref().unwrap_or(NONE);
    page.field(0, "Node", format!("{node}/{address}").trim_end_matches('/'));
    page.field_if(0, "Start Time", time_of(status.start_time.as_ref()));
    labels(page, &pod.metadata);
    page.field(0, "Status", summarize(pod).status);
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        page.field(
            0,
            "Termination",
            format!("since {}, grace {grace}s", super::time(deleted)),
        );
    }
    page.field_if(0, "Reason", status.reason.as_ref());
    page.field_if(0, "Message", status.message.as_ref());
    addresses(page, &status);
    for owner in pod.metadata.owner_references.iter().flatten() {
        page.field(0, "Controlled By", format!("{}/{}", owner.kind, owner.name));
    }
    if let Some(init) = spec.init_containers.filter(|list| !list.is_empty()) {
        containers(
            page,
            "Init Containers",
            &init,
            status.init_container_statuses.as_deref(),
        );
    }
    containers(
        page,
        "Containers",
        &spec.containers,
        status.container_statuses.as_deref(),
    );
    conditions(page, &status);
    volumes(page, &spec.volumes.unwrap_or_default());
    page.field(0, "QoS Class", status.qos_class.as_deref().unwrap_or(NONE));
    page.list(
        0,
        "Node-Selectors",
        keyed(spec.node_selector.iter().flatten(), "="),
    );
}

fn addresses(page: &mut Page, status: &PodStatus) {
    page.field(0, "IP", status.pod_ip.as_deref().unwrap_or_default());
    let addresses: Vec<String> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|one| format!("IP:\t{}", one.ip))
        .collect();
    if addresses.is_empty() {
        page.field(0, "IPs", NONE);
    } else {
        page.line(0, "IPs:");
        for address in addresses {
            page.line(1, &address);
        }
    }
}

fn conditions(page: &mut Page, status: &PodStatus) {
    let conditions = status.conditions.clone().unwrap_or_default();
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tReason");
        for condition in conditions {
            let why = [condition.reason, condition.message].into_iter().flatten();
            let why: Vec<String> = why.filter(|text| !text.is_empty()).collect();
            page.line(
                1,
                &format!("{}\t{}\t{}", condition.type_, condition.status, why.join(": ")),
            );
        }
    }
}

fn containers(page: &mut Page, title: &str, list: &[Container], statuses: Option<&[ContainerStatus]>) {
    page.line(0, &format!("{title}:"));
    for container in list {
        let status = statuses
            .into_iter()
            .flatten()
            .find(|status| status.name == container.name);
        page.line(1, &format!("{}:", container.name));
        identity(page, container, status);
        for (title, words) in [("Command", &container.command), ("Args", &container.args)] {
            if let Some(words) = words.as_ref().filter(|words| !words.is_empty()) {
                page.line(2, &format!("{title}:"));
                for word in words.iter().flat_map(|word| word.lines()) {
                    page.line(3, word);
                }
            }
        }
        if let Some(status) = status {
            state(page, "State", status.state.as_ref());
            if status
                .last_state
                .as_ref()
                .is_some_and(|last| last.terminated.is_some())
            {
                state(page, "Last State", status.last_state.as_ref());
            }
            page.field(2, "Ready", if status.ready { "True" } else { "False" });
            page.field(2, "Restart Count", status.restart_count.to_string());
        }
        resources(page, container.resources.as_ref());
        for (title, probe) in [
            ("Liveness", &container.liveness_probe),
            ("Readiness", &container.readiness_probe),
            ("Startup", &container.startup_probe),
        ] {
            if let Some(probe) = probe {
                page.field(2, title, probe_text(probe));
            }
        }
        environment(page, container);
        mounts(page, container.volume_mounts.as_deref().unwrap_or_default());
    }
}

fn identity(page: &mut Page, container: &Container, status: Option<&ContainerStatus>) {
    page.field(
        2,
        "Container ID",
        status
            .and_then(|status| status.container_id.as_deref())
            .unwrap_or_default(),
    );
    page.field(2, "Image", container.image.as_deref().unwrap_or_default());
    page.field(
        2,
        "Image ID",
        status.map(|status| status.image_id.as_str()).unwrap_or_default(),
    );
    let ports = container.ports.iter().flatten();
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        inner.push(format!("{}/{protocol}", port.container_port));
        outer.push(format!("{}/{protocol}", port.host_port.unwrap_or(0)));
    }
    let (one, other) = if inner.len() > 1 {
        ("Ports", "Host Ports")
    } else {
        ("Port", "Host Port")
    };
    page.field(2, one, or_none(inner.join(", ")));
    page.field(2, other, or_none(outer.join(", ")));
}

fn state(page: &mut Page, title: &str, state: Option<&ContainerState>) {
    let Some(state) = state else {
        return page.field(2, title, "Waiting");
    };
    if let Some(running) = &state.running {
        page.field(2, title, "Running");
        page.field_if(3, "Started", time_of(running.started_at.as_ref()));
    } else if let Some(ended) = &state.terminated {
        page.field(2, title, "Terminated");
        page.field_if(3, "Reason", ended.reason.as_ref());
        page.field_if(3, "Message", ended.message.as_ref().map(|text| text.trim()));
        page.field(3, "Exit Code", ended.exit_code.to_string());
        page.field_if(
            3,
            "Signal",
            ended
                .signal
                .filter(|signal| *signal != 0)
                .map(|signal| signal.to_string()),
        );
        page.field_if(3, "Started", time_of(ended.started_at.as_ref()));
        page.field_if(3, "Finished", time_of(ended.finished_at.as_ref()));
    } else {
        page.field(2, title, "Waiting");
        let waiting = state.waiting.clone().unwrap_or_default();
        page.field_if(3, "Reason", waiting.reason);
        page.field_if(3, "Message", waiting.message);
    }
}

fn resources(page: &mut Page, resources: Option<&ResourceRequirements>) {
    let Some(resources) = resources else { return };
    for (title, list) in [("Limits", &resources.limits), ("Requests", &resources.requests)] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            page.line(2, &format!("{title}:"));
            for (name, quantity) in list {
                page.field(3, name, &quantity.0);
            }
        }
    }
}

fn port_text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn probe_text(probe: &Probe) -> String {
    let what = if let Some(exec) = &probe.exec {
        format!("exec [{}]", exec.command.clone().unwrap_or_default().join(" "))
    } else if let Some(http) = &probe.http_get {
        let scheme = http.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
        let host = http.host.as_deref().unwrap_or_default();
        let path = http.path.as_deref().unwrap_or("/");
        format!("http-get {scheme}://{host}:{}{path}", port_text(&http.port))
    } else if let Some(tcp) = &probe.tcp_socket {
        format!(
            "tcp-socket {}:{}",
            tcp.host.as_deref().unwrap_or_default(),
            port_text(&tcp.port)
        )
    } else if let Some(grpc) = &probe.grpc {
        format!(
            "grpc <pod>:{} {}",
            grpc.port,
            grpc.service.as_deref().unwrap_or_default()
        )
    } else {
        "unknown".to_owned()
    };
    format!(
        "{} delay={}s timeout={}s period={}s #success={} #failure={}",
        what.trim_end(),
        probe.initial_delay_seconds.unwrap_or(0),
        probe.timeout_seconds.unwrap_or(1),
        probe.period_seconds.unwrap_or(10),
        probe.success_threshold.unwrap_or(1),
        probe.failure_threshold.unwrap_or(3)
    )
}

fn environment(page: &mut Page, container: &Container) {
    if let Some(sources) = container.env_from.as_ref().filter(|list| !list.is_empty()) {
        page.line(2, "Environment Variables from:");
        for source in sources {
            let (name, kind, optional) = match (&source.config_map_ref, &source.secret_ref) {
                (Some(map), _) => (&map.name, "ConfigMap", map.optional),
                (_, Some(secret)) => (&secret.name, "Secret", secret.optional),
                _ => continue,
            };
            page.line(
                3,
                &format!("{name}\t{kind}\tOptional: {}", optional.unwrap_or(false)),
            );
        }
    }
    let variables = container.env.clone().unwrap_or_default();
    if variables.is_empty() {
        return page.field(2, "Environment", NONE);
    }
    page.line(2, "Environment:");
    for variable in variables {
        page.field(3, &variable.name.clone(), value_of(&variable));
    }
}

fn value_of(variable: &EnvVar) -> String {
    let Some(from) = &variable.value_from else {
        return variable.value.clone().unwrap_or_default().replace('\n', " ");
    };
    if let Some(field) = &from.field_ref {
        return format!(
            "({}:{})",
            field.api_version.as_deref().unwrap_or("v1"),
            field.field_path
        );
    }
    if let Some(resource) = &from.resource_field_ref {
        return format!("({})", resource.resource);
    }
    let (name, key, kind, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(map), _) => (&map.name, &map.key, "config map", map.optional),
        (_, Some(secret)) => (&secret.name, &secret.key, "secret", secret.optional),
        _ => return String::new(),
    };
    format!(
        "<set to the key '{key}' of {kind} '{name}'>  Optional: {}",
        optional.unwrap_or(false)
    )
}

fn mounts(page: &mut Page, mounts: &[VolumeMount]) {
    if mounts.is_empty() {
        return page.field(2, "Mounts", NONE);
    }
    page.line(2, "Mounts:");
    for mount in mounts {
        let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
        let part = mount
            .sub_path
            .as_ref()
            .map(|path| format!(",path=\"{path}\""))
            .unwrap_or_default();
        page.line(
            3,
            &format!("{} from {} ({mode}{part})", mount.mount_path, mount.name),
        );
    }
}

fn volumes(page: &mut Page, volumes: &[Volume]) {
    if volumes.is_empty() {
        return page.field(0, "Volumes", NONE);
    }
    page.line(0, "Volumes:");
    for volume in volumes {
        page.line(1, &format!("{}:", volume.name));
        if let Some(map) = &volume.config_map {
            page.field(2, "Type", "ConfigMap");
            page.field(2, "Name", &map.name);
            page.field(2, "Optional", map.optional.unwrap_or(false).to_string());
        } else if let Some(secret) = &volume.secret {
            page.field(2, "Type", "Secret");
            page.field(2, "SecretName", secret.secret_name.as_deref().unwrap_or_default());
            page.field(2, "Optional", secret.optional.unwrap_or(false).to_string());
        } else if let Some(empty) = &volume.empty_dir {
            page.field(2, "Type", "EmptyDir (a folder that lives as long as the pod)");
            page.field(2, "Medium", empty.medium.as_deref().unwrap_or_default());
            let limit = empty
                .size_limit
                .as_ref()
                .map_or("<unset>", |limit| limit.0.as_str());
            page.field(2, "SizeLimit", limit);
        } else if let Some(path) = &volume.host_path {
            page.field(2, "Type", "HostPath (a file or folder of the node)");
            page.field(2, "Path", &path.path);
            page.field(2, "HostPathType", path.type_.as_deref().unwrap_or_default());
        } else {
            page.field(2, "Type", "other");
        }
    }
}
