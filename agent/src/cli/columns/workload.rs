//! Rows of Deployments, Services and their endpoints.

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};

use super::{NONE, or_none, pairs};
use crate::cli::{columns, describe::selector_text, duration::age};

/// So many addresses are listed.
const SHOWN: usize = 3;

pub(super) fn deployment(deployment: &Deployment, now: Timestamp, wide: bool) -> Vec<String> {
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let mut row = vec![
        deployment.metadata.name.clone().unwrap_or_default(),
        format!(
            "{}/{}",
            status.ready_replicas.unwrap_or(0),
            spec.replicas.unwrap_or(1)
        ),
        status.updated_replicas.unwrap_or(0).to_string(),
        status.available_replicas.unwrap_or(0).to_string(),
        age(deployment.metadata.creation_timestamp.as_ref(), now),
    ];
    if wide {
        let containers = spec.template.spec.map(|pod| pod.containers).unwrap_or_default();
        let list = |texts: Vec<&str>| or_none(texts.join(","));
        row.push(list(containers.iter().map(|one| one.name.as_str()).collect()));
        row.push(list(
            containers
                .iter()
                .map(|one| one.image.as_deref().unwrap_or_default())
                .collect(),
        ));
        row.push(selector_text(&spec.selector));
    }
    row
}

pub(super) fn service(service: &Service, now: Timestamp, wide: bool) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let kind = spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
    let mut row = vec![
        service.metadata.name.clone().unwrap_or_default(),
        kind,
        or_none(spec.cluster_ip.clone().unwrap_or_default()),
        external(service, &spec),
        ports(&spec),
        age(service.metadata.creation_timestamp.as_ref(), now),
    ];
    if wide {
        row.push(pairs(spec.selector.iter().flatten()));
    }
    row
}

/// Addresses from outside.
fn external(service: &Service, spec: &ServiceSpec) -> String {
    let given = spec.external_ips.clone().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("ExternalName") => or_none(spec.external_name.clone().unwrap_or_default()),
        Some("LoadBalancer") => {
            let balancer = service
                .status
                .as_ref()
                .and_then(|status| status.load_balancer.as_ref());
            let ingress = balancer.into_iter().flat_map(|one| one.ingress.iter().flatten());
            let mut addresses: Vec<String> = ingress
                .filter_map(|one| one.ip.clone().or_else(|| one.hostname.clone()))
                .collect();
            addresses.extend(given);
            if addresses.is_empty() {
                "<pending>".to_owned()
            } else {
                addresses.join(",")
            }
        }
        _ => or_none(given.join(",")),
    }
}

fn ports(spec: &ServiceSpec) -> String {
    let one = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.node_port.filter(|number| *number > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
            None => format!("{}/{protocol}", port.port),
        }
    };
    let ports: Vec<String> = spec.ports.iter().flatten().map(one).collect();
    or_none(ports.join(","))
}

/// The first few, and how many more there are.
fn some(texts: &[String], separator: &str) -> String {
    match texts.len() {
        0 => NONE.to_owned(),
        count if count <= SHOWN => texts.join(separator),
        count => format!("{} + {} more...", texts[..SHOWN].join(separator), count - SHOWN),
    }
}

/// In the manner of Endpoints: addresses with ports, of those that are ready.
pub(super) fn endpoints(slice: &EndpointSlice, now: Timestamp) -> Vec<String> {
    let service = slice
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("kubernetes.io/service-name"));
    let name = service
        .or(slice.metadata.name.as_ref())
        .cloned()
        .unwrap_or_default();
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    let ports: Vec<i32> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| port.port)
        .collect();
    let with_ports = |address: &String| -> Vec<String> {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.clone()
        };
        if ports.is_empty() {
            vec![address.clone()]
        } else {
            ports.iter().map(|port| format!("{host}:{port}")).collect()
        }
    };
    let all: Vec<String> = ready
        .flat_map(|endpoint| &endpoint.addresses)
        .flat_map(with_ports)
        .collect();
    vec![
        name,
        some(&all, ","),
        age(slice.metadata.creation_timestamp.as_ref(), now),
    ]
}

pub(super) fn endpoint_slice(slice: &EndpointSlice, now: Timestamp) -> Vec<String> {
    let ports: Vec<String> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| port.port.map_or("*".to_owned(), |port| port.to_string()))
        .collect();
    let addresses: Vec<String> = slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect();
    vec![
        slice.metadata.name.clone().unwrap_or_default(),
        slice.address_type.clone(),
        if ports.is_empty() {
            "<unset>".to_owned()
        } else {
            some(&ports, ",")
        },
        if addresses.is_empty() {
            "<unset>".to_owned()
        } else {
            some(&addresses, ",")
        },
        columns::age(slice.metadata.creation_timestamp.as_ref(), now),
    ]
}
