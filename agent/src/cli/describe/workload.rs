//! Pages of Deployments, Services and EndpointSlices.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{PodTemplateSpec, Service},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use serde_json::Value;

use super::{Page, head, keyed, labels, selector_of, time_of};
use crate::cli::columns::{self, NONE, or_none, pairs};

/// `app=web,tier in (a,b)`
pub fn selector_text(selector: &LabelSelector) -> String {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    let other = selector.match_expressions.iter().flatten().map(|one| {
        let values = one.values.clone().unwrap_or_default().join(",");
        match one.operator.as_str() {
            "In" => format!("{} in ({values})", one.key),
            "NotIn" => format!("{} notin ({values})", one.key),
            "DoesNotExist" => format!("!{}", one.key),
            _ => one.key.clone(),
        }
    });
    or_none(equal.chain(other).collect::<Vec<_>>().join(","))
}

fn amount(value: Option<&IntOrString>) -> String {
    match value {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(text)) => text.clone(),
        None => "25%".to_owned(),
    }
}

pub(super) fn deployment(page: &mut Page, deployment: &Deployment) {
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    head(page, &deployment.metadata, true);
    page.field_if(
        0,
        "CreationTimestamp",
        time_of(deployment.metadata.creation_timestamp.as_ref()),
    );
    labels(page, &deployment.metadata);
    page.field(0, "Selector", selector_of(&spec.selector));
    page.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            spec.replicas.unwrap_or(1),
            status.updated_replicas.unwrap_or(0),
            status.replicas.unwrap_or(0),
            status.available_replicas.unwrap_or(0),
            status.unavailable_replicas.unwrap_or(0)
        ),
    );
    let strategy = spec.strategy.clone().unwrap_or_default();
    let kind = strategy.type_.as_deref().unwrap_or("RollingUpdate");
    page.field(0, "StrategyType", kind);
    page.field(
        0,
        "MinReadySeconds",
        spec.min_ready_seconds.unwrap_or(0).to_string(),
    );
    if kind == "RollingUpdate" {
        let rolling = strategy.rolling_update.unwrap_or_default();
        page.field(
            0,
            "RollingUpdateStrategy",
            format!(
                "{} max unavailable, {} max surge",
                amount(rolling.max_unavailable.as_ref()),
                amount(rolling.max_surge.as_ref())
            ),
        );
    }
    template(page, spec.template);
    let conditions = status.conditions.unwrap_or_default();
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tReason\tMessage");
        for condition in conditions {
            page.line(
                1,
                &format!(
                    "{}\t{}\t{}\t{}",
                    condition.type_,
                    condition.status,
                    condition.reason.unwrap_or_default(),
                    condition.message.unwrap_or_default()
                ),
            );
        }
    }
}

fn template(page: &mut Page, template: PodTemplateSpec) {
    page.line(0, "Pod Template:");
    let metadata = template.metadata.unwrap_or_default();
    page.list(1, "Labels", keyed(metadata.labels.iter().flatten(), "="));
    page.line(1, "Containers:");
    for container in template.spec.map(|pod| pod.containers).unwrap_or_default() {
        page.line(2, &format!("{}:", container.name));
        page.field(3, "Image", container.image.as_deref().unwrap_or_default());
        let ports: Vec<String> = container
            .ports
            .iter()
            .flatten()
            .map(|port| {
                format!(
                    "{}/{}",
                    port.container_port,
                    port.protocol.as_deref().unwrap_or("TCP")
                )
            })
            .collect();
        page.field(3, "Port", or_none(ports.join(", ")));
    }
}

pub(super) fn service(page: &mut Page, service: &Service, slices: &[Value]) {
    let spec = service.spec.clone().unwrap_or_default();
    head(page, &service.metadata, true);
    labels(page, &service.metadata);
    page.field(0, "Selector", pairs(spec.selector.iter().flatten()));
    page.field(0, "Type", spec.type_.as_deref().unwrap_or("ClusterIP"));
    page.field_if(0, "IP Family Policy", spec.ip_family_policy.as_ref());
    page.field(0, "IP", spec.cluster_ip.as_deref().unwrap_or(NONE));
    page.field_if(
        0,
        "External IPs",
        spec.external_ips.as_ref().map(|list| list.join(",")),
    );
    let slices: Vec<EndpointSlice> = slices
        .iter()
        .filter_map(|slice| columns::read(slice).ok())
        .collect();
    for port in spec.ports.iter().flatten() {
        let name = port.name.as_deref().unwrap_or("<unset>");
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        page.field(0, "Port", format!("{name}  {}/{protocol}", port.port));
        let target = match &port.target_port {
            Some(IntOrString::String(name)) => name.clone(),
            Some(IntOrString::Int(number)) => number.to_string(),
            None => port.port.to_string(),
        };
        page.field(0, "TargetPort", format!("{target}/{protocol}"));
        if let Some(node_port) = port.node_port.filter(|number| *number > 0) {
            page.field(0, "NodePort", format!("{name}  {node_port}/{protocol}"));
        }
        page.field(
            0,
            "Endpoints",
            endpoints(&slices, port.name.as_deref().unwrap_or_default()),
        );
    }
    page.field(
        0,
        "Session Affinity",
        spec.session_affinity.as_deref().unwrap_or("None"),
    );
    page.field_if(
        0,
        "External Traffic Policy",
        spec.external_traffic_policy.as_ref(),
    );
    page.field_if(
        0,
        "Internal Traffic Policy",
        spec.internal_traffic_policy.as_ref(),
    );
}

fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.ready) != Some(false)
}

/// Ready endpoints of a port, by its name.
fn endpoints(slices: &[EndpointSlice], port: &str) -> String {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let number = ports
            .filter(|other| other.name.as_deref().unwrap_or_default() == port)
            .find_map(|other| other.port);
        let Some(number) = number else { continue };
        for endpoint in slice
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| is_ready(endpoint))
        {
            found.extend(endpoint.addresses.iter().map(|address| {
                if address.contains(':') {
                    format!("[{address}]:{number}")
                } else {
                    format!("{address}:{number}")
                }
            }));
        }
    }
    or_none(found.join(","))
}

pub(super) fn endpoint_slice(page: &mut Page, slice: &EndpointSlice) {
    head(page, &slice.metadata, true);
    labels(page, &slice.metadata);
    page.field(0, "AddressType", &slice.address_type);
    page.line(0, "Ports:");
    page.line(1, "Name\tPort\tProtocol");
    for port in slice.ports.iter().flatten() {
        let name = port
            .name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("<unset>");
        let number = port.port.map_or("<any>".to_owned(), |number| number.to_string());
        page.line(
            1,
            &format!("{name}\t{number}\t{}", port.protocol.as_deref().unwrap_or("TCP")),
        );
    }
    page.line(0, "Endpoints:");
    for endpoint in slice.endpoints.iter().flatten() {
        page.line(1, &format!("- Addresses:\t{}", endpoint.addresses.join(",")));
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        page.line(2, "Conditions:");
        page.field(3, "Ready", conditions.ready.unwrap_or(true).to_string());
        page.field(3, "Serving", conditions.serving.unwrap_or(true).to_string());
        page.field(
            3,
            "Terminating",
            conditions.terminating.unwrap_or(false).to_string(),
        );
        if let Some(target) = &endpoint.target_ref {
            let kind = target.kind.as_deref().unwrap_or_default();
            page.field(
                2,
                "TargetRef",
                format!("{kind}/{}", target.name.as_deref().unwrap_or_default()),
            );
        }
        page.field_if(2, "NodeName", endpoint.node_name.as_ref());
    }
}
