//! Where a container's environment comes from.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVarSource, ResourceFieldSelector};

use super::{Checker, container::Context};
use crate::manifest::names;

/// Fields of the pod that `fieldRef` offers, besides single labels and annotations.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const CPU_DIVISORS: [&str; 3] = ["0", "1m", "1"];
const MEMORY_DIVISORS: [&str; 14] = [
    "0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

impl Context<'_> {
    pub(super) fn environment(self, checker: &mut Checker, at: &str) {
        for (index, variable) in self.container.env.iter().flatten().enumerate() {
            let at = format!("{at}.env[{index}]");
            if variable.name.is_empty() {
                checker.required(format!("{at}.name"));
            } else {
                checker.variable(&variable.name, format!("{at}.name"));
            }
            let Some(from) = &variable.value_from else {
                continue;
            };
            let at = format!("{at}.valueFrom");
            if variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
                checker.fault(
                    &at,
                    "Invalid value: may not be specified when `value` is not empty",
                );
            }
            self.source(from, checker, &at);
        }
        for (index, source) in self.container.env_from.iter().flatten().enumerate() {
            checker.env_from(source, &format!("{at}.envFrom[{index}]"));
        }
    }

    fn source(self, from: &EnvVarSource, checker: &mut Checker, at: &str) {
        let set = [
            from.field_ref.is_some(),
            from.resource_field_ref.is_some(),
            from.config_map_key_ref.is_some(),
            from.secret_key_ref.is_some(),
            from.file_key_ref.is_some(),
        ];
        let choice = "fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef";
        checker.exactly_one(&set, at, "source", choice);
        if let Some(field) = &from.field_ref {
            let at = format!("{at}.fieldRef.fieldPath");
            if field.field_path.is_empty() {
                checker.required(at);
            } else if !is_field(&field.field_path) {
                checker.fault(
                    at,
                    format!(
                        "Unsupported value: \"{}\": supported values: \"{}\", and metadata.labels['<key>'], metadata.annotations['<key>']",
                        field.field_path,
                        FIELDS.join("\", \"")
                    ),
                );
            }
        }
        if let Some(resource) = &from.resource_field_ref {
            self.resource(resource, checker, &format!("{at}.resourceFieldRef"));
        }
        let map = from.config_map_key_ref.as_ref();
        let secret = from.secret_key_ref.as_ref();
        let references = [
            ("configMapKeyRef", map.map(|one| (&one.name, &one.key))),
            ("secretKeyRef", secret.map(|one| (&one.name, &one.key))),
        ];
        for (kind, reference) in references {
            let Some((name, key)) = reference else { continue };
            checker.name(Some(name), &format!("{at}.{kind}.name"), names::subdomain);
            checker.name(Some(key), &format!("{at}.{kind}.key"), names::data_key);
        }
    }

    fn resource(self, selector: &ResourceFieldSelector, checker: &mut Checker, at: &str) {
        let all = self
            .spec
            .containers
            .iter()
            .chain(self.spec.init_containers.iter().flatten());
        if let Some(name) = selector.container_name.as_deref().filter(|name| !name.is_empty())
            && !all.into_iter().any(|container| container.name == name)
        {
            checker.fault(format!("{at}.containerName"), format!("Not found: \"{name}\""));
        }
        if selector.resource.is_empty() {
            return checker.required(format!("{at}.resource"));
        }
        if !RESOURCES.contains(&selector.resource.as_str()) {
            return checker.one_of(Some(&selector.resource), &format!("{at}.resource"), &RESOURCES);
        }
        let divisors: &[&str] = if selector.resource.ends_with(".cpu") {
            &CPU_DIVISORS
        } else {
            &MEMORY_DIVISORS
        };
        let divisor = selector.divisor.as_ref().map(|divisor| divisor.0.as_str());
        checker.one_of(divisor, &format!("{at}.divisor"), divisors);
    }
}

impl Checker {
    /// The name of a variable, or what stands before it.
    fn variable(&mut self, name: &str, path: impl Into<String>) {
        if !name
            .chars()
            .all(|c| (c.is_ascii_graphic() || c == ' ') && c != '=')
        {
            self.fault(
                path,
                format!(
                    "Invalid value: \"{name}\": must consist of printable ASCII characters other than '='"
                ),
            );
        }
    }

    fn env_from(&mut self, source: &EnvFromSource, at: &str) {
        let (map, secret) = (source.config_map_ref.as_ref(), source.secret_ref.as_ref());
        let choice = "configMapRef or secretRef";
        self.exactly_one(&[map.is_some(), secret.is_some()], at, "source", choice);
        let references = [
            ("configMapRef", map.map(|one| &one.name)),
            ("secretRef", secret.map(|one| &one.name)),
        ];
        for (kind, name) in references {
            if let Some(name) = name {
                self.name(Some(name), &format!("{at}.{kind}.name"), names::subdomain);
            }
        }
        self.variable(
            source.prefix.as_deref().unwrap_or_default(),
            format!("{at}.prefix"),
        );
    }
}

fn is_field(path: &str) -> bool {
    let single = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    let key = single("metadata.labels").or_else(|| single("metadata.annotations"));
    FIELDS.contains(&path) || key.is_some_and(|key| names::qualified(&key.to_ascii_lowercase()).is_none())
}
