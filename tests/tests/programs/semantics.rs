//! What a Service promises, packet by packet: which endpoints a client may get, which source they see, who is refused and who
//! is met with silence.

use std::{collections::BTreeSet, net::Ipv4Addr};

use keelson_dataplane::abi::{
    CHOICE_AFFINITY, CHOICE_MAGLEV, CHOICE_RANDOM, DropReason, FRONTEND_DROP, FRONTEND_EXTERNAL,
    FRONTEND_LOCAL, FRONTEND_MEMBERS, FRONTEND_NODE_PORT, FRONTEND_RANGES, FRONTEND_RESET_GONE, MAP_NODE,
    MASQUERADE_EXTERNAL, MASQUERADE_HAIRPIN, MASQUERADE_NONE, NODE_MASQUERADE_ALL, SOURCE_OUTSIDE,
    SOURCE_POD,
};

use crate::{
    crafted::{At, DROP, PASS, REDIRECT},
    packet::{ACK, Packet, RST, SYN},
    services::Port,
    topology::{CLIENT, NODE, OTHER, P1, P2, P3, Q1, TCP, To, Topology, UDP, VIP},
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// An address of the load balancer, which is nobody's own.
const LOAD_BALANCER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// `FRONTEND_*` of a NodePort with the Local policy.
const LOCAL_NODE_PORT: u32 = FRONTEND_EXTERNAL | FRONTEND_NODE_PORT | FRONTEND_LOCAL;

fn syn(from: Ipv4Addr, port: u16, to: (Ipv4Addr, u16)) -> Packet {
    Packet::tcp((from, port), to, SYN, b"")
}

/// Endpoints and sources that many connections get.
fn outcomes(
    t: &Topology,
    at: At,
    from: Ipv4Addr,
    to: (Ipv4Addr, u16),
) -> BTreeSet<(u32, Ipv4Addr, Ipv4Addr)> {
    (4000..4024)
        .map(|port| {
            let (code, out) = t.send(at, &syn(from, port, to));
            (code, out.source, out.destination)
        })
        .collect()
}

/// A NodePort with the Local policy: one endpoint here, one elsewhere.
fn local_node_port() -> Port {
    Port {
        frontends: vec![(NODE, 30080, TCP, LOCAL_NODE_PORT), (VIP, 80, TCP, 0)],
        cluster: vec![To::Pod(P2, 8080), To::Pod(Q1, 8080)],
        local: vec![To::Pod(P2, 8080)],
        ..Port::default()
    }
}

#[test]
fn with_the_local_policy_clients_outside_get_local_endpoints_and_keep_their_address() {
    let t = Topology::new();
    t.program(7, 1, &local_node_port());
    assert_eq!(
        outcomes(&t, At::Uplink, CLIENT, (NODE, 30080)),
        BTreeSet::from([(REDIRECT, CLIENT, P2)])
    );
}

#[test]
fn with_the_local_policy_pods_get_all_endpoints_under_their_own_address() {
    let t = Topology::new();
    t.program(7, 1, &local_node_port());
    assert_eq!(
        outcomes(&t, At::Pod("vp1"), P1, (NODE, 30080)),
        BTreeSet::from([(REDIRECT, P1, P2), (REDIRECT, P1, Q1)])
    );
    // A pod of another node is a pod, too.
    assert_eq!(
        outcomes(&t, At::Uplink, Q1, (NODE, 30080))
            .into_iter()
            .map(|(_, source, _)| source)
            .collect::<BTreeSet<_>>(),
        BTreeSet::from([Q1, NODE])
    );
}

#[test]
fn with_the_local_policy_the_host_gets_all_endpoints() {
    let t = Topology::new();
    t.program(7, 1, &local_node_port());
    let got = outcomes(&t, At::Host, NODE, (NODE, 30080));
    assert_eq!(got, BTreeSet::from([(REDIRECT, NODE, P2), (REDIRECT, NODE, Q1)]));
}

#[test]
fn the_local_policy_without_a_local_endpoint_is_silent_while_others_have_one() {
    let t = Topology::new();
    let mut port = local_node_port();
    port.local.clear();
    port.frontends = vec![
        (NODE, 30080, TCP, LOCAL_NODE_PORT | FRONTEND_DROP),
        (VIP, 80, TCP, FRONTEND_LOCAL | FRONTEND_DROP),
    ];
    t.program(7, 1, &port);
    assert_eq!(t.send(At::Uplink, &syn(CLIENT, 4000, (NODE, 30080))).0, DROP);
    assert_eq!(t.send(At::Pod("vp1"), &syn(P1, 4000, (VIP, 80))).0, DROP);
    assert_eq!(t.drops(DropReason::PolicyLocal), 2);
    // The cluster's own are not concerned by the external policy.
    assert_eq!(t.send(At::Pod("vp1"), &syn(P1, 4001, (NODE, 30080))).0, REDIRECT);
}

#[test]
fn the_local_policy_refuses_where_nobody_has_an_endpoint() {
    let t = Topology::new();
    let port = Port {
        frontends: vec![(NODE, 30080, TCP, LOCAL_NODE_PORT)],
        ..Port::default()
    };
    t.program(7, 1, &port);
    let (code, out) = t.send(At::Uplink, &syn(CLIENT, 4000, (NODE, 30080)));
    assert_eq!((code, out.source, out.destination), (REDIRECT, NODE, CLIENT));
    assert_eq!(t.drops(DropReason::NoEndpoint), 1);
}

#[test]
fn the_internal_local_policy_takes_local_endpoints_only() {
    let t = Topology::new();
    let mut port = local_node_port();
    port.frontends = vec![(VIP, 80, TCP, FRONTEND_LOCAL)];
    t.program(7, 1, &port);
    for (at, from) in [(At::Pod("vp1"), P1), (At::Host, NODE)] {
        let got = outcomes(&t, at, from, (VIP, 80));
        assert_eq!(got, BTreeSet::from([(REDIRECT, from, P2)]));
    }
}

#[test]
fn a_pod_that_asks_an_external_address_is_masqueraded_and_answered() {
    let t = Topology::new();
    let mut port = local_node_port();
    port.frontends = vec![(NODE, 30080, TCP, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)];
    port.cluster.truncate(1);
    t.program(7, 1, &port);
    let (code, out) = t.send(At::Pod("vp1"), &syn(P1, 4000, (NODE, 30080)));
    let ((source, number), to) = out.ends();
    assert_eq!((code, source, to), (REDIRECT, NODE, (P2, 8080)));
    assert!((20_000..30_000).contains(&number), "{number}");
    let answer = Packet::tcp((P2, 8080), (NODE, number), SYN | ACK, b"");
    let (code, back) = t.send(At::Pod("vp2"), &answer);
    assert_eq!((code, back.ends()), (REDIRECT, ((NODE, 30080), (P1, 4000))));
}

#[test]
fn a_pod_that_asks_a_service_address_is_never_masqueraded_but_to_itself() {
    let t = Topology::new();
    let port = Port {
        frontends: vec![(VIP, 80, TCP, 0)],
        cluster: vec![To::Pod(P2, 8080), To::Pod(Q1, 8080), To::Pod(P3, 8080)],
        ..Port::default()
    };
    t.program(7, 1, &port);
    let got = outcomes(&t, At::Pod("vp1"), P1, (VIP, 80));
    assert!(got.iter().all(|(_, source, _)| *source == P1), "{got:?}");
    let got = outcomes(&t, At::Pod("vp2"), P2, (VIP, 80));
    for (_, source, to) in got {
        assert_eq!(source, if to == P2 { GATEWAY } else { P2 });
    }
}

#[test]
fn a_client_outside_that_asks_a_service_address_is_masqueraded() {
    let t = Topology::new();
    let port = Port {
        frontends: vec![(VIP, 80, TCP, 0)],
        cluster: vec![To::Pod(P2, 8080)],
        ..Port::default()
    };
    t.program(7, 1, &port);
    let got = outcomes(&t, At::Uplink, CLIENT, (VIP, 80));
    assert_eq!(got, BTreeSet::from([(REDIRECT, NODE, P2)]));
    // A pod of another node is none.
    let got = outcomes(&t, At::Uplink, Q1, (VIP, 80));
    assert_eq!(got, BTreeSet::from([(REDIRECT, Q1, P2)]));
}

#[test]
fn masquerade_all_translates_pods_that_ask_a_service_address() {
    let t = Topology::new();
    let port = Port {
        frontends: vec![(VIP, 80, TCP, 0)],
        cluster: vec![To::Pod(P2, 8080)],
        ..Port::default()
    };
    t.program(7, 1, &port);
    t.with(|dataplane| {
        let mut node = dataplane.node().expect("node");
        node.flags |= NODE_MASQUERADE_ALL;
        dataplane
            .set_node(&node)
            .unwrap_or_else(|error| panic!("{MAP_NODE}: {error}"));
    });
    let got = outcomes(&t, At::Pod("vp1"), P1, (VIP, 80));
    assert_eq!(got, BTreeSet::from([(REDIRECT, NODE, P2)]));
}

#[test]
fn a_source_outside_the_ranges_is_dropped_wherever_it_asks_from() {
    let t = Topology::new();
    let port = Port {
        frontends: vec![
            (LOAD_BALANCER, 80, TCP, FRONTEND_EXTERNAL | FRONTEND_RANGES),
            (NODE, 30080, TCP, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT),
        ],
        cluster: vec![To::Pod(P2, 8080)],
        ranges: vec![(CLIENT, 32), (Ipv4Addr::new(10, 244, 2, 0), 24)],
        ..Port::default()
    };
    t.program(7, 1, &port);
    for (at, from, lets) in [
        (At::Uplink, CLIENT, true),
        (At::Uplink, OTHER, false),
        (At::Uplink, Q1, true),
        (At::Pod("vp1"), P1, false),
    ] {
        let (code, _) = t.send(at, &syn(from, 4000, (LOAD_BALANCER, 80)));
        assert_eq!(code, if lets { REDIRECT } else { DROP }, "{from}");
        // NodePorts are open to all.
        assert_eq!(t.send(at, &syn(from, 4000, (NODE, 30080))).0, REDIRECT, "{from}");
    }
    assert_eq!(t.drops(DropReason::SourceRange), 2);
}

#[test]
fn an_undefined_port_of_a_service_is_refused_and_an_address_of_nobody_dropped() {
    let t = Topology::new();
    t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    for (at, from) in [(At::Pod("vp1"), P1), (At::Host, NODE)] {
        let (code, out) = t.send(at, &syn(from, 4000, (VIP, 81)));
        assert_eq!((code, out.source, out.destination), (REDIRECT, VIP, from));
        let nobody = Ipv4Addr::new(10, 96, 200, 200);
        assert_eq!(t.send(at, &syn(from, 4000, (nobody, 80))).0, DROP);
    }
    assert_eq!(t.drops(DropReason::UnknownPort), 2);
    assert_eq!(t.drops(DropReason::UnknownAddress), 2);
}

#[test]
fn on_127_only_node_ports_are_served() {
    let t = Topology::new();
    let port = Port {
        frontends: vec![
            (NODE, 30080, TCP, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT),
            (NODE, 80, TCP, FRONTEND_EXTERNAL),
        ],
        cluster: vec![To::Pod(P2, 8080)],
        ..Port::default()
    };
    t.program(7, 1, &port);
    let lo = Ipv4Addr::LOCALHOST;
    assert_eq!(t.send(At::Lo, &syn(lo, 4000, (lo, 30080))).0, REDIRECT);
    assert_eq!(
        t.send(At::Lo, &syn(lo, 4000, (lo, 80))).0,
        PASS,
        "an external address is not the loopback's"
    );
    assert_eq!(t.send(At::Lo, &syn(NODE, 4000, (NODE, 80))).0, REDIRECT);
}

#[test]
fn affinity_gives_a_client_the_same_endpoint_by_every_address() {
    let t = Topology::new();
    let frontends = vec![
        (VIP, 80, TCP, FRONTEND_MEMBERS),
        (
            NODE,
            30080,
            TCP,
            FRONTEND_EXTERNAL | FRONTEND_NODE_PORT | FRONTEND_MEMBERS,
        ),
    ];
    let mut port = Port {
        frontends,
        cluster: vec![To::Pod(P2, 8080), To::Pod(P3, 8080), To::Pod(Q1, 8080)],
        affinity: 100,
        ..Port::default()
    };
    t.program(7, 1, &port);
    let mut got = outcomes(&t, At::Pod("vp1"), P1, (VIP, 80));
    got.extend(outcomes(&t, At::Pod("vp1"), P1, (NODE, 30080)));
    let endpoints: BTreeSet<Ipv4Addr> = got.into_iter().map(|(_, _, to)| to).collect();
    assert_eq!(endpoints.len(), 1, "{endpoints:?}");
    let (_, trace) = t.dry(At::Pod("vp1"), &syn(P1, 5000, (VIP, 80)));
    assert_eq!(trace.choice, CHOICE_AFFINITY);
    // An endpoint that nobody new is sent to any more gives its clients to others, which they keep.
    let gone = *endpoints.first().expect("one");
    port.cluster
        .retain(|to| !matches!(to, To::Pod(address, _) if *address == gone));
    port.serving = vec![To::Pod(gone, 8080)];
    t.program(7, 2, &port);
    let moved: BTreeSet<Ipv4Addr> = outcomes(&t, At::Pod("vp1"), P1, (VIP, 80))
        .into_iter()
        .map(|(_, _, to)| to)
        .collect();
    // Connections that were there stay; the ports are the same.
    assert_eq!(moved, endpoints);
    let fresh: BTreeSet<Ipv4Addr> = (6000..6024)
        .map(|number| t.send(At::Pod("vp1"), &syn(P1, number, (VIP, 80))).1.destination)
        .collect();
    assert_eq!(fresh.len(), 1);
    assert!(!fresh.contains(&gone), "{fresh:?}");
}

#[test]
fn affinity_switched_off_spreads_again() {
    let t = Topology::new();
    let mut port = Port {
        frontends: vec![(VIP, 80, TCP, FRONTEND_MEMBERS)],
        cluster: vec![To::Pod(P2, 8080), To::Pod(P3, 8080)],
        affinity: 100,
        ..Port::default()
    };
    t.program(7, 1, &port);
    assert_eq!(outcomes(&t, At::Pod("vp1"), P1, (VIP, 80)).len(), 1);
    port.affinity = 0;
    t.program(7, 1, &port);
    let fresh: BTreeSet<Ipv4Addr> = (6000..6040)
        .map(|number| t.send(At::Pod("vp1"), &syn(P1, number, (VIP, 80))).1.destination)
        .collect();
    assert_eq!(fresh.len(), 2);
}

#[test]
fn a_maglev_table_decides_by_the_clients_tuple_alone() {
    let t = Topology::new();
    let table: Vec<u16> = (0..127).map(|position| position % 2).collect();
    let port = Port {
        frontends: vec![(VIP, 80, TCP, 0)],
        cluster: vec![To::Pod(P2, 8080), To::Pod(P3, 8080)],
        maglev: table.clone(),
        ..Port::default()
    };
    t.program(7, 1, &port);
    for number in 4000..4024 {
        let packet = syn(P1, number, (VIP, 80));
        let (_, trace) = t.dry(At::Pod("vp1"), &packet);
        assert_eq!((trace.choice, trace.candidates), (CHOICE_MAGLEV, 2));
        let position = keelson_dataplane::abi::tuple_hash(&trace.key) % 127;
        let wanted = [P2, P3][usize::from(table[position as usize])];
        assert_eq!(t.send(At::Pod("vp1"), &packet).1.destination, wanted);
    }
}

#[test]
fn udp_follows_the_endpoints_that_serve_and_only_then() {
    let t = Topology::new();
    for (at, from, to, flags) in [
        (At::Pod("vp1"), P1, (VIP, 53), 0),
        (At::Host, NODE, (VIP, 54), 0),
        (
            At::Uplink,
            CLIENT,
            (NODE, 30053),
            FRONTEND_EXTERNAL | FRONTEND_NODE_PORT,
        ),
    ] {
        let service = u32::from(to.1);
        let mut port = Port {
            frontends: vec![(to.0, to.1, UDP, flags | FRONTEND_MEMBERS)],
            cluster: vec![To::Pod(P2, 53)],
            generation: 1,
            ..Port::default()
        };
        t.program(service, 1, &port);
        let ask = || t.send(at, &Packet::udp((from, 4000), to, b"q")).1.destination;
        assert_eq!(ask(), P2);
        // Another endpoint stopped serving: this flow is not concerned.
        port.cluster = vec![To::Pod(P2, 53), To::Pod(P3, 53)];
        port.generation = 2;
        t.program(service, 2, &port);
        assert_eq!(ask(), P2);
        // Its endpoint gets nobody new, but still serves.
        port.cluster = vec![To::Pod(P3, 53)];
        port.serving = vec![To::Pod(P2, 53)];
        port.generation = 3;
        t.program(service, 3, &port);
        assert_eq!(ask(), P2);
        port.serving.clear();
        port.generation = 4;
        t.forget_member(service, To::Pod(P2, 53));
        t.program(service, 4, &port);
        assert_eq!(ask(), P3, "{from}");
    }
}

#[test]
fn an_established_connection_outlives_its_endpoints_place_in_the_service() {
    let t = Topology::new();
    let mut port = Port {
        frontends: vec![(VIP, 80, TCP, 0)],
        cluster: vec![To::Pod(P2, 8080)],
        generation: 1,
        ..Port::default()
    };
    t.program(7, 1, &port);
    t.send(At::Pod("vp1"), &syn(P1, 4000, (VIP, 80)));
    port.cluster = vec![To::Pod(P3, 8080)];
    port.generation = 2;
    t.program(7, 2, &port);
    let (code, out) = t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 80), ACK, b"x"));
    assert_eq!((code, out.destination), (REDIRECT, P2));
}

#[test]
fn a_connection_to_an_endpoint_that_is_gone_is_reset_at_both_ends_where_wanted() {
    let t = Topology::new();
    let mut port = Port {
        frontends: vec![(VIP, 80, TCP, FRONTEND_MEMBERS | FRONTEND_RESET_GONE)],
        cluster: vec![To::Pod(P2, 8080)],
        generation: 1,
        ..Port::default()
    };
    t.program(7, 1, &port);
    t.send(At::Pod("vp1"), &syn(P1, 4000, (VIP, 80)));
    let data = Packet::tcp((P1, 4000), (VIP, 80), ACK, b"x");
    assert_eq!(t.send(At::Pod("vp1"), &data).1.destination, P2);
    port.cluster = vec![To::Pod(P3, 8080)];
    port.generation = 2;
    t.program(7, 2, &port);
    assert_eq!(t.send(At::Pod("vp1"), &data).1.destination, P2, "it still serves");
    t.forget_member(7, To::Pod(P2, 8080));
    port.generation = 3;
    t.program(7, 3, &port);
    let (code, out) = t.send(At::Pod("vp1"), &data);
    assert_eq!((code, out.ends()), (REDIRECT, ((VIP, 80), (P1, 4000))));
    assert_eq!(out.payload[13], RST);
    // The endpoint's side is told with its own view of the connection.
    let answer = Packet::tcp((P2, 8080), (P1, 4000), ACK, b"y");
    let (code, out) = t.send(At::Pod("vp2"), &answer);
    assert_eq!((code, out.ends()), (REDIRECT, ((P1, 4000), (P2, 8080))));
    assert_eq!(out.payload[13], RST);
    assert_eq!(t.drops(DropReason::EndpointGone), 2);
    // A new connection is one to an endpoint that is there.
    let (code, out) = t.send(At::Pod("vp1"), &syn(P1, 4000, (VIP, 80)));
    assert_eq!((code, out.destination), (REDIRECT, P3));
}

#[test]
fn a_dry_run_tells_why() {
    let t = Topology::new();
    t.program(7, 9, &local_node_port());
    let (_, trace) = t.dry(At::Uplink, &syn(CLIENT, 4000, (NODE, 30080)));
    assert_eq!(
        (
            trace.service,
            trace.revision,
            trace.first,
            trace.candidates,
            trace.choice
        ),
        (7, 9, 2, 1, CHOICE_RANDOM)
    );
    assert_eq!(
        (trace.source, trace.masquerade),
        (SOURCE_OUTSIDE, MASQUERADE_NONE)
    );
    assert_eq!(trace.frontend.port_be, 30080_u16.to_be());
    let (_, trace) = t.dry(At::Pod("vp2"), &syn(P2, 4000, (VIP, 80)));
    assert_eq!((trace.source, trace.candidates), (SOURCE_POD, 2));
    assert!(matches!(trace.masquerade, MASQUERADE_HAIRPIN | MASQUERADE_NONE));
    let mut port = local_node_port();
    port.frontends[0].3 = FRONTEND_EXTERNAL | FRONTEND_NODE_PORT;
    t.program(7, 9, &port);
    let (_, trace) = t.dry(At::Pod("vp1"), &syn(P1, 4000, (NODE, 30080)));
    assert_eq!(trace.masquerade, MASQUERADE_EXTERNAL);
}
