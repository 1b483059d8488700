//! What random clusters found once: each in its smallest form, by the promise that was broken.

use std::net::SocketAddr;

use keelson_tests::oracle::{
    Cluster, Endpoint, Kind, Node, Packet, Place, Port, Protocol, Service, Slice, SlicePort, Source,
    generate::{ip, places::NODE},
};

use crate::{lab, programs};

/// One NodePort Service with an endpoint here and one on another node.
fn cluster(edit: impl FnOnce(&mut Service)) -> Cluster {
    let mut service = Service {
        namespace: "default".into(),
        name: "web".into(),
        kind: Kind::NodePort,
        cluster_ips: vec!["10.96.0.10".into()],
        ports: vec![Port {
            name: "http".into(),
            protocol: "TCP".into(),
            number: 80,
            node_port: 30_080,
        }],
        ..Service::default()
    };
    edit(&mut service);
    let endpoint = |address: &str, node: &str| Endpoint {
        addresses: vec![address.into()],
        node: Some(node.into()),
        ..Endpoint::default()
    };
    let slice = Slice {
        namespace: "default".into(),
        name: "web-1".into(),
        service: "web".into(),
        address_type: "IPv4".into(),
        ports: vec![SlicePort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
        }],
        endpoints: vec![endpoint("10.244.1.12", "n1"), endpoint("10.244.2.11", "n2")],
        ..Slice::default()
    };
    Cluster {
        services: vec![service],
        slices: vec![slice],
        node: Node {
            name: "n1".into(),
            zone: None,
            addresses: NODE.iter().map(|text| ip(text)).collect(),
        },
        ..Cluster::default()
    }
}

fn packet(place: Place, source: &str, to: &str) -> Packet {
    Packet {
        source: Source {
            place,
            address: ip(source),
        },
        to: to.parse().expect("an address and port"),
        protocol: Protocol::Tcp,
        remembered: None,
    }
}

#[test]
fn a_client_that_is_remembered_elsewhere_stays_within_the_set_of_its_policy() -> Result<(), String> {
    let cluster = cluster(|service| {
        service.affinity = Some(10_800);
        service.internal_local = true;
    });
    let far: SocketAddr = "10.244.2.11:8080".parse().expect("an address and port");
    let asks = Packet {
        remembered: Some(far),
        ..packet(Place::Pod, "10.244.1.11", "10.96.0.10:80")
    };
    // Remembered within this very second: another CPU might have been faster, but not for this set.
    programs::all_hold(&lab::shared(), &cluster, &[asks; 8])
}

#[test]
fn masquerade_all_leaves_external_addresses_to_their_policy() -> Result<(), String> {
    let mut cluster = cluster(|service| service.external_local = true);
    cluster.settings.masquerade_all = true;
    let packets = [
        packet(Place::Outside, "192.168.50.9", "192.168.50.1:30080"),
        packet(Place::Pod, "10.244.1.11", "192.168.50.1:30080"),
        packet(Place::Pod, "10.244.1.11", "10.96.0.10:80"),
    ];
    programs::all_hold(&lab::shared(), &cluster, &packets)
}

#[test]
fn a_pod_of_another_node_that_reaches_itself_sees_an_address_that_it_can_answer() -> Result<(), String> {
    let mut cluster = cluster(|_| {});
    cluster.slices[0].endpoints.remove(0);
    let packets = [
        packet(Place::RemotePod, "10.244.2.11", "192.168.50.1:30080"),
        packet(Place::RemotePod, "10.244.2.11", "10.96.0.10:80"),
    ];
    programs::all_hold(&lab::shared(), &cluster, &packets)
}
