//! What the tables start from: one node, one Service of every kind of address, two endpoints.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::*;

pub const POD: &str = "10.244.0.9";
pub const REMOTE_POD: &str = "10.244.7.9";
pub const HOST: &str = "192.168.50.1";
pub const OUTSIDE: &str = "203.0.113.7";

pub const CLUSTER_IP: &str = "10.96.0.10";
pub const VIP: &str = "198.51.100.1";
pub const EXTERNAL: &str = "198.51.100.77";
pub const NODE: &str = "192.168.50.1";
pub const NODE_PORT: u16 = 30080;

/// On this node.
pub const NEAR: &str = "10.244.0.5:8080";
/// On another.
pub const FAR: &str = "10.244.7.5:8080";

pub fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.into()],
        node: Some(node.into()),
        ..Endpoint::default()
    }
}

/// Leaving, and whether it still serves.
pub fn leaving(address: &str, node: &str, serving: bool) -> Endpoint {
    Endpoint {
        ready: Some(false),
        serving: Some(serving),
        terminating: Some(true),
        ..endpoint(address, node)
    }
}

pub fn near() -> Endpoint {
    endpoint("10.244.0.5", "n1")
}

pub fn far() -> Endpoint {
    endpoint("10.244.7.5", "n2")
}

pub fn service() -> Service {
    Service {
        namespace: "default".into(),
        name: "web".into(),
        kind: Kind::LoadBalancer,
        cluster_ips: vec![CLUSTER_IP.into()],
        external_ips: vec![EXTERNAL.into()],
        ingress: vec![Ingress {
            ip: Some(VIP.into()),
            ..Ingress::default()
        }],
        ports: vec![Port {
            name: "http".into(),
            protocol: "TCP".into(),
            number: 80,
            node_port: NODE_PORT,
        }],
        ..Service::default()
    }
}

pub fn slice(name: &str, endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        namespace: "default".into(),
        name: name.into(),
        service: "web".into(),
        address_type: "IPv4".into(),
        ports: vec![SlicePort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
        }],
        endpoints,
        ..Slice::default()
    }
}

pub fn cluster(endpoints: Vec<Endpoint>) -> Cluster {
    Cluster {
        services: vec![service()],
        slices: vec![slice("web-1", endpoints)],
        node: Node {
            name: "n1".into(),
            zone: Some("z1".into()),
            addresses: vec![ip(NODE), ip("172.20.0.1")],
        },
        settings: Settings::default(),
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

pub fn source(place: Place) -> Source {
    let address = match place {
        Place::Pod => POD,
        Place::RemotePod => REMOTE_POD,
        Place::Host => HOST,
        Place::Outside => OUTSIDE,
    };
    Source {
        place,
        address: ip(address),
    }
}

pub fn packet(place: Place, to: &str, port: u16) -> Packet {
    Packet {
        source: source(place),
        to: SocketAddr::new(ip(to), port),
        protocol: Protocol::Tcp,
        remembered: None,
    }
}

/// All endpoints, all seen alike.
pub fn translated(endpoints: &[&str], mark: Masquerade) -> Verdict {
    Verdict::Translate(endpoints.iter().map(|text| (socket(text), mark)).collect())
}

/// The endpoints that a set holds, as texts.
pub fn set_of(cluster: &Cluster) -> Sets {
    let service = &cluster.services[0];
    cluster.sets(service, &service.ports[0], false)
}

pub fn labels(name: &str) -> Labels {
    BTreeMap::from([(name.to_owned(), String::new())])
}
