//! Clusters: Services of every kind, and slices of every quality.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::places::{CLUSTER_IPS, EXTERNAL, NODE, OTHER_NODE, OUTSIDE, PODS, REMOTE_PODS};
use crate::oracle::{
    Cluster, Endpoint, Ingress, Kind, Labels, Node, NodePortAddresses, Port, Service, Settings, Slice,
    SlicePort,
};

/// Port names that Services and slices share.
const PORT_NAMES: [&str; 3] = ["", "http", "dns"];

pub fn cluster() -> impl Strategy<Value = Cluster> {
    let slices = vec((slice(), prop::bool::weighted(0.7)), 0..4);
    let services = vec((service(), slices), 1..4);
    let zone = option::weighted(0.8, select(vec!["z1", "z2"]));
    (services, settings(), zone).prop_map(|(services, settings, zone)| {
        let mut cluster = Cluster {
            node: Node {
                name: "n1".into(),
                zone: zone.map(Into::into),
                addresses: NODE.iter().map(|text| super::ip(text)).collect(),
            },
            settings,
            ..Cluster::default()
        };
        for (index, (mut service, slices)) in services.into_iter().enumerate() {
            service.name = format!("s{index}");
            for (number, (mut slice, follows)) in slices.into_iter().enumerate() {
                slice.name = format!("s{index}-{number}");
                slice.service = service.name.clone();
                slice.ports = slice_ports(slice.ports, if follows { &service.ports } else { &[] });
                cluster.slices.push(slice);
            }
            cluster.services.push(service);
        }
        cluster
    })
}

/// The Service's own ports and then others; a slice has each name once.
fn slice_ports(others: Vec<SlicePort>, ports: &[Port]) -> Vec<SlicePort> {
    let own = ports
        .iter()
        .zip(others.iter().cycle())
        .map(|(port, other)| SlicePort {
            name: Some(port.name.clone()),
            protocol: Some(port.protocol.clone()),
            number: other.number,
        });
    let mut kept: Vec<SlicePort> = Vec::new();
    for port in own.chain(others.iter().cloned()) {
        if !kept.iter().any(|known| known.name == port.name) {
            kept.push(port);
        }
    }
    kept
}

fn settings() -> impl Strategy<Value = Settings> {
    let networks = [
        "192.168.50.0/24",
        "172.16.0.0/12",
        "10.0.0.0/8",
        "fd00:c0:a8:32::/64",
    ];
    let node_ports = prop_oneof![
        3 => Just(NodePortAddresses::All),
        1 => Just(NodePortAddresses::Primary),
        1 => vec(select(networks.to_vec()), 1..3)
            .prop_map(|texts| NodePortAddresses::Networks(texts.into_iter().map(Into::into).collect())),
    ];
    (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.9),
        node_ports,
    )
        .prop_map(
            |(masquerade_all, external_ips, localhost_node_ports, node_port_addresses)| Settings {
                masquerade_all,
                external_ips,
                localhost_node_ports,
                node_port_addresses,
                ..Settings::default()
            },
        )
}

/// Most have no label; some one that takes them out of sight.
fn labels(names: &'static [&'static str]) -> impl Strategy<Value = Labels> {
    option::weighted(0.06, select(names.to_vec())).prop_map(|name| {
        name.into_iter()
            .map(|name| (name.to_owned(), "x".to_owned()))
            .collect()
    })
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        3 => Just(Kind::ClusterIp),
        3 => Just(Kind::NodePort),
        4 => Just(Kind::LoadBalancer),
    ];
    let hidden = &[
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ];
    let identity = (kind, labels(hidden), 0..3_i64, cluster_ips());
    let outside = (
        vec(text_of(&EXTERNAL), 0..3),
        vec(ingress(), 0..3),
        source_ranges(),
    );
    let affinity = option::weighted(0.3, select(vec![10_800_u32, 60]));
    let policy = (any::<bool>(), any::<bool>(), affinity);
    (identity, outside, policy, vec(port(), 1..4)).prop_map(|(identity, outside, policy, ports)| {
        let (kind, labels, created, cluster_ips) = identity;
        let (external_ips, ingress, source_ranges) = outside;
        let balanced = kind == Kind::LoadBalancer;
        Service {
            namespace: "default".into(),
            name: String::new(),
            created,
            labels,
            kind,
            cluster_ips,
            external_ips: distinct(external_ips),
            ingress: if balanced { ingress } else { Vec::new() },
            source_ranges: if balanced { source_ranges } else { Vec::new() },
            internal_local: policy.0,
            // Nothing but addresses outside has this policy.
            external_local: policy.1,
            affinity: policy.2,
            ports: legal(ports, kind),
        }
    })
}

/// As the API admits them: names and numbers once each, NodePorts where the type has them.
fn legal(ports: Vec<Port>, kind: Kind) -> Vec<Port> {
    let mut kept: Vec<Port> = Vec::new();
    for mut port in ports {
        let taken = |known: &Port| {
            known.name == port.name || (known.number, &known.protocol) == (port.number, &port.protocol)
        };
        if kept.iter().any(taken) {
            continue;
        }
        if kind == Kind::ClusterIp || kept.iter().any(|known| known.node_port == port.node_port) {
            port.node_port = 0;
        }
        kept.push(port);
    }
    kept
}

fn distinct(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}

fn text_of(pool: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(pool.to_vec()).prop_map(Into::into)
}

/// One family, the other, both; sometimes none.
fn cluster_ips() -> impl Strategy<Value = Vec<String>> {
    let (four, six) = CLUSTER_IPS.split_at(CLUSTER_IPS.len() / 2);
    let of = |pool: &[&'static str]| select(pool.to_vec()).prop_map(|text| vec![text.to_owned()]);
    prop_oneof![
        8 => of(four),
        4 => of(six),
        5 => (of(four), of(six)).prop_map(|(four, six)| [four, six].concat()),
        2 => (of(six), of(four)).prop_map(|(six, four)| [six, four].concat()),
        1 => Just(vec!["None".to_owned()]),
    ]
}

fn ingress() -> impl Strategy<Value = Ingress> {
    let mode = prop_oneof![
        4 => Just(None),
        2 => Just(Some("VIP".to_owned())),
        1 => Just(Some("Proxy".to_owned())),
    ];
    let hostname = option::weighted(0.1, Just("lb.example".to_owned()));
    (option::weighted(0.95, text_of(&EXTERNAL)), hostname, mode).prop_map(|(ip, hostname, mode)| Ingress {
        // A mode is for addresses only.
        mode: mode.filter(|_| ip.is_some()),
        ip,
        hostname,
    })
}

fn source_ranges() -> impl Strategy<Value = Vec<String>> {
    let ranges = [
        "203.0.113.0/24",
        " 10.244.1.0/24",
        "10.244.0.0/16 ",
        "192.168.50.0/24",
        "192.168.50.9/32",
        "0.0.0.0/0",
        "fd00:cb:0:71::/64",
        "fd00:a:f4::/48",
        "fd00:c0:a8:32::1/128",
        "::/0",
    ];
    prop_oneof![
        3 => Just(Vec::new()),
        2 => vec(text_of_owned(&ranges), 1..4),
    ]
}

fn text_of_owned(pool: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    select(pool.to_vec()).prop_map(Into::into)
}

fn port() -> impl Strategy<Value = Port> {
    let protocol = prop_oneof![
        5 => Just("TCP"),
        4 => Just("UDP"),
        1 => Just("SCTP"),
    ];
    let number = select(vec![80_u16, 443, 53]);
    let node_port = prop_oneof![
        8 => select(vec![30_080_u16, 30_081, 30_082]),
        1 => Just(0),
    ];
    (select(PORT_NAMES.to_vec()), protocol, number, node_port).prop_map(
        |(name, protocol, number, node_port)| Port {
            name: name.into(),
            protocol: protocol.into(),
            number,
            node_port,
        },
    )
}

fn slice() -> impl Strategy<Value = Slice> {
    let address_type = prop_oneof![
        12 => Just("IPv4"),
        7 => Just("IPv6"),
        1 => Just("FQDN"),
    ];
    let all_hinted = prop::bool::weighted(0.5);
    (
        address_type,
        labels(&["service.kubernetes.io/headless"]),
        vec(slice_port(), 1..5),
        vec(endpoint(), 0..5),
        all_hinted,
    )
        .prop_map(|(address_type, labels, ports, endpoints, all_hinted)| Slice {
            namespace: "default".into(),
            address_type: address_type.into(),
            labels,
            ports,
            endpoints: endpoints
                .into_iter()
                .map(|(endpoint, pick)| placed(endpoint, pick, address_type, all_hinted))
                .collect(),
            ..Slice::default()
        })
}

/// Names and protocols as Services have them; now and then one that is no use.
fn slice_port() -> impl Strategy<Value = SlicePort> {
    let name = prop_oneof![
        20 => select(PORT_NAMES.to_vec()).prop_map(Some),
        1 => Just(None),
    ];
    let protocol = prop_oneof![
        6 => Just(Some("TCP")),
        5 => Just(Some("UDP")),
        2 => Just(Some("SCTP")),
        2 => Just(None),
    ];
    let number = prop_oneof![
        10 => Just(Some(8080)),
        5 => Just(Some(9090)),
        1 => Just(Some(0)),
        1 => Just(None),
    ];
    (name, protocol, number).prop_map(|(name, protocol, number)| SlicePort {
        name: name.map(Into::into),
        protocol: protocol.map(Into::into),
        number,
    })
}

/// An endpoint without its address, and what that will be.
fn endpoint() -> impl Strategy<Value = (Endpoint, prop::sample::Index)> {
    let conditions = prop_oneof![
        6 => Just((None, None, None)),
        6 => Just((Some(true), Some(true), Some(false))),
        3 => Just((Some(false), Some(true), Some(true))),
        2 => Just((Some(false), Some(false), Some(true))),
        2 => Just((Some(false), Some(false), Some(false))),
        1 => Just((Some(true), Some(true), Some(true))),
        1 => Just((Some(false), Some(true), Some(false))),
        1 => (any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<bool>>()),
    ];
    let zones = vec(select(vec!["z1", "z2"]), 0..3);
    let nodes = vec(select(vec!["n1", "n2"]), 0..2);
    let homeless = prop::bool::weighted(0.05);
    (conditions, zones, nodes, homeless, any::<prop::sample::Index>()).prop_map(
        |((ready, serving, terminating), zones, nodes, homeless, pick)| {
            let endpoint = Endpoint {
                ready,
                serving,
                terminating,
                node: homeless.then(String::new),
                for_zones: zones.into_iter().map(Into::into).collect(),
                for_nodes: nodes.into_iter().map(Into::into).collect(),
                ..Endpoint::default()
            };
            (endpoint, pick)
        },
    )
}

/// Give it an address of the slice's family, or one that is no use; and the node that has it.
fn placed(mut endpoint: Endpoint, pick: prop::sample::Index, address_type: &str, hinted: bool) -> Endpoint {
    let six = address_type == "IPv6";
    let family = |pool: &[&'static str]| -> Vec<&'static str> {
        pool.iter()
            .copied()
            .filter(|text| text.contains(':') == six)
            .collect()
    };
    let here = [family(&PODS), family(&NODE)[..1].to_vec()].concat();
    let there = [
        family(&REMOTE_PODS),
        family(&OTHER_NODE),
        family(&OUTSIDE)[..1].to_vec(),
    ]
    .concat();
    let useless = [
        "bogus",
        "",
        "10.244.1.999",
        if six { "10.244.1.11" } else { "fd00:a:f4:1::b" },
    ];
    let sloppy = if six {
        "fd00:a:f4:1:0::c"
    } else {
        "010.244.001.012"
    };
    let all = [
        &here[..],
        &here[..],
        &there[..],
        &[sloppy],
        &useless[..1 + pick.index(4).min(3)],
    ]
    .concat();
    let address = *pick.get(&all);
    let local = here.contains(&address) || address == sloppy;
    let homeless = endpoint.node.is_some();
    endpoint.addresses = vec![address.to_owned()];
    endpoint.node = (!homeless).then(|| if local { "n1" } else { "n2" }.to_owned());
    if !hinted {
        endpoint.for_zones.clear();
        endpoint.for_nodes.clear();
    } else if endpoint.for_zones.is_empty() && endpoint.for_nodes.is_empty() {
        endpoint.for_zones.push("z1".into());
    }
    endpoint
}
