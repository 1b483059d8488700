//! Every way in × every place of a client × both protocols, over real sockets, against the model; and datagrams that follow when
//! their server is exchanged.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use keelson_core::service::{plan::Observed, state::Services};
use keelson_tests::oracle::{
    Cluster, Endpoint, Ingress, Kind, Node, Packet, Place, Port, Protocol, Service, Settings, Slice,
    SlicePort, Source, Verdict,
    generate::{ip, places::NODE},
};

use crate::{
    lab::{self, Lab},
    people::{self, Answer},
    planned::{self, Objects},
    programs,
    room::Room,
    topology::{CLIENT, NODE as NODE_IP, OTHER, P1, P2, P3, Q1, six},
};

/// Endpoints listen here.
const PORT: u16 = 8080;

/// Names and node ports of the Services.
const SERVICES: [(&str, u16); 4] = [
    ("both", 30_080),
    ("local", 30_081),
    ("nobody", 30_082),
    ("far", 30_083),
];

/// Every address in both families.
fn both(address: Ipv4Addr) -> [IpAddr; 2] {
    [address.into(), six(address).into()]
}

/// Routes that a network with load balancers has.
fn routes(lab: &Lab) {
    let t = &lab.topology;
    for room in [&t.client, &t.other] {
        room.ip(&format!(
            "route add 10.96.0.0/16 via {NODE_IP}
             route add 198.51.100.0/24 via {NODE_IP}
             route add fd00:a:60::/48 via {twin}
             route add fd00:c6:33:64::/64 via {twin}",
            twin = six(NODE_IP)
        ));
    }
    t.node.ip(&format!(
        "route add 198.51.100.0/24 via 169.254.1.1 dev keelson0 onlink src {NODE_IP}
         route add fd00:c6:33:64::/64 via fe80::1 dev keelson0 src {}",
        six(NODE_IP)
    ));
}

/// Ports of TCP and UDP.
fn ports(node_port: u16) -> Vec<Port> {
    ["TCP", "UDP"]
        .map(|protocol| Port {
            name: protocol.to_lowercase(),
            protocol: protocol.into(),
            number: 80,
            node_port,
        })
        .to_vec()
}

/// A slice of each family.
fn slices(service: &str, endpoints: &[(Ipv4Addr, &str)]) -> Vec<Slice> {
    let of_family = |number: usize, address_type: &str| {
        let endpoint = |(address, node): &(Ipv4Addr, &str)| Endpoint {
            addresses: vec![both(*address)[number].to_string()],
            node: Some((*node).into()),
            ..Endpoint::default()
        };
        let port = |protocol: &str| SlicePort {
            name: Some(protocol.to_lowercase()),
            protocol: Some(protocol.into()),
            number: Some(i32::from(PORT)),
        };
        Slice {
            namespace: "default".into(),
            name: format!("{service}-{number}"),
            service: service.into(),
            address_type: address_type.into(),
            ports: ["TCP", "UDP"].map(port).to_vec(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..Slice::default()
        }
    };
    vec![of_family(0, "IPv4"), of_family(1, "IPv6")]
}

/// Four Services of both families: of the Cluster policy, of the Local one, without an endpoint, and Local with endpoints elsewhere
/// only.
fn cluster() -> Cluster {
    let services = (0..).zip(SERVICES).map(|(number, (name, node_port))| {
        let local = matches!(name, "local" | "far");
        let texts = |first: [u8; 4]| -> Vec<String> {
            let [a, b, c, d] = first;
            both(Ipv4Addr::new(a, b, c, d + number))
                .map(|address| address.to_string())
                .to_vec()
        };
        let ingress = |text: String| Ingress {
            ip: Some(text),
            ..Ingress::default()
        };
        Service {
            namespace: "default".into(),
            name: name.into(),
            kind: Kind::LoadBalancer,
            cluster_ips: texts([10, 96, 0, 10]),
            external_ips: texts([198, 51, 100, 77]),
            ingress: texts([198, 51, 100, 1]).into_iter().map(ingress).collect(),
            internal_local: local,
            external_local: local,
            ports: ports(node_port),
            ..Service::default()
        }
    });
    let all = [(P1, "n1"), (P2, "n1"), (Q1, "n2"), (NODE_IP, "n1")];
    Cluster {
        services: services.collect(),
        slices: [
            slices("both", &all),
            slices("local", &all),
            slices("far", &[(Q1, "n2")]),
        ]
        .concat(),
        node: Node {
            name: "n1".into(),
            zone: None,
            addresses: NODE.iter().map(|text| ip(text)).collect(),
        },
        settings: Settings::default(),
    }
}

/// The ways into a Service.
fn entries(service: &Service) -> Vec<SocketAddr> {
    let texts = service.cluster_ips.iter().chain(&service.external_ips);
    let balancers = service.ingress.iter().filter_map(|place| place.ip.as_ref());
    let mut all: Vec<_> = texts
        .chain(balancers)
        .map(|text| SocketAddr::new(ip(text), 80))
        .collect();
    let node_port = service.ports[0].node_port;
    all.extend(both(NODE_IP).map(|address| SocketAddr::new(address, node_port)));
    all.push(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), node_port));
    all
}

/// Who asks from where.
fn clients(lab: &Lab) -> [(&'static str, &Room, Place, Ipv4Addr); 6] {
    let t = &lab.topology;
    [
        ("a pod that is an endpoint", &t.p1, Place::Pod, P1),
        ("a pod that is none", &t.p3, Place::Pod, P3),
        ("a remote pod that is an endpoint", &t.q1, Place::RemotePod, Q1),
        ("the host", &t.node, Place::Host, NODE_IP),
        ("a client outside", &t.client, Place::Outside, CLIENT),
        ("another node", &t.other, Place::Outside, OTHER),
    ]
}

/// One exchange against the model.
fn right(cluster: &Cluster, packet: &Packet, answer: Answer) -> Result<Option<SocketAddr>, String> {
    match (cluster.verdict(packet), answer) {
        (Verdict::Reject, Answer::Refused) | (Verdict::Drop, Answer::Silence) => Ok(None),
        (Verdict::Translate(to), Answer::From { endpoint, client }) => {
            programs::is_right(cluster, packet, &to, client, endpoint).map(|()| Some(endpoint))
        }
        (expected, found) => Err(format!("kube-proxy: {expected:?}, found: {found:?}")),
    }
}

fn serve_all(lab: &Lab) {
    let t = &lab.topology;
    for (room, address) in [
        (&t.p1, P1),
        (&t.p2, P2),
        (&t.p3, P3),
        (&t.q1, Q1),
        (&t.node, NODE_IP),
    ] {
        people::serve(room, both(address), PORT);
    }
}

#[test]
fn every_way_in_from_every_place_over_real_sockets() {
    let lab = Lab::new();
    routes(&lab);
    serve_all(&lab);
    let cluster = cluster();
    lab.program(&cluster);
    let mut failures = Vec::new();
    let mut reached = BTreeSet::new();
    for (name, room, place, address) in clients(&lab) {
        for to in cluster.services.iter().flat_map(entries) {
            // Beyond the host 127.0.0.1 is everybody's own.
            if to.ip().is_loopback() && place != Place::Host {
                continue;
            }
            let address = both(address)[usize::from(to.is_ipv6())];
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let packet = Packet {
                    source: Source { place, address },
                    to,
                    protocol,
                    remembered: None,
                };
                let silent = cluster.verdict(&packet) == Verdict::Drop;
                for _ in 0..if silent { 1 } else { 8 } {
                    let answer = people::ask(room, to, protocol);
                    match right(&cluster, &packet, answer) {
                        Ok(endpoint) => drop(reached.insert((name, endpoint))),
                        Err(error) => {
                            failures.push(format!("{name} → {to} by {}: {error}", protocol.name()));
                            break;
                        }
                    }
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
    // Chance gives everybody every endpoint that is admitted to them: four in each family.
    for (name, ..) in clients(&lab) {
        let endpoints = reached
            .iter()
            .filter(|(who, endpoint)| *who == name && endpoint.is_some());
        assert_eq!(endpoints.count(), 8, "{name} reached only some: {reached:?}");
    }
}

/// The planner of an agent that goes on.
struct Agent {
    services: Services,
}

impl Agent {
    fn new(cluster: &Cluster) -> Self {
        let mut services = planned::informed(cluster);
        services.observe(Observed::default(), 1);
        Self { services }
    }

    /// Plan and write; the moment when the last write was done.
    fn program(&mut self, lab: &Lab) -> Instant {
        let plan = self.services.plan().plan;
        lab.topology.with(move |dataplane| {
            lab::carry_out(dataplane, &plan);
            Instant::now()
        })
    }

    /// One endpoint instead of the others.
    fn exchange(&mut self, lab: &Lab, service: &str, endpoint: Ipv4Addr, node: &str) -> Instant {
        let cluster = Cluster {
            slices: slices(service, &[(endpoint, node)]),
            ..Cluster::default()
        };
        for (key, slice) in Objects::of(&cluster).slices {
            self.services.set_slice(&key, Some(slice));
        }
        self.program(lab)
    }
}

#[test]
fn datagrams_follow_their_service_when_its_server_is_exchanged() {
    let lab = Lab::new();
    routes(&lab);
    serve_all(&lab);
    let mut cluster = cluster();
    cluster.slices.splice(..2, slices("both", &[(P2, "n1")]));
    lab.program(&cluster);
    let mut agent = Agent::new(&cluster);
    agent.program(&lab);
    let mut delays = Vec::new();
    let mut failures = Vec::new();
    for (name, room, place, _) in clients(&lab) {
        for to in entries(&cluster.services[0]) {
            if to.ip().is_loopback() && place != Place::Host {
                continue;
            }
            agent.exchange(&lab, "both", P2, "n1");
            let socket = room.run(move || people::datagram(to)).expect("connected");
            // The same socket all the time, so the same source port.
            for (server, node) in [(P3, "n1"), (Q1, "n2"), (NODE_IP, "n1"), (P2, "n1")] {
                let begun = agent.exchange(&lab, "both", server, node);
                let server = both(server)[usize::from(to.is_ipv6())];
                match people::until(&socket, SocketAddr::new(server, PORT), begun) {
                    Ok(delay) => delays.push(delay),
                    Err(error) => failures.push(format!("{name} → {to}, now {server}: {error}")),
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
    delays.sort();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
    println!(
        "{} exchanges, from the last write to the first answer: median {:?}, p99 {:?}, longest {:?}",
        delays.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(
        at(50) < Duration::from_millis(5),
        "half of them took longer than {:?}",
        at(50)
    );
}
