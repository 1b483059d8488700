//! Pages of the other kinds.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use keelson_core::network::peers::object::{KeelsonPeer, KeelsonPeerRoute};
use serde_json::Value;

use super::{Page, head, labels, time_of};
use crate::cli::{
    client::text,
    columns::{self, NONE},
    duration::age,
};

pub(super) fn config_map(page: &mut Page, map: &ConfigMap) {
    head(page, &map.metadata, true);
    labels(page, &map.metadata);
    page.line(0, "");
    page.line(0, "Data");
    page.line(0, "====");
    for (key, value) in map.data.iter().flatten() {
        page.line(0, &format!("{key}:"));
        page.line(0, "----");
        for line in value.lines() {
            // A tab would be taken for the end of a cell.
            page.line(0, &line.replace('\t', "    "));
        }
        page.line(0, "");
    }
    let binary: Vec<_> = map.binary_data.iter().flatten().collect();
    if !binary.is_empty() {
        page.line(0, "BinaryData");
        page.line(0, "====");
        for (key, value) in binary {
            page.line(0, &format!("{key}: {} bytes", value.0.len()));
        }
        page.line(0, "");
    }
}

pub(super) fn secret(page: &mut Page, secret: &Secret) {
    head(page, &secret.metadata, true);
    labels(page, &secret.metadata);
    page.line(0, "");
    page.field(0, "Type", secret.type_.as_deref().unwrap_or("Opaque"));
    page.line(0, "");
    page.line(0, "Data");
    page.line(0, "====");
    // Never the values: this is what is looked at over shoulders.
    for (key, value) in secret.data.iter().flatten() {
        page.field(0, key, format!("{} bytes", value.0.len()));
    }
    for (key, value) in secret.string_data.iter().flatten() {
        page.field(0, key, format!("{} bytes", value.len()));
    }
    page.line(0, "");
}

pub(super) fn peer(page: &mut Page, peer: &KeelsonPeer) {
    let list = |texts: Vec<String>| texts.join(", ");
    head(page, &peer.metadata, false);
    labels(page, &peer.metadata);
    let pods = peer.spec.pod_cidrs.iter().map(ToString::to_string).collect();
    page.field(0, "PodCIDRs", list(pods));
    let addresses = peer.spec.addresses.iter().map(ToString::to_string).collect();
    page.field(0, "Addresses", list(addresses));
    let status = peer.status.clone().unwrap_or_default();
    let route = |route: &KeelsonPeerRoute| {
        let via = route.via.map(|via| format!(" {via}")).unwrap_or_default();
        format!("{}: {}{via}", route.pod_cidr, route.way)
    };
    page.list(0, "Routes", status.routes.iter().map(route));
    page.list(0, "Refused", status.refused);
}

pub(super) fn node(page: &mut Page, node: &Node, pods: &[Value], now: Timestamp) {
    let status = node.status.clone().unwrap_or_default();
    head(page, &node.metadata, false);
    labels(page, &node.metadata);
    page.field_if(
        0,
        "CreationTimestamp",
        time_of(node.metadata.creation_timestamp.as_ref()),
    );
    page.field(0, "Status", columns::node_status(node));
    page.line(0, "Conditions:");
    page.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
    for condition in status.conditions.iter().flatten() {
        page.line(
            1,
            &format!(
                "{}\t{}\t{}\t{}\t{}",
                condition.type_,
                condition.status,
                time_of(condition.last_transition_time.as_ref()).unwrap_or_default(),
                condition.reason.as_deref().unwrap_or_default(),
                condition.message.as_deref().unwrap_or_default()
            ),
        );
    }
    page.line(0, "Addresses:");
    for address in status.addresses.iter().flatten() {
        page.field(1, &address.type_, &address.address);
    }
    for (title, list) in [
        ("Capacity", &status.capacity),
        ("Allocatable", &status.allocatable),
    ] {
        page.line(0, &format!("{title}:"));
        for (name, quantity) in list.iter().flatten() {
            page.field(1, name, &quantity.0);
        }
    }
    if let Some(info) = &status.node_info {
        page.line(0, "System Info:");
        page.field(1, "Machine ID", &info.machine_id);
        page.field(1, "Boot ID", &info.boot_id);
        page.field(1, "Kernel Version", &info.kernel_version);
        page.field(1, "OS Image", &info.os_image);
        page.field(1, "Operating System", &info.operating_system);
        page.field(1, "Architecture", &info.architecture);
        page.field(1, "Container Runtime Version", &info.container_runtime_version);
        page.field(1, "Agent Version", &info.kubelet_version);
    }
    node_pods(page, node, pods, now);
}

/// What runs on it.
fn node_pods(page: &mut Page, node: &Node, pods: &[Value], now: Timestamp) {
    page.field_if(
        0,
        "PodCIDR",
        node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref()),
    );
    page.line(0, &format!("Pods:\t({} in total)", pods.len()));
    page.line(1, "Namespace\tName\tStatus\tAge");
    for pod in pods.iter().filter_map(|pod| columns::read::<Pod>(pod).ok()) {
        page.line(
            1,
            &format!(
                "{}\t{}\t{}\t{}",
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default(),
                columns::pod::summarize(&pod).status,
                age(pod.metadata.creation_timestamp.as_ref(), now)
            ),
        );
    }
}

pub(super) fn event(page: &mut Page, event: &Event) {
    head(page, &event.metadata, true);
    let object = &event.involved_object;
    page.field(
        0,
        "Object",
        format!(
            "{}/{}",
            object.kind.as_deref().unwrap_or_default(),
            object.name.as_deref().unwrap_or_default()
        ),
    );
    page.field(0, "Type", event.type_.as_deref().unwrap_or_default());
    page.field(0, "Reason", event.reason.as_deref().unwrap_or_default());
    page.field(0, "Message", event.message.as_deref().unwrap_or_default());
    page.field(0, "Count", event.count.unwrap_or(1).to_string());
    page.field_if(0, "First Seen", time_of(event.first_timestamp.as_ref()));
    page.field_if(0, "Last Seen", time_of(event.last_timestamp.as_ref()));
}

pub(super) fn manifest(page: &mut Page, object: &Value) {
    page.field(0, "File", text(object, "/metadata/name"));
    for (title, path) in [("Objects", "/status/objects"), ("Errors", "/status/errors")] {
        let items = object.pointer(path).and_then(Value::as_array);
        let items: Vec<&str> = items.into_iter().flatten().filter_map(Value::as_str).collect();
        if items.is_empty() {
            page.field(0, title, NONE);
        } else {
            page.line(0, &format!("{title}:"));
            for item in items {
                page.line(1, item);
            }
        }
    }
}
