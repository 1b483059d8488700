//! A container's own fields: name, image, ports, mounts, resources.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, VolumeMount},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Checker, leaves};
use crate::{manifest::names, pod::resources};

/// A container and what it may refer to.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) spec: &'a PodSpec,
    pub(super) container: &'a Container,
    pub(super) volumes: &'a BTreeSet<&'a str>,
}

impl Context<'_> {
    pub(super) fn check(self, checker: &mut Checker, at: &str) {
        let container = self.container;
        checker.label(&container.name, &format!("{at}.name"));
        let image = container.image.as_deref().unwrap_or_default();
        if image.is_empty() {
            checker.required(format!("{at}.image"));
        } else if image.trim() != image {
            checker.fault(
                format!("{at}.image"),
                format!("Invalid value: \"{image}\": must not have leading or trailing whitespace"),
            );
        }
        let policies = ["Always", "IfNotPresent", "Never"];
        let policy = container.image_pull_policy.as_deref();
        checker.one_of(policy, &format!("{at}.imagePullPolicy"), &policies);
        let words = ["File", "FallbackToLogsOnError"];
        let word = container.termination_message_policy.as_deref();
        checker.one_of(word, &format!("{at}.terminationMessagePolicy"), &words);
        self.environment(checker, at);
        self.mounts(checker, at);
        self.ports(checker, at);
        self.resources(checker, at);
        self.probes(checker, at);
        self.hooks(checker, at);
        if let Some(security) = &container.security_context {
            checker.container_security(security, &format!("{at}.securityContext"));
        }
    }

    fn mounts(self, checker: &mut Checker, at: &str) {
        let mut paths = BTreeSet::new();
        for (index, mount) in self.container.volume_mounts.iter().flatten().enumerate() {
            let at = format!("{at}.volumeMounts[{index}]");
            if mount.name.is_empty() {
                checker.required(format!("{at}.name"));
            } else if !self.volumes.contains(mount.name.as_str()) {
                checker.fault(format!("{at}.name"), format!("Not found: \"{}\"", mount.name));
            }
            let path = mount.mount_path.as_str();
            if path.is_empty() {
                checker.required(format!("{at}.mountPath"));
            } else if path.contains(':') {
                checker.fault(
                    format!("{at}.mountPath"),
                    format!("Invalid value: \"{path}\": must not contain ':'"),
                );
            } else if !paths.insert(path) {
                checker.fault(
                    format!("{at}.mountPath"),
                    format!("Invalid value: \"{path}\": must be unique"),
                );
            }
            self.mount(mount, checker, &at);
        }
    }

    fn mount(self, mount: &VolumeMount, checker: &mut Checker, at: &str) {
        let set = |value: &Option<String>| value.as_deref().is_some_and(|value| !value.is_empty());
        for (name, value) in [
            ("subPath", &mount.sub_path),
            ("subPathExpr", &mount.sub_path_expr),
        ] {
            if let Some(path) = value.as_deref().filter(|path| leaves(path)) {
                checker.fault(
                    format!("{at}.{name}"),
                    format!("Invalid value: \"{path}\": must be a relative path without '..'"),
                );
            }
        }
        if set(&mount.sub_path) && set(&mount.sub_path_expr) {
            checker.fault(
                format!("{at}.subPathExpr"),
                "Invalid value: subPathExpr and subPath are mutually exclusive",
            );
        }
        let path = format!("{at}.mountPropagation");
        let modes = ["None", "HostToContainer", "Bidirectional"];
        checker.one_of(mount.mount_propagation.as_deref(), &path, &modes);
        let security = self.container.security_context.as_ref();
        let privileged = security.and_then(|security| security.privileged) == Some(true);
        if mount.mount_propagation.as_deref() == Some("Bidirectional") && !privileged {
            checker.fault(
                path,
                "Forbidden: Bidirectional is available only to privileged containers",
            );
        }
    }

    fn ports(self, checker: &mut Checker, at: &str) {
        let mut seen = BTreeSet::new();
        for (index, port) in self.container.ports.iter().flatten().enumerate() {
            let at = format!("{at}.ports[{index}]");
            checker.between(
                Some(port.container_port.into()),
                &format!("{at}.containerPort"),
                1,
                65_535,
            );
            let protocols = ["TCP", "UDP", "SCTP"];
            checker.one_of(port.protocol.as_deref(), &format!("{at}.protocol"), &protocols);
            let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            checker.check(names::port(name), format!("{at}.name"));
            if !seen.insert(name) {
                checker.duplicate(name, format!("{at}.name"));
            }
        }
    }

    fn resources(self, checker: &mut Checker, at: &str) {
        let Some(set) = &self.container.resources else {
            return;
        };
        for (side, list) in [("requests", &set.requests), ("limits", &set.limits)] {
            for (name, quantity) in list.iter().flatten() {
                checker.quantity(quantity, &format!("{at}.resources.{side}[{name}]"));
            }
        }
        let of = |list: &Option<BTreeMap<String, Quantity>>, name: &str| {
            list.as_ref()
                .and_then(|list| list.get(name))
                .and_then(resources::milli)
        };
        for name in ["cpu", "memory"] {
            if let (Some(request), Some(limit)) = (of(&set.requests, name), of(&set.limits, name))
                && request > limit
            {
                checker.fault(
                    format!("{at}.resources.requests[{name}]"),
                    format!("Invalid value: must be less than or equal to {name} limit"),
                );
            }
        }
    }
}

impl Checker {
    /// A quantity that is not negative.
    pub(super) fn quantity(&mut self, quantity: &Quantity, path: &str) {
        let problem = match resources::milli(quantity) {
            Some(milli) if milli >= 0 => return,
            Some(_) => "must be greater than or equal to 0",
            None => "must be a number with an optional unit (m, k, M, G, Ki, Mi, Gi, …)",
        };
        self.fault(path, format!("Invalid value: \"{}\": {problem}", quantity.0));
    }
}
