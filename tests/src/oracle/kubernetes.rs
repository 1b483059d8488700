//! The same objects as an API server would send them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{
            ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec,
            ServiceStatus, SessionAffinityConfig,
        },
        discovery::v1::{
            Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::objects::{self, Kind};

/// Label that names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service.
pub fn service(own: &objects::Service) -> Service {
    let policy = |local: bool| Some(if local { "Local" } else { "Cluster" }.to_owned());
    let external = matches!(own.kind, Kind::NodePort | Kind::LoadBalancer) || !own.external_ips.is_empty();
    let spec = ServiceSpec {
        type_: Some(type_name(own.kind).into()),
        cluster_ip: own.cluster_ips.first().cloned(),
        cluster_ips: (!own.cluster_ips.is_empty()).then(|| own.cluster_ips.clone()),
        external_ips: some(&own.external_ips),
        load_balancer_source_ranges: some(&own.source_ranges),
        internal_traffic_policy: policy(own.internal_local),
        external_traffic_policy: if external {
            policy(own.external_local)
        } else {
            None
        },
        session_affinity: Some(
            if own.affinity.is_some() {
                "ClientIP"
            } else {
                "None"
            }
            .into(),
        ),
        session_affinity_config: own.affinity.map(|seconds| SessionAffinityConfig {
            client_ip: Some(ClientIPConfig {
                timeout_seconds: i32::try_from(seconds).ok(),
            }),
        }),
        ports: Some(own.ports.iter().map(service_port).collect()),
        ..ServiceSpec::default()
    };
    let ingress = own.ingress.iter().map(|place| LoadBalancerIngress {
        ip: place.ip.clone(),
        hostname: place.hostname.clone(),
        ip_mode: place.mode.clone(),
        ports: None,
    });
    Service {
        metadata: metadata(&own.namespace, &own.name, own.labels.clone(), own.created),
        spec: Some(spec),
        status: Some(ServiceStatus {
            load_balancer: Some(LoadBalancerStatus {
                ingress: Some(ingress.collect()),
            }),
            ..ServiceStatus::default()
        }),
    }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterIp => "ClusterIP",
        Kind::NodePort => "NodePort",
        Kind::LoadBalancer => "LoadBalancer",
        Kind::ExternalName => "ExternalName",
    }
}

fn service_port(own: &objects::Port) -> ServicePort {
    ServicePort {
        name: (!own.name.is_empty()).then(|| own.name.clone()),
        protocol: Some(own.protocol.clone()),
        port: i32::from(own.number),
        node_port: (own.node_port != 0).then_some(i32::from(own.node_port)),
        ..ServicePort::default()
    }
}

/// An EndpointSlice.
pub fn slice(own: &objects::Slice) -> EndpointSlice {
    let mut labels = own.labels.clone();
    labels.insert(SERVICE_NAME.into(), own.service.clone());
    let ports = own.ports.iter().map(|port| EndpointPort {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        port: port.number,
        app_protocol: None,
    });
    EndpointSlice {
        metadata: metadata(&own.namespace, &own.name, labels, 0),
        address_type: own.address_type.clone(),
        endpoints: Some(own.endpoints.iter().map(endpoint).collect()),
        ports: Some(ports.collect()),
    }
}

fn endpoint(own: &objects::Endpoint) -> Endpoint {
    let said = own.ready.or(own.serving).or(own.terminating).is_some();
    let nodes: Vec<ForNode> = own
        .for_nodes
        .iter()
        .map(|name| ForNode { name: name.clone() })
        .collect();
    let zones: Vec<ForZone> = own
        .for_zones
        .iter()
        .map(|name| ForZone { name: name.clone() })
        .collect();
    let hinted = !nodes.is_empty() || !zones.is_empty();
    Endpoint {
        addresses: own.addresses.clone(),
        conditions: said.then_some(EndpointConditions {
            ready: own.ready,
            serving: own.serving,
            terminating: own.terminating,
        }),
        node_name: own.node.clone(),
        hints: hinted.then_some(EndpointHints {
            for_nodes: some(&nodes),
            for_zones: some(&zones),
        }),
        ..Endpoint::default()
    }
}

fn metadata(namespace: &str, name: &str, labels: BTreeMap<String, String>, created: i64) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.into()),
        name: Some(name.into()),
        uid: Some(format!("{namespace}-{name}")),
        labels: (!labels.is_empty()).then_some(labels),
        creation_timestamp: jiff::Timestamp::from_second(created).ok().map(Time),
        ..ObjectMeta::default()
    }
}

fn some<T: Clone>(values: &[T]) -> Option<Vec<T>> {
    (!values.is_empty()).then(|| values.to_vec())
}
