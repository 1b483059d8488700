//! What a pod may say: Kubernetes' rules, and the fields this version does not implement, each named with its path.

mod container;
mod env;
mod handlers;
mod security;
mod volumes;

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use serde_json::Value;

use super::supported;
use crate::manifest::names;

/// Name servers a resolver takes.
const NAME_SERVERS: usize = 3;
/// Search domains, and their characters together.
const SEARCHES: (usize, usize) = (32, 2048);

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
        if spec.host_users == Some(false) {
            self.fault(
                format!("{at}.hostUsers"),
                "user namespaces are not implemented by this version; only true is",
            );
        }
    }

    fn spec(&mut self, spec: &PodSpec, path: &str) {
        if spec.containers.is_empty() {
            self.required(format!("{path}.containers"));
        }
        let restarts = ["Always", "OnFailure", "Never"];
        self.one_of(
            spec.restart_policy.as_deref(),
            &format!("{path}.restartPolicy"),
            &restarts,
        );
        let os = spec.os.as_ref().map(|os| os.name.as_str());
        self.one_of(os, &format!("{path}.os.name"), &["linux"]);
        let grace = spec.termination_grace_period_seconds;
        self.between(
            grace,
            &format!("{path}.terminationGracePeriodSeconds"),
            0,
            i64::MAX,
        );
        let deadline = spec.active_deadline_seconds;
        self.between(
            deadline,
            &format!("{path}.activeDeadlineSeconds"),
            1,
            i32::MAX.into(),
        );
        for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                self.label(value, &format!("{path}.{name}"));
            }
        }
        if spec.host_pid == Some(true) && spec.share_process_namespace == Some(true) {
            self.fault(
                format!("{path}.shareProcessNamespace"),
                "Invalid value: true: and hostPID cannot both be enabled",
            );
        }
        self.names_of_hosts(spec, path);
        for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
            let at = format!("{path}.readinessGates[{index}].conditionType");
            self.check(names::qualified(&gate.condition_type), at);
        }
        if let Some(security) = &spec.security_context {
            self.pod_security(security, spec, &format!("{path}.securityContext"));
        }
        let volumes = self.volumes(spec, path);
        self.containers(spec, path, &volumes);
    }

    fn containers(&mut self, spec: &PodSpec, path: &str, volumes: &BTreeSet<&str>) {
        let mut seen = BTreeSet::new();
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
                if !seen.insert(container.name.as_str()) {
                    self.duplicate(&container.name, format!("{at}.name"));
                }
                container::Context {
                    spec,
                    container,
                    volumes,
                }
                .check(self, &at);
            }
        }
    }

    /// `dnsPolicy`, `dnsConfig`, `hostAliases`.
    fn names_of_hosts(&mut self, spec: &PodSpec, path: &str) {
        let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        self.one_of(
            spec.dns_policy.as_deref(),
            &format!("{path}.dnsPolicy"),
            &policies,
        );
        let empty = PodDNSConfig::default();
        let dns = spec.dns_config.as_ref().unwrap_or(&empty);
        let at = format!("{path}.dnsConfig");
        let servers = dns.nameservers.as_deref().unwrap_or_default();
        if servers.is_empty() && spec.dns_policy.as_deref() == Some("None") {
            self.fault(
                format!("{at}.nameservers"),
                "Required value: at least one name server when dnsPolicy is None",
            );
        }
        if servers.len() > NAME_SERVERS {
            self.fault(
                format!("{at}.nameservers"),
                format!("Too many: at most {NAME_SERVERS}"),
            );
        }
        for (index, server) in servers.iter().enumerate() {
            self.address(server, &format!("{at}.nameservers[{index}]"));
        }
        let searches = dns.searches.as_deref().unwrap_or_default();
        let characters = searches.iter().map(|search| search.len() + 1).sum::<usize>();
        if searches.len() > SEARCHES.0 || characters > SEARCHES.1 + 1 {
            let (most, characters) = SEARCHES;
            self.fault(
                format!("{at}.searches"),
                format!("Too many: at most {most}, of {characters} characters together"),
            );
        }
        for (index, search) in searches.iter().enumerate() {
            // A final dot, and a dot alone, are meant as they stand.
            let name = search.strip_suffix('.').unwrap_or(search);
            if !name.is_empty() {
                self.check(names::subdomain(name), format!("{at}.searches[{index}]"));
            }
        }
        for (index, option) in dns.options.iter().flatten().enumerate() {
            if option.name.as_deref().unwrap_or_default().is_empty() {
                self.required(format!("{at}.options[{index}].name"));
            }
        }
        for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
            let at = format!("{path}.hostAliases[{index}]");
            self.address(&alias.ip, &format!("{at}.ip"));
            for (index, name) in alias.hostnames.iter().flatten().enumerate() {
                self.check(names::subdomain(name), format!("{at}.hostnames[{index}]"));
            }
        }
    }

    fn required(&mut self, path: impl Into<String>) {
        self.fault(path, "Required value");
    }

    fn duplicate(&mut self, value: &str, path: impl Into<String>) {
        self.fault(path, format!("Duplicate value: \"{value}\""));
    }

    /// Add what a function of [`names`] found.
    fn check(&mut self, problem: Option<String>, path: impl Into<String>) {
        if let Some(problem) = problem {
            self.fault(path, format!("Invalid value: {problem}"));
        }
    }

    /// A name that must be there and look like one.
    fn name(&mut self, name: Option<&str>, path: &str, rule: fn(&str) -> Option<String>) {
        match name.filter(|name| !name.is_empty()) {
            None => self.required(path),
            Some(name) => self.check(rule(name), path),
        }
    }

    fn label(&mut self, name: &str, path: &str) {
        self.name(Some(name), path, names::label);
    }

    fn address(&mut self, text: &str, path: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.fault(
                path,
                format!("Invalid value: \"{text}\": must be a valid IP address"),
            );
        }
    }

    fn between(&mut self, value: Option<i64>, path: &str, least: i64, most: i64) {
        let Some(value) = value.filter(|value| !(least..=most).contains(value)) else {
            return;
        };
        let rule = if most == i64::MAX {
            format!("must be greater than or equal to {least}")
        } else {
            format!("must be between {least} and {most}, inclusive")
        };
        self.fault(path, format!("Invalid value: {value}: {rule}"));
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

    /// Exactly one of several must be set.
    fn exactly_one(&mut self, set: &[bool], path: &str, what: &str, choice: &str) {
        match set.iter().filter(|set| **set).count() {
            1 => {}
            0 => self.fault(path, format!("Required value: must specify a {what} ({choice})")),
            _ => self.fault(path, format!("Forbidden: may not specify more than 1 {what}")),
        }
    }
}

/// A path below something else: relative, and never upwards.
fn leaves(path: &str) -> bool {
    path.starts_with('/') || path.split('/').any(|part| part == "..")
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
