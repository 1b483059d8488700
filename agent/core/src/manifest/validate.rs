//! What an object must fulfil to be run. Everything that is wrong is told, each with the path of its field.

mod peer;
mod service;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStrategy},
        core::v1::{ConfigMap, Node, NodeSpec, Pod, PodSpec, Secret},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    decode::Fault,
    document::{field, item},
    names,
    object::Object,
};
use crate::workload::{rollout::scaled, selector};

/// Data of one ConfigMap or Secret: 1 MiB.
const DATA_LIMIT: usize = 1 << 20;

/// What the node's configuration says that objects must respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Name of this node.
    pub node_name: String,
    /// Where explicit cluster addresses must lie.
    pub service_cidr: Ipv4Net,
    /// The same for IPv6, where the node has such a network.
    pub service_cidr_v6: Option<Ipv6Net>,
    /// First and last port for explicit node ports.
    pub node_port_range: (u16, u16),
    /// Whether the agent runs pods; one that does not takes only what Services are made of.
    pub runs_pods: bool,
}

/// All that is wrong with a defaulted object.
pub fn object(object: &Object, rules: &Rules) -> Vec<Fault> {
    let mut faults = Faults::default();
    metadata(object, &mut faults);
    match object {
        Object::ConfigMap(value) => config_map(value, &mut faults),
        Object::Deployment(value) => deployment(value, &mut faults),
        Object::EndpointSlice(value) => endpoint_slice(value, &mut faults),
        Object::KeelsonPeer(value) => peer::check(value, &mut faults),
        Object::Namespace(_) => {}
        Object::Node(value) => node(value, &mut faults),
        Object::Pod(value) => pod(value, rules, &mut faults),
        Object::Secret(value) => secret(value, &mut faults),
        Object::Service(value) => service::check(value, rules, &mut faults),
    }
    faults.0
}

/// What was found so far.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push((path.into(), message.into()));
    }

    /// Add `message` if there is one: what the functions of [`names`] return.
    fn check(&mut self, path: impl Into<String>, message: Option<String>) {
        if let Some(message) = message {
            self.add(path, message);
        }
    }

    fn one_of(&mut self, path: &str, value: Option<&str>, allowed: &[&str]) {
        if let Some(value) = value
            && !allowed.contains(&value)
        {
            self.add(
                path,
                format!("{value:?} is not supported; supported: {}", allowed.join(", ")),
            );
        }
    }

    fn port(&mut self, path: impl Into<String>, port: i32) {
        if !(1..=65535).contains(&port) {
            self.add(path, format!("{port} must be 1 to 65535"));
        }
    }
}

/// Labels, annotations, taints and whether pods are scheduled: the rest of a node is not a user's to say. What others wrote into
/// the specification, such as its pod networks, may stand there.
fn node(node: &Node, faults: &mut Faults) {
    let Some(NodeSpec { taints, .. }) = &node.spec else {
        return;
    };
    for (index, taint) in taints.iter().flatten().enumerate() {
        let path = item("spec.taints", index);
        faults.check(join(&path, "key"), names::qualified(&taint.key));
        faults.one_of(
            &join(&path, "effect"),
            Some(&taint.effect),
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        );
    }
}

fn metadata(object: &Object, faults: &mut Faults) {
    let metadata = object.metadata();
    let name = metadata.name.as_deref().unwrap_or_default();
    match object {
        _ if name.is_empty() && metadata.generate_name.is_some() => {
            faults.add(
                "metadata.generateName",
                "an object of a file needs a name of its own: set metadata.name",
            );
        }
        _ if name.is_empty() => faults.add("metadata.name", "is missing"),
        Object::Service(_) => faults.check("metadata.name", names::service(name)),
        Object::Namespace(_) => faults.check("metadata.name", names::label(name)),
        _ => faults.check("metadata.name", names::subdomain(name)),
    }
    if let Some(namespace) = &metadata.namespace {
        faults.check("metadata.namespace", names::label(namespace));
    }
    labels("metadata", metadata, faults);
    if metadata
        .finalizers
        .as_ref()
        .is_some_and(|finalizers| !finalizers.is_empty())
    {
        faults.add(
            "metadata.finalizers",
            "nobody would remove them on this node, so the object could never go",
        );
    }
    if metadata
        .owner_references
        .as_ref()
        .is_some_and(|owners| !owners.is_empty())
    {
        faults.add(
            "metadata.ownerReferences",
            "an object of a file is owned by its file",
        );
    }
}

fn labels(path: &str, metadata: &ObjectMeta, faults: &mut Faults) {
    let path = join(path, "labels");
    for (key, value) in metadata.labels.iter().flatten() {
        faults.check(
            field(&path, key),
            names::qualified(key).or_else(|| names::label_value(value)),
        );
    }
    let path = path.replace("labels", "annotations");
    for key in metadata.annotations.iter().flat_map(|all| all.keys()) {
        faults.check(field(&path, key), names::qualified(&key.to_ascii_lowercase()));
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn pod(pod: &Pod, rules: &Rules, faults: &mut Faults) {
    let Some(spec) = &pod.spec else {
        return faults.add("spec", "is missing");
    };
    if let Some(node) = spec.node_name.as_deref().filter(|node| *node != rules.node_name) {
        faults.add(
            "spec.nodeName",
            format!("{node:?} is another node; this one is {:?}", rules.node_name),
        );
    }
    pod_spec(spec, "spec", faults);
}

/// The rules of the pod room, for a Pod or for a template.
fn pod_spec(spec: &PodSpec, path: &str, faults: &mut Faults) {
    for error in crate::pod::validate::validate_spec(spec, path) {
        faults.add(error.path, error.message);
    }
}

fn config_map(map: &ConfigMap, faults: &mut Faults) {
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(key, value)| ("data", key, value.len()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| ("binaryData", key, value.0.len()));
    data(text.chain(binary), faults);
    for key in map.binary_data.iter().flat_map(|all| all.keys()) {
        if map.data.as_ref().is_some_and(|data| data.contains_key(key)) {
            faults.add(field("binaryData", key), "the key is in data as well");
        }
    }
}

fn secret(secret: &Secret, faults: &mut Faults) {
    data(
        secret
            .data
            .iter()
            .flatten()
            .map(|(key, value)| ("data", key, value.0.len())),
        faults,
    );
}

fn data<'a>(entries: impl Iterator<Item = (&'static str, &'a String, usize)>, faults: &mut Faults) {
    let mut total = 0;
    for (path, key, size) in entries {
        faults.check(field(path, key), names::data_key(key));
        total += size;
    }
    if total > DATA_LIMIT {
        faults.add(
            "data",
            format!("{total} bytes in all; at most {DATA_LIMIT} are allowed"),
        );
    }
}

fn endpoint_slice(slice: &EndpointSlice, faults: &mut Faults) {
    faults.one_of("addressType", Some(&slice.address_type), &["IPv4", "IPv6"]);
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let path = field(&item("endpoints", index), "addresses");
        if endpoint.addresses.is_empty() {
            faults.add(&path, "at least one address is needed");
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let fits = match address.parse() {
                Ok(IpAddr::V4(_)) => slice.address_type == "IPv4",
                Ok(IpAddr::V6(_)) => slice.address_type == "IPv6",
                Err(_) => false,
            };
            if !fits {
                faults.add(
                    item(&path, index),
                    format!("{address:?} is no {} address", slice.address_type),
                );
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let path = item("ports", index);
        faults.one_of(
            &field(&path, "protocol"),
            port.protocol.as_deref(),
            &["TCP", "UDP", "SCTP"],
        );
        match port.port {
            Some(number) => faults.port(field(&path, "port"), number),
            None => faults.add(field(&path, "port"), "is missing"),
        }
        if !seen.insert(port.name.as_deref().unwrap_or_default()) {
            faults.add(field(&path, "name"), "another port has the same name");
        }
    }
}

fn deployment(deployment: &Deployment, faults: &mut Faults) {
    let Some(spec) = &deployment.spec else {
        return faults.add("spec", "is missing");
    };
    let numbers = [
        ("spec.replicas", spec.replicas),
        ("spec.minReadySeconds", spec.min_ready_seconds),
        ("spec.revisionHistoryLimit", spec.revision_history_limit),
        ("spec.progressDeadlineSeconds", spec.progress_deadline_seconds),
    ];
    for (path, number) in numbers {
        if let Some(number) = number.filter(|number| *number < 0) {
            faults.add(path, format!("{number} must not be negative"));
        }
    }
    let ready = spec.min_ready_seconds.unwrap_or(0);
    if spec
        .progress_deadline_seconds
        .is_some_and(|deadline| deadline <= ready)
    {
        faults.add(
            "spec.progressDeadlineSeconds",
            format!("must be greater than minReadySeconds ({ready})"),
        );
    }
    let metadata = spec.template.metadata.clone().unwrap_or_default();
    selects_its_pods(&spec.selector, &metadata, faults);
    labels("spec.template.metadata", &metadata, faults);
    if let Some(kind) = &spec.strategy {
        strategy(kind, faults);
    }
    let Some(template) = &spec.template.spec else {
        return faults.add("spec.template.spec", "is missing");
    };
    faults.one_of(
        "spec.template.spec.restartPolicy",
        template.restart_policy.as_deref(),
        &["Always"],
    );
    if template.active_deadline_seconds.is_some() {
        faults.add(
            "spec.template.spec.activeDeadlineSeconds",
            "pods of a Deployment do not end",
        );
    }
    pod_spec(template, "spec.template.spec", faults);
}

fn selects_its_pods(selector: &LabelSelector, template: &ObjectMeta, faults: &mut Faults) {
    let empty = selector
        .match_labels
        .as_ref()
        .is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    let wrong = selector::faults(selector);
    if empty {
        faults.add("spec.selector", "must name the labels of its pods");
    } else if wrong.is_empty() && !selector::matches(selector, &template.labels.clone().unwrap_or_default()) {
        faults.add(
            "spec.template.metadata.labels",
            "are not what spec.selector asks for",
        );
    }
    for (below, message) in wrong {
        faults.add(format!("spec.selector.{below}"), message);
    }
}

fn strategy(strategy: &DeploymentStrategy, faults: &mut Faults) {
    let kind = strategy.type_.as_deref();
    faults.one_of("spec.strategy.type", kind, &["RollingUpdate", "Recreate"]);
    let Some(rolling) = &strategy.rolling_update else {
        return;
    };
    if kind == Some("Recreate") {
        return faults.add(
            "spec.strategy.rollingUpdate",
            "must not be set when the type is Recreate",
        );
    }
    let limits = [
        ("maxSurge", &rolling.max_surge),
        ("maxUnavailable", &rolling.max_unavailable),
    ];
    let mut nothing_may_move = true;
    for (name, value) in limits {
        let path = format!("spec.strategy.rollingUpdate.{name}");
        match value.as_ref().map(|value| (value, scaled(value, 100, true))) {
            // Of 100 replicas a share other than 0 % is at least one.
            Some((_, Some(number))) => nothing_may_move &= number == 0,
            Some((IntOrString::String(text), None)) => {
                nothing_may_move = false;
                faults.add(
                    path,
                    format!("{text:?} must be a number of pods or a share such as \"25%\""),
                );
            }
            Some((IntOrString::Int(number), None)) => {
                nothing_may_move = false;
                faults.add(path, format!("{number} must not be negative"));
            }
            None => nothing_may_move = false,
        }
    }
    let above_all = rolling.max_unavailable.as_ref().and_then(|value| match value {
        IntOrString::String(_) => scaled(value, 100, true),
        IntOrString::Int(_) => None,
    });
    if above_all.is_some_and(|share| share > 100) {
        faults.add(
            "spec.strategy.rollingUpdate.maxUnavailable",
            "must not be more than 100%",
        );
    }
    if nothing_may_move {
        faults.add(
            "spec.strategy.rollingUpdate.maxUnavailable",
            "must not be 0 when maxSurge is 0: no pod could be replaced",
        );
    }
}
