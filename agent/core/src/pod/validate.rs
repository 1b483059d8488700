//! What a pod may say: Kubernetes' rules, and the fields this version does not implement, each named with its path.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, Probe},
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use serde_json::Value;

use super::{resources, supported};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.containers[0].image`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything that is wrong with a pod.
pub fn validate(pod: &Pod) -> Vec<FieldError> {
    match &pod.spec {
        Some(spec) => validate_spec(spec, "spec"),
        None => vec![FieldError {
            path: "spec".into(),
            message: "Required value".into(),
        }],
    }
}

/// Everything that is wrong with a pod's spec; `path` is where it stands (`spec.template.spec` of a Deployment).
pub fn validate_spec(spec: &PodSpec, path: &str) -> Vec<FieldError> {
    let mut checker = Checker { errors: Vec::new() };
    checker.unsupported(spec, path);
    checker.spec(spec, path);
    checker.errors
}

struct Checker {
    errors: Vec<FieldError>,
}

impl Checker {
    fn fault(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError {
            path: path.into(),
            message: message.into(),
        });
    }

    /// Walk the JSON form and name every leaf that is not in the list.
    fn unsupported(&mut self, spec: &PodSpec, at: &str) {
        let Ok(value) = serde_json::to_value(spec) else {
            return;
        };
        let mut found = Vec::new();
        walk(&value, String::new(), String::new(), &mut found);
        for path in found {
            self.fault(
                format!("{at}.{path}"),
                "is not implemented by this version; the pod would run without it",
            );
        }
    }

    fn spec(&mut self, spec: &PodSpec, path: &str) {
        if spec.containers.is_empty() {
            self.fault(format!("{path}.containers"), "Required value");
        }
        self.one_of(
            spec.restart_policy.as_deref(),
            &format!("{path}.restartPolicy"),
            &["Always", "OnFailure", "Never"],
        );
        let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        self.one_of(spec.dns_policy.as_deref(), &format!("{path}.dnsPolicy"), &dns);
        if spec
            .termination_grace_period_seconds
            .is_some_and(|seconds| seconds < 0)
        {
            self.fault(
                format!("{path}.terminationGracePeriodSeconds"),
                "must be greater than or equal to 0",
            );
        }
        if spec.active_deadline_seconds.is_some_and(|seconds| seconds < 1) {
            self.fault(
                format!("{path}.activeDeadlineSeconds"),
                "must be between 1 and 2147483647",
            );
        }
        let volumes = self.volumes(spec, path);
        let mut names = BTreeSet::new();
        let lists = [
            (
                "initContainers",
                spec.init_containers.as_deref().unwrap_or_default(),
            ),
            ("containers", &spec.containers[..]),
        ];
        for (list, containers) in lists {
            for (index, container) in containers.iter().enumerate() {
                let at = format!("{path}.{list}[{index}]");
                if !names.insert(container.name.as_str()) {
                    self.fault(
                        format!("{at}.name"),
                        format!("Duplicate value: \"{}\"", container.name),
                    );
                }
                self.container(container, &at, &volumes);
            }
        }
    }

    /// Checks the volumes; returns their names.
    fn volumes<'a>(&mut self, spec: &'a PodSpec, path: &str) -> BTreeSet<&'a str> {
        let mut volumes = BTreeSet::new();
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            let at = format!("{path}.volumes[{index}]");
            self.label(&volume.name, &format!("{at}.name"));
            if !volumes.insert(volume.name.as_str()) {
                self.fault(
                    format!("{at}.name"),
                    format!("Duplicate value: \"{}\"", volume.name),
                );
            }
            let sources = [
                volume.config_map.is_some(),
                volume.secret.is_some(),
                volume.empty_dir.is_some(),
                volume.host_path.is_some(),
            ];
            match sources.iter().filter(|set| **set).count() {
                1 => {}
                0 => self.fault(
                    &at,
                    "must specify a volume type (emptyDir, hostPath, configMap or secret)",
                ),
                _ => self.fault(&at, "may not specify more than 1 volume type"),
            }
        }
        volumes
    }

    fn container(&mut self, container: &Container, at: &str, volumes: &BTreeSet<&str>) {
        self.label(&container.name, &format!("{at}.name"));
        if container.image.as_deref().unwrap_or_default().trim().is_empty() {
            self.fault(format!("{at}.image"), "Required value");
        }
        let policies = ["Always", "IfNotPresent", "Never"];
        self.one_of(
            container.image_pull_policy.as_deref(),
            &format!("{at}.imagePullPolicy"),
            &policies,
        );
        for (index, variable) in container.env.iter().flatten().enumerate() {
            let path = format!("{at}.env[{index}]");
            if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
                self.fault(format!("{path}.name"), "must be a name without '='");
            }
            if variable.value.as_deref().is_some_and(|value| !value.is_empty())
                && variable.value_from.is_some()
            {
                self.fault(
                    format!("{path}.valueFrom"),
                    "may not be specified when `value` is not empty",
                );
            }
        }
        let mut paths = BTreeSet::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let path = format!("{at}.volumeMounts[{index}]");
            if !volumes.contains(mount.name.as_str()) {
                self.fault(format!("{path}.name"), format!("Not found: \"{}\"", mount.name));
            }
            if !paths.insert(mount.mount_path.as_str()) {
                self.fault(
                    format!("{path}.mountPath"),
                    format!("must be unique: \"{}\"", mount.mount_path),
                );
            }
            let escapes = |path: &str| path.starts_with('/') || path.split('/').any(|part| part == "..");
            if mount.sub_path.as_deref().is_some_and(escapes) {
                self.fault(format!("{path}.subPath"), "must be a relative path without '..'");
            }
        }
        self.ports(container, at);
        self.resources(container, at);
        let probes = [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ];
        for (name, probe) in probes {
            if let Some(probe) = probe {
                self.probe(probe, container, &format!("{at}.{name}"), name);
            }
        }
    }

    fn ports(&mut self, container: &Container, at: &str) {
        let mut names = BTreeSet::new();
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("{at}.ports[{index}]");
            if !(1..=65_535).contains(&port.container_port) {
                self.fault(format!("{path}.containerPort"), "must be between 1 and 65535");
            }
            self.one_of(
                port.protocol.as_deref(),
                &format!("{path}.protocol"),
                &["TCP", "UDP", "SCTP"],
            );
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty())
                && !names.insert(name)
            {
                self.fault(format!("{path}.name"), format!("Duplicate value: \"{name}\""));
            }
        }
    }

    fn resources(&mut self, container: &Container, at: &str) {
        let Some(set) = &container.resources else { return };
        let sides = [("requests", &set.requests), ("limits", &set.limits)];
        for (side, list) in sides {
            for (name, quantity) in list.iter().flatten() {
                match resources::milli(quantity) {
                    Some(milli) if milli >= 0 => {}
                    _ => self.fault(
                        format!("{at}.resources.{side}[{name}]"),
                        format!(
                            "Invalid value: \"{}\": must be a quantity that is not negative",
                            quantity.0
                        ),
                    ),
                }
            }
        }
        let of = |list: &Option<std::collections::BTreeMap<String, Quantity>>, name: &str| {
            list.as_ref()
                .and_then(|list| list.get(name))
                .and_then(resources::milli)
        };
        for name in ["cpu", "memory"] {
            if let (Some(request), Some(limit)) = (of(&set.requests, name), of(&set.limits, name))
                && request > limit
            {
                self.fault(
                    format!("{at}.resources.requests[{name}]"),
                    format!("must be less than or equal to {name} limit"),
                );
            }
        }
    }

    fn probe(&mut self, probe: &Probe, container: &Container, at: &str, kind: &str) {
        let handlers = [
            probe.exec.is_some(),
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.grpc.is_some(),
        ];
        match handlers.iter().filter(|set| **set).count() {
            1 => {}
            0 => self.fault(
                at,
                "must specify a handler type (exec, httpGet, tcpSocket or grpc)",
            ),
            _ => self.fault(at, "may not specify more than 1 handler type"),
        }
        let numbers = [
            ("initialDelaySeconds", probe.initial_delay_seconds, 0),
            ("timeoutSeconds", probe.timeout_seconds, 1),
            ("periodSeconds", probe.period_seconds, 1),
            ("successThreshold", probe.success_threshold, 1),
            ("failureThreshold", probe.failure_threshold, 1),
        ];
        for (name, value, least) in numbers {
            if value.is_some_and(|value| value < least) {
                self.fault(
                    format!("{at}.{name}"),
                    format!("must be greater than or equal to {least}"),
                );
            }
        }
        if kind != "readinessProbe" && probe.success_threshold.is_some_and(|threshold| threshold > 1) {
            self.fault(format!("{at}.successThreshold"), "must be 1");
        }
        if kind == "readinessProbe" && probe.termination_grace_period_seconds.is_some() {
            self.fault(
                format!("{at}.terminationGracePeriodSeconds"),
                "must not be set for readinessProbes",
            );
        }
        let http = probe.http_get.as_ref().map(|get| &get.port);
        if let Some(port) = http.or(probe.tcp_socket.as_ref().map(|tcp| &tcp.port)) {
            self.port(port, container, at);
        }
    }

    fn port(&mut self, port: &IntOrString, container: &Container, at: &str) {
        match port {
            IntOrString::Int(number) if (1..=65_535).contains(number) => {}
            IntOrString::Int(_) => self.fault(format!("{at}.port"), "must be between 1 and 65535"),
            IntOrString::String(_) if super::spec::port_number(container, port).is_some() => {}
            IntOrString::String(name) => {
                self.fault(
                    format!("{at}.port"),
                    format!("no port of the container is named \"{name}\""),
                );
            }
        }
    }

    fn label(&mut self, name: &str, path: &str) {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() {
            self.fault(path, "Required value");
        } else if name.len() > 63 || !name.chars().all(good) || name.starts_with('-') || name.ends_with('-') {
            self.fault(
                path,
                format!(
                    "Invalid value: \"{name}\": must be a DNS label (a-z, 0-9, '-', at most 63 characters)"
                ),
            );
        }
    }

    fn one_of(&mut self, value: Option<&str>, path: &str, allowed: &[&str]) {
        if let Some(value) = value.filter(|value| !allowed.contains(value)) {
            let list = allowed.join("\", \"");
            self.fault(
                path,
                format!("Unsupported value: \"{value}\": supported values: \"{list}\""),
            );
        }
    }
}

/// Every leaf that is not supported: its path as people write it. `pattern` is the same path with `[]` for indices.
fn walk(value: &Value, path: String, pattern: String, found: &mut Vec<String>) {
    let join = |base: &str, name: &str| {
        if base.is_empty() {
            name.to_owned()
        } else {
            format!("{base}.{name}")
        }
    };
    match value {
        Value::Object(map) => {
            for (name, below) in map {
                walk(below, join(&path, name), join(&pattern, name), found);
            }
        }
        Value::Array(list) => {
            for (index, below) in list.iter().enumerate() {
                walk(below, format!("{path}[{index}]"), format!("{pattern}[]"), found);
            }
        }
        Value::Null => {}
        _ if supported::is_supported(&pattern) => {}
        _ => found.push(path),
    }
}
