//! A container's environment: service variables and `envFrom` first, then `env` in order, `$(NAME)` replaced by what stands before.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, Pod,
    ResourceFieldSelector, Secret, Service,
};

use super::resources;
use crate::object::Key;

/// Where values come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its addresses, once the sandbox has them.
    pub pod_ips: &'a [IpAddr],
    /// The node.
    pub node: &'a NodeFacts,
    /// ConfigMaps of all namespaces.
    pub config_maps: &'a BTreeMap<Key, Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: &'a BTreeMap<Key, Arc<Secret>>,
    /// Services, for `*_SERVICE_HOST` and its like.
    pub services: &'a BTreeMap<Key, Arc<Service>>,
}

/// What a pod may learn of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name.
    pub name: String,
    /// Addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// Cores that pods may use, in thousandths.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory: u64,
}

/// What is missing, in words fit for `CreateContainerConfigError`.
pub type Missing = String;

/// The environment, in order; a name stands once, with its last value.
pub fn environment(container: &Container, sources: &Sources<'_>) -> Result<Vec<(String, String)>, Missing> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let links = sources
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    known.extend(service_variables(sources, links));
    for source in container.env_from.iter().flatten() {
        known.extend(from_source(source, sources)?);
    }
    let mut ordered: Vec<(String, String)> = known
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for variable in container.env.iter().flatten() {
        let Some(value) = value(variable, &known, container, sources)? else {
            continue;
        };
        ordered.retain(|(name, _)| name != &variable.name);
        ordered.push((variable.name.clone(), value.clone()));
        known.insert(variable.name.clone(), value);
    }
    Ok(ordered)
}

/// The first variable of a text that has no value.
pub fn unknown<'t>(text: &'t str, known: &BTreeMap<String, String>) -> Option<&'t str> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let tail = &rest[at + 1..];
        rest = tail.strip_prefix('$').unwrap_or(tail);
        if let Some((name, after)) = tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            if !known.contains_key(name) {
                return Some(name);
            }
            rest = after;
        }
    }
    None
}

/// Replace `$(NAME)` by its value, `$$(NAME)` by `$(NAME)`; an unknown name stays as it is.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(escaped) = tail.strip_prefix('$') {
            result.push('$');
            rest = escaped;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            match known.get(name) {
                Some(value) => result.push_str(value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
            rest = tail;
        }
    }
    result.push_str(rest);
    result
}

fn value(
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Option<String>, Missing> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), known)));
    };
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        resource_field_ref,
        secret_key_ref,
        ..
    } = from;
    if let Some(field) = field_ref {
        return self::field(field, sources).map(Some);
    }
    if let Some(resource) = resource_field_ref {
        return self::resource(resource, container, sources).map(Some);
    }
    if let Some(reference) = config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let found = sources.config_maps.get(&key(sources, &reference.name));
        let value = found.map(|map| {
            map.data
                .as_ref()
                .and_then(|data| data.get(&reference.key))
                .cloned()
        });
        return pick("configmap", &reference.name, &reference.key, value, optional);
    }
    if let Some(reference) = secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let found = sources.secrets.get(&key(sources, &reference.name));
        let value = found.map(|secret| secret_value(secret, &reference.key));
        return pick("secret", &reference.name, &reference.key, value, optional);
    }
    Ok(Some(String::new()))
}

fn key(sources: &Sources<'_>, name: &str) -> Key {
    Key::new(&Key::of(&sources.pod.metadata).namespace, name)
}

fn pick(
    kind: &str,
    name: &str,
    key: &str,
    value: Option<Option<String>>,
    optional: bool,
) -> Result<Option<String>, Missing> {
    match value {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional => Ok(None),
        Some(None) => Err(format!("couldn't find key {key} in {kind} {name}")),
        None => Err(format!("{kind} \"{name}\" not found")),
    }
}

fn secret_value(secret: &Secret, key: &str) -> Option<String> {
    let plain = secret
        .string_data
        .as_ref()
        .and_then(|data| data.get(key))
        .cloned();
    plain.or_else(|| {
        let bytes = secret.data.as_ref()?.get(key)?;
        Some(String::from_utf8_lossy(&bytes.0).into_owned())
    })
}

fn from_source(source: &EnvFromSource, sources: &Sources<'_>) -> Result<Vec<(String, String)>, Missing> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let prefixed = |name: &String| format!("{prefix}{name}");
    if let Some(reference) = &source.config_map_ref {
        return match sources.config_maps.get(&key(sources, &reference.name)) {
            Some(map) => Ok(map
                .data
                .iter()
                .flatten()
                .map(|(name, value)| (prefixed(name), value.clone()))
                .collect()),
            None if reference.optional.unwrap_or(false) => Ok(Vec::new()),
            None => Err(format!("configmap \"{}\" not found", reference.name)),
        };
    }
    if let Some(reference) = &source.secret_ref {
        return match sources.secrets.get(&key(sources, &reference.name)) {
            Some(secret) => {
                let encoded = secret.data.iter().flatten().map(|(name, _)| name);
                let plain = secret.string_data.iter().flatten().map(|(name, _)| name);
                let names = encoded.chain(plain);
                Ok(names
                    .filter_map(|name| Some((prefixed(name), secret_value(secret, name)?)))
                    .collect())
            }
            None if reference.optional.unwrap_or(false) => Ok(Vec::new()),
            None => Err(format!("secret \"{}\" not found", reference.name)),
        };
    }
    Ok(Vec::new())
}

/// `metadata.name`, `metadata.labels['app']`, `status.podIP`, …
fn field(selector: &ObjectFieldSelector, sources: &Sources<'_>) -> Result<String, Missing> {
    pod_field(&selector.field_path, sources)
        .ok_or_else(|| format!("unsupported fieldPath: {}", selector.field_path))
}

/// A field of the pod by its path; `None` for a path that is not offered.
pub fn pod_field(path: &str, sources: &Sources<'_>) -> Option<String> {
    let metadata = &sources.pod.metadata;
    let spec = sources.pod.spec.as_ref();
    let quoted = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(name) = quoted("metadata.labels['") {
        return Some(
            metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(name))
                .cloned()
                .unwrap_or_default(),
        );
    }
    if let Some(name) = quoted("metadata.annotations['") {
        return Some(
            metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(name))
                .cloned()
                .unwrap_or_default(),
        );
    }
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => Key::of(metadata).namespace,
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "spec.nodeName" => sources.node.name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| "default".into()),
        "status.hostIP" => first(&sources.node.ips),
        "status.hostIPs" => join(&sources.node.ips),
        "status.podIP" => first(sources.pod_ips),
        "status.podIPs" => join(sources.pod_ips),
        _ => return None,
    })
}

/// `limits.cpu` and its like; where the container sets none, what the node has.
fn resource(
    selector: &ResourceFieldSelector,
    own: &Container,
    sources: &Sources<'_>,
) -> Result<String, Missing> {
    let name = selector.container_name.as_deref().unwrap_or(&own.name);
    let all = sources.pod.spec.iter().flat_map(|spec| {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    });
    let container = all
        .into_iter()
        .find(|container| container.name == name)
        .unwrap_or(own);
    let set = container.resources.as_ref();
    let unsupported = || format!("unsupported resource: {}", selector.resource);
    let (side, kind) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let list = match side {
        "limits" => set.and_then(|set| set.limits.as_ref()),
        "requests" => set.and_then(|set| set.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let default = match (side, kind) {
        ("limits", "cpu") => i128::from(sources.node.cpu_milli),
        ("limits", "memory") => i128::from(sources.node.memory) * 1000,
        ("requests", "cpu" | "memory") => 0,
        _ => return Err(unsupported()),
    };
    let milli = list
        .and_then(|list| list.get(kind))
        .and_then(resources::milli)
        .unwrap_or(default);
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(resources::milli)
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1000);
    Ok(((milli + divisor - 1) / divisor).to_string())
}

/// `WEB_SERVICE_HOST`, `WEB_PORT_80_TCP_ADDR`, … for the Services of the namespace.
fn service_variables(sources: &Sources<'_>, links: bool) -> BTreeMap<String, String> {
    let namespace = Key::of(&sources.pod.metadata).namespace;
    let mut variables = BTreeMap::new();
    for (key, service) in sources.services {
        let api = key.namespace == "default" && key.name == "kubernetes";
        if !api && (!links || key.namespace != namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(host) = spec
            .cluster_ip
            .as_deref()
            .filter(|ip| !ip.is_empty() && *ip != "None")
        else {
            continue;
        };
        let name = key.name.to_uppercase().replace('-', "_");
        variables.insert(format!("{name}_SERVICE_HOST"), host.to_owned());
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let number = port.port;
            let url = format!("{}://{host}:{number}", protocol.to_lowercase());
            if index == 0 {
                variables.insert(format!("{name}_SERVICE_PORT"), number.to_string());
                variables.insert(format!("{name}_PORT"), url.clone());
            }
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                variables.insert(format!("{name}_SERVICE_PORT_{port_name}"), number.to_string());
            }
            let prefix = format!("{name}_PORT_{number}_{protocol}");
            variables.insert(prefix.clone(), url);
            variables.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            variables.insert(format!("{prefix}_PORT"), number.to_string());
            variables.insert(format!("{prefix}_ADDR"), host.to_owned());
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct World {
        pod: Pod,
        node: NodeFacts,
        config_maps: BTreeMap<Key, Arc<ConfigMap>>,
        secrets: BTreeMap<Key, Arc<Secret>>,
        services: BTreeMap<Key, Arc<Service>>,
    }

    fn world(container: serde_json::Value) -> (World, Container) {
        let pod = json!({"metadata": {"name": "web-1", "namespace": "default", "uid": "u", "labels": {"app": "web"}},
                         "spec": {"containers": [container.clone()]}});
        let map = json!({"metadata": {"name": "settings"}, "data": {"COLOR": "blue", "SIZE": "big"}});
        let secret = json!({"metadata": {"name": "keys"}, "data": {"token": "czNjcmV0"}});
        let service = json!({"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432}]}});
        let key = |name| Key::new("default", name);
        let world = World {
            pod: serde_json::from_value(pod).expect("pod"),
            node: NodeFacts {
                name: "n1".into(),
                ips: vec![IpAddr::from([10, 0, 0, 1])],
                cpu_milli: 2000,
                memory: 1 << 30,
            },
            config_maps: BTreeMap::from([(
                key("settings"),
                Arc::new(serde_json::from_value(map).expect("map")),
            )]),
            secrets: BTreeMap::from([(
                key("keys"),
                Arc::new(serde_json::from_value(secret).expect("secret")),
            )]),
            services: BTreeMap::from([(
                key("my-db"),
                Arc::new(serde_json::from_value(service).expect("service")),
            )]),
        };
        (world, serde_json::from_value(container).expect("container"))
    }

    fn computed(
        env: serde_json::Value,
        env_from: serde_json::Value,
    ) -> Result<BTreeMap<String, String>, Missing> {
        let (world, container) = world(json!({"name": "c", "env": env, "envFrom": env_from,
            "resources": {"limits": {"cpu": "250m"}}}));
        let sources = Sources {
            pod: &world.pod,
            pod_ips: &[IpAddr::from([10, 244, 0, 7])],
            node: &world.node,
            config_maps: &world.config_maps,
            secrets: &world.secrets,
            services: &world.services,
        };
        environment(&container, &sources).map(|list| list.into_iter().collect())
    }

    #[test]
    fn values_come_from_everywhere_and_later_ones_win() {
        let env = json!([
            {"name": "COLOR", "value": "red"},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "URL", "value": "http://$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT)/$(COLOR)"},
        ]);
        let found = computed(env, json!([{"configMapRef": {"name": "settings"}}, {"prefix": "P_", "configMapRef": {"name": "settings"}}]))
            .expect("environment");
        let of = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(of("COLOR"), Some("red"));
        assert_eq!(of("P_SIZE"), Some("big"));
        assert_eq!(of("POD"), Some("web-1"));
        assert_eq!(of("APP"), Some("web"));
        assert_eq!(of("IP"), Some("10.244.0.7"));
        assert_eq!(of("TOKEN"), Some("s3cret"));
        assert_eq!(of("CPUS"), Some("1"));
        assert_eq!(of("MEM"), Some("1024"));
        assert_eq!(of("URL"), Some("http://10.96.0.9:5432/red"));
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let by_key = |kind: &str, name: &str, key: &str, optional: bool| {
            computed(
                json!([{"name": "X", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]),
                json!([]),
            )
        };
        assert_eq!(
            by_key("configMapKeyRef", "nope", "k", false),
            Err("configmap \"nope\" not found".into())
        );
        assert_eq!(
            by_key("secretKeyRef", "keys", "k", false),
            Err("couldn't find key k in secret keys".into())
        );
        assert!(by_key("configMapKeyRef", "nope", "k", true).is_ok_and(|env| !env.contains_key("X")));
        assert!(computed(json!([]), json!([{"secretRef": {"name": "nope"}}])).is_err());
    }

    #[test]
    fn references_are_replaced_escaped_or_left_alone() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expanded) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("a$", "a$"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &known), expanded, "{text}");
        }
    }
}
