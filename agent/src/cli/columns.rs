//! Objects → rows of tables, as kubectl shows them.

mod peer;
pub mod pod;
#[cfg(test)]
mod tests;
mod workload;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Event, Node, Pod, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use keelson_core::network::peers::object::KeelsonPeer;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::duration::{age, short};
use crate::control::resource::Resource;

/// What stands for nothing.
pub const NONE: &str = "<none>";

/// How rows are made.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The objects' kind.
    pub resource: Resource,
    /// Whether `endpoints` was asked for, which shows EndpointSlices in the old manner.
    pub endpoints: bool,
    /// More columns.
    pub wide: bool,
    /// Ages are told as of this time.
    pub now: Timestamp,
}

impl View {
    /// Names of the columns.
    pub fn headers(&self) -> Vec<String> {
        let (always, wide): (&[&str], &[&str]) = match self.resource {
            Resource::Pods => (
                &["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
                &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"],
            ),
            Resource::Deployments => (
                &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"],
                &["CONTAINERS", "IMAGES", "SELECTOR"],
            ),
            Resource::Services => (
                &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"],
                &["SELECTOR"],
            ),
            Resource::EndpointSlices if self.endpoints => (&["NAME", "ENDPOINTS", "AGE"], &[]),
            Resource::EndpointSlices => (&["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"], &[]),
            Resource::ConfigMaps => (&["NAME", "DATA", "AGE"], &[]),
            Resource::Secrets => (&["NAME", "TYPE", "DATA", "AGE"], &[]),
            Resource::Events if self.wide => (
                &[
                    "LAST SEEN",
                    "TYPE",
                    "REASON",
                    "OBJECT",
                    "SUBOBJECT",
                    "SOURCE",
                    "MESSAGE",
                    "FIRST SEEN",
                    "COUNT",
                    "NAME",
                ],
                &[],
            ),
            Resource::Events => (&["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], &[]),
            Resource::Nodes => (
                &["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
                &[
                    "INTERNAL-IP",
                    "EXTERNAL-IP",
                    "OS-IMAGE",
                    "KERNEL-VERSION",
                    "CONTAINER-RUNTIME",
                ],
            ),
            Resource::Peers => (&["NAME", "POD-CIDRS", "ADDRESSES", "REACHED", "AGE"], &[]),
            Resource::Namespaces => (&["NAME", "STATUS", "AGE"], &[]),
            Resource::Manifests => (&["FILE", "OBJECTS", "STATUS", "ERROR"], &[]),
        };
        let wide = if self.wide { wide } else { &[] };
        always.iter().chain(wide).map(|name| (*name).to_owned()).collect()
    }

    /// The row of an object. One that is not as it should be shows its name and what is wrong.
    pub fn row(&self, object: &Value) -> Vec<String> {
        self.cells(object).unwrap_or_else(|error| {
            let name = super::client::text(object, "/metadata/name");
            vec![name.to_owned(), format!("cannot be shown: {error}")]
        })
    }

    fn cells(&self, object: &Value) -> serde_json::Result<Vec<String>> {
        let (now, wide) = (self.now, self.wide);
        Ok(match self.resource {
            Resource::Pods => pod::row(&read::<Pod>(object)?, now, wide),
            Resource::Deployments => workload::deployment(&read::<Deployment>(object)?, now, wide),
            Resource::Services => workload::service(&read::<Service>(object)?, now, wide),
            Resource::EndpointSlices if self.endpoints => {
                workload::endpoints(&read::<EndpointSlice>(object)?, now)
            }
            Resource::EndpointSlices => workload::endpoint_slice(&read::<EndpointSlice>(object)?, now),
            Resource::ConfigMaps => config_map(&read::<ConfigMap>(object)?, now),
            Resource::Secrets => secret(&read::<Secret>(object)?, now),
            Resource::Events => event(&read::<Event>(object)?, now, wide),
            Resource::Nodes => node(&read::<Node>(object)?, now, wide),
            Resource::Peers => peer::row(&read::<KeelsonPeer>(object)?, now),
            Resource::Namespaces => vec![
                super::client::text(object, "/metadata/name").to_owned(),
                super::client::text(object, "/status/phase").to_owned(),
                NONE.to_owned(),
            ],
            Resource::Manifests => manifest(object, wide),
        })
    }
}

/// A value as an object of its kind.
pub fn read<T: DeserializeOwned>(object: &Value) -> serde_json::Result<T> {
    serde_json::from_value(object.clone())
}

/// The text, or what stands for nothing.
pub fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// `key=value,…`
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    or_none(pairs.join(","))
}

fn config_map(map: &ConfigMap, now: Timestamp) -> Vec<String> {
    let count = map.data.as_ref().map_or(0, std::collections::BTreeMap::len)
        + map
            .binary_data
            .as_ref()
            .map_or(0, std::collections::BTreeMap::len);
    vec![
        map.metadata.name.clone().unwrap_or_default(),
        count.to_string(),
        age(map.metadata.creation_timestamp.as_ref(), now),
    ]
}

fn secret(secret: &Secret, now: Timestamp) -> Vec<String> {
    let count = secret.data.as_ref().map_or(0, std::collections::BTreeMap::len)
        + secret
            .string_data
            .as_ref()
            .map_or(0, std::collections::BTreeMap::len);
    vec![
        secret.metadata.name.clone().unwrap_or_default(),
        secret.type_.clone().unwrap_or_else(|| "Opaque".to_owned()),
        count.to_string(),
        age(secret.metadata.creation_timestamp.as_ref(), now),
    ]
}

/// When an event was seen last, in seconds since 1970; for sorting.
pub fn last_seen(event: &Event) -> Option<&Time> {
    event
        .last_timestamp
        .as_ref()
        .or(event.first_timestamp.as_ref())
        .or(event.metadata.creation_timestamp.as_ref())
}

/// `5s`, or `5s (x4 over 2m)`.
pub fn seen(event: &Event, now: Timestamp) -> String {
    let last = age(last_seen(event), now);
    match event.count {
        Some(count) if count > 1 => {
            let first = event.first_timestamp.as_ref();
            format!("{last} (x{count} over {})", age(first, now))
        }
        _ => last,
    }
}

fn event(event: &Event, now: Timestamp, wide: bool) -> Vec<String> {
    let object = &event.involved_object;
    let kind = object.kind.as_deref().unwrap_or_default().to_ascii_lowercase();
    let mut row = vec![
        seen(event, now),
        event.type_.clone().unwrap_or_default(),
        event.reason.clone().unwrap_or_default(),
        format!("{kind}/{}", object.name.as_deref().unwrap_or_default()),
    ];
    let message = event
        .message
        .as_deref()
        .unwrap_or_default()
        .trim()
        .replace('\n', " ");
    if !wide {
        row.push(message);
        return row;
    }
    row.push(object.field_path.clone().unwrap_or_default());
    row.push(
        event
            .source
            .as_ref()
            .and_then(|source| source.component.clone())
            .unwrap_or_default(),
    );
    row.push(message);
    row.push(age(event.first_timestamp.as_ref(), now));
    row.push(event.count.unwrap_or(1).to_string());
    row.push(event.metadata.name.clone().unwrap_or_default());
    row
}

/// `Ready`, `NotReady`, with `SchedulingDisabled` where that holds.
pub fn node_status(node: &Node) -> String {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .filter(|condition| condition.type_ == "Ready")
        .map(|condition| condition.status.as_str())
        .next();
    let mut status = match ready {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true))
    {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node(node: &Node, now: Timestamp, wide: bool) -> Vec<String> {
    let labels = node.metadata.labels.iter().flatten();
    let roles: Vec<&str> = labels
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some("") | None => (key == "kubernetes.io/role").then_some(value.as_str()),
                role => role,
            },
        )
        .collect();
    let status = node.status.clone().unwrap_or_default();
    let info = status.node_info.unwrap_or_default();
    let mut row = vec![
        node.metadata.name.clone().unwrap_or_default(),
        node_status(node),
        or_none(roles.join(",")),
        age(node.metadata.creation_timestamp.as_ref(), now),
        info.kubelet_version,
    ];
    if wide {
        let address = |kind: &str| {
            let addresses = status.addresses.iter().flatten();
            let mut found = addresses.filter(|address| address.type_ == kind);
            found
                .next()
                .map_or(NONE.to_owned(), |address| address.address.clone())
        };
        row.extend([
            address("InternalIP"),
            address("ExternalIP"),
            or_none(info.os_image),
            or_none(info.kernel_version),
            or_none(info.container_runtime_version),
        ]);
    }
    row
}

fn manifest(object: &Value, wide: bool) -> Vec<String> {
    let list = |path: &str| -> Vec<String> {
        let items = object.pointer(path).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let (objects, errors) = (list("/status/objects"), list("/status/errors"));
    let status = match (errors.is_empty(), objects.is_empty()) {
        (true, _) => "Good",
        (false, false) => "LastGood",
        (false, true) => "Refused",
    };
    let error = match errors.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        many if wide => many.join("; "),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    };
    vec![
        super::client::text(object, "/metadata/name").to_owned(),
        if wide {
            or_none(objects.join(", "))
        } else {
            objects.len().to_string()
        },
        status.to_owned(),
        error,
    ]
}

/// `2 (5m ago)`
fn restarts(count: i32, last: Option<&Time>, now: Timestamp) -> String {
    match last {
        Some(last) if count > 0 => {
            format!("{count} ({} ago)", short(now.duration_since(last.0).as_secs()))
        }
        _ => count.to_string(),
    }
}
