//! Dry runs: whatever packet is let in, at whatever hook, a decision is told and no map but the trace changes.

use std::{collections::BTreeMap, net::Ipv4Addr};

use keelson_dataplane::abi::{
    CHOICE_AFFINITY, CHOICE_ANSWER, CHOICE_FLOW, CHOICE_MAGLEV, CHOICE_NONE, CHOICE_RANDOM, DropReason,
    FRONTEND_EXTERNAL, FRONTEND_MEMBERS, FRONTEND_NODE_PORT, FRONTEND_RANGES, FRONTEND_RESET_GONE, MAP_TRACE,
    MASQUERADE_EXTERNAL, SOURCE_HOST, SOURCE_OUTSIDE, TRACE_DROP, TRACE_INJECT, TRACE_PASS, TRACE_PEER,
    TRACE_REFUSE,
};

use crate::{
    crafted::At,
    packet::{ACK, FIN, Packet, RST, SYN},
    raw,
    services::Port,
    topology::{CLIENT, NODE, P1, P2, P3, Q1, TCP, To, Topology, UDP, VIP},
};

const NODE_PORT: u32 = FRONTEND_EXTERNAL | FRONTEND_NODE_PORT;
/// First fragment of several.
const MORE: u16 = 0x2000;
/// The programs' own working set, which means nothing once a run has ended.
const SCRATCH: &str = "scratch";

type Dump = BTreeMap<String, Vec<(Vec<u8>, Vec<u8>)>>;

/// Every pinned map but the trace.
fn dump(t: &Topology) -> Dump {
    t.with(|dataplane| {
        let folder = dataplane.generation().path.join("maps");
        let names = std::fs::read_dir(folder).expect("maps").map(|entry| {
            let name = entry.expect("entry").file_name();
            name.into_string().expect("name")
        });
        names
            .filter(|name| name != MAP_TRACE && name != SCRATCH)
            .map(|name| {
                let all = raw::dump(dataplane, &name);
                (name, all)
            })
            .collect()
    })
}

/// Takes everybody else's devices down: what their stacks announce would be counted.
fn silence(t: &Topology) {
    for room in [&t.p1, &t.p2, &t.p3, &t.client, &t.other] {
        room.ip("link set eth0 down");
    }
}

/// Services of every kind, and flows in every state.
fn populate(t: &Topology) {
    let mut port = Port {
        frontends: vec![
            (VIP, 80, TCP, FRONTEND_MEMBERS | FRONTEND_RESET_GONE),
            (VIP, 53, UDP, FRONTEND_MEMBERS),
            (NODE, 30080, TCP, NODE_PORT | FRONTEND_MEMBERS),
        ],
        cluster: vec![To::Pod(P2, 8080), To::Pod(Q1, 8080)],
        affinity: 100,
        generation: 1,
        ..Port::default()
    };
    t.program(7, 1, &port);
    t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 80), SYN, b""));
    t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (VIP, 53), b"q"));
    t.send(At::Uplink, &Packet::tcp((CLIENT, 4000), (NODE, 30080), SYN, b""));
    // Its endpoints stop serving: the flows are of an older generation.
    t.forget_member(7, To::Pod(P2, 8080));
    t.forget_member(7, To::Pod(Q1, 8080));
    port.cluster = vec![To::Pod(P3, 8080)];
    port.generation = 2;
    t.program(7, 2, &port);
    t.program(
        8,
        1,
        &Port {
            frontends: vec![(VIP, 81, TCP, 0)],
            cluster: vec![To::Pod(P2, 8080), To::Pod(P3, 8080)],
            maglev: vec![0, 1, 0, 1, 1],
            ..Port::default()
        },
    );
    t.program(
        9,
        1,
        &Port {
            frontends: vec![(VIP, 82, TCP, FRONTEND_RANGES), (VIP, 84, UDP, 0)],
            cluster: vec![To::Pod(P2, 8080)],
            ranges: vec![(CLIENT, 32)],
            ..Port::default()
        },
    );
    t.service(&[(VIP, 83, TCP)], &[]);
    let stays = &[To::Pod(P2, 8080)];
    t.service(&[(VIP, 85, TCP), (VIP, 86, UDP)], stays);
    t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 85), SYN, b""));
    t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (VIP, 86), b"q"));
    // A connection that has ended, and one that left for outside.
    t.send(At::Pod("vp1"), &Packet::tcp((P1, 4001), (VIP, 85), SYN, b""));
    t.send(
        At::Pod("vp1"),
        &Packet::tcp((P1, 4001), (VIP, 85), RST | ACK, b""),
    );
    t.send(At::ToUplink, &Packet::tcp((P1, 4000), (CLIENT, 9), SYN, b""));
}

/// Packets of every kind, each with the hook it enters by.
fn packets() -> Vec<(At, Packet)> {
    let mut all = connections_of_a_pod();
    all.extend(datagrams_of_a_pod());
    all.extend(answers_and_errors());
    all.extend(asked_from_elsewhere());
    all.extend(leaving());
    all
}

/// An address of the Service network that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 200);

/// New ones of every choice and refusal, some of an older generation, endings.
fn connections_of_a_pod() -> Vec<(At, Packet)> {
    let mut all = Vec::new();
    for (to, port) in [
        (VIP, 80),
        (VIP, 81),
        (VIP, 82),
        (VIP, 83),
        (VIP, 85),
        (VIP, 99),
        (NOBODY, 80),
        (NODE, 30080),
        (CLIENT, 9),
        (P2, 8080),
        (P1, 8080),
    ] {
        for flags in [SYN, ACK, FIN | ACK, RST] {
            for source in [4000, 4001, 4002] {
                all.push((At::Pod("vp1"), Packet::tcp((P1, source), (to, port), flags, b"")));
            }
        }
    }
    all
}

/// Whole, and as a first and a later fragment.
fn datagrams_of_a_pod() -> Vec<(At, Packet)> {
    let mut all = Vec::new();
    for (to, port) in [
        (VIP, 53),
        (VIP, 84),
        (VIP, 86),
        (VIP, 99),
        (CLIENT, 9),
        (P2, 8080),
    ] {
        let whole = Packet::udp((P1, 4000), (to, port), b"12345678");
        for fragment in [0, MORE, 1] {
            let part = Packet {
                id: 99,
                fragment,
                ..whole.clone()
            };
            all.push((At::Pod("vp1"), part));
        }
    }
    all
}

/// Of pods, and what they say of packets that they got; one sends under another's address.
fn answers_and_errors() -> Vec<(At, Packet)> {
    let seen = Packet::udp((P1, 4000), (P2, 8080), b"q");
    vec![
        (At::Pod("vp1"), Packet::echo(P1, CLIENT, true, 7)),
        (At::Pod("vp1"), Packet::tcp((P2, 1), (P1, 1), SYN, b"")),
        (At::Pod("vp2"), Packet::tcp((P2, 8080), (P1, 4000), ACK, b"")),
        (At::Pod("vp2"), Packet::udp((P2, 8080), (P1, 4000), b"a")),
        (
            At::Pod("vp2"),
            Packet::icmp(P2, P1, [3, 3], [0; 4], &seen.ip()[..28]),
        ),
    ]
}

/// From outside, and from the host by both its ways.
fn asked_from_elsewhere() -> Vec<(At, Packet)> {
    let mut all = Vec::new();
    for (at, from) in [(At::Uplink, CLIENT), (At::Host, NODE), (At::Lo, NODE)] {
        for (to, port) in [(NODE, 30080), (VIP, 81), (VIP, 83), (NODE, 9), (NOBODY, 1)] {
            all.push((at, Packet::tcp((from, 4000), (to, port), SYN, b"")));
            all.push((at, Packet::tcp((from, 4000), (to, port), RST, b"")));
            all.push((at, Packet::udp((from, 4000), (to, port), b"q")));
        }
    }
    all
}

/// At the hooks of the way out.
fn leaving() -> Vec<(At, Packet)> {
    let mut all = Vec::new();
    for to in [CLIENT, Q1] {
        all.push((At::ToUplink, Packet::tcp((P1, 4000), (to, 9), SYN, b"")));
        all.push((At::ToUplink, Packet::tcp((P1, 4005), (to, 9), SYN, b"")));
        all.push((At::ToUplink, Packet::udp((P1, 4005), (to, 9), b"q")));
        all.push((At::ToUplink, Packet::tcp((NODE, 4005), (to, 9), SYN, b"")));
    }
    all.push((At::ToPod("vp1"), Packet::tcp((NODE, 4005), (P1, 9), SYN, b"")));
    all.push((At::ToPod("vp1"), Packet::udp((P2, 8080), (P1, 4000), b"a")));
    all
}

#[test]
fn a_dry_run_of_any_packet_changes_no_map_but_the_trace() {
    let t = Topology::new();
    populate(&t);
    silence(&t);
    let before = dump(&t);
    assert!(before.len() >= 14, "{:?}", before.keys());
    let flows = &before["flow"];
    assert!(flows.len() >= 14, "{} flows to leave alone", flows.len());
    for (at, packet) in packets() {
        let (_, trace) = t.dry(at, &packet);
        let what = format!("{:?} {} from {}", at, packet.protocol, packet.source);
        assert!((TRACE_PASS..=TRACE_DROP).contains(&trace.verdict), "{what}");
    }
    let after = dump(&t);
    for (name, map) in &before {
        assert!(
            *map == after[name],
            "{name} was written: {} entries before, {} after",
            map.len(),
            after[name].len()
        );
    }
    // The same packets for real do write: the comparison sees what it should.
    for (at, packet) in packets() {
        t.frame(at, &packet.frame(), 0);
    }
    let after = dump(&t);
    for name in ["flow", "counter", "fragment", "drop", "affinity", "flow_ring"] {
        assert!(
            before[name] != after[name],
            "{name} is not written by real packets"
        );
    }
}

#[test]
fn a_dry_run_tells_how_each_endpoint_was_chosen() {
    let t = Topology::new();
    populate(&t);
    let tcp = |from, to| Packet::tcp(from, to, SYN, b"");
    for (what, at, packet, choice, candidates) in [
        (
            "chance",
            At::Pod("vp1"),
            tcp((P1, 5000), (VIP, 80)),
            CHOICE_RANDOM,
            1,
        ),
        (
            "table",
            At::Pod("vp1"),
            tcp((P1, 5000), (VIP, 81)),
            CHOICE_MAGLEV,
            2,
        ),
        ("flow", At::Pod("vp1"), tcp((P1, 4000), (VIP, 85)), CHOICE_FLOW, 0),
        ("none", At::Pod("vp1"), tcp((P1, 5000), (VIP, 83)), CHOICE_NONE, 0),
        (
            "answer",
            At::Pod("vp2"),
            Packet::udp((P2, 8080), (P1, 4000), b"a"),
            CHOICE_ANSWER,
            0,
        ),
    ] {
        let (_, trace) = t.dry(at, &packet);
        assert_eq!((trace.choice, trace.candidates), (choice, candidates), "{what}");
    }
    t.send(At::Pod("vp1"), &tcp((P1, 5001), (VIP, 80)));
    let (_, trace) = t.dry(At::Pod("vp1"), &tcp((P1, 5002), (VIP, 80)));
    assert_eq!(trace.choice, CHOICE_AFFINITY);
    // A port of the range is told as 0, one that is kept as it is.
    let (_, trace) = t.dry(At::Uplink, &tcp((CLIENT, 5000), (NODE, 30080)));
    assert_eq!(
        (trace.source, trace.masquerade, trace.translated.sport_be),
        (SOURCE_OUTSIDE, MASQUERADE_EXTERNAL, 0)
    );
    let (_, trace) = t.dry(At::Host, &tcp((NODE, 5000), (VIP, 81)));
    assert_eq!(
        (trace.source, trace.translated.sport_be, trace.verdict),
        (SOURCE_HOST, 5000_u16.to_be(), TRACE_PEER)
    );
    let (_, trace) = t.dry(At::Lo, &tcp((NODE, 5000), (NODE, 30080)));
    assert_eq!(trace.verdict, TRACE_INJECT);
}

#[test]
fn a_dry_run_tells_of_packets_that_no_rule_concerns() {
    let t = Topology::new();
    populate(&t);
    let told = |at, packet: &Packet| {
        let (_, trace) = t.dry(at, packet);
        (trace.verdict, trace.drop_reason, trace.key.dport_be)
    };
    // After another packet, whose story must not be told again.
    let refused = Packet::tcp((P1, 5000), (VIP, 83), SYN, b"");
    let none = DropReason::NoEndpoint as u32 + 1;
    for (at, packet, verdict) in [
        (At::Lo, Packet::tcp((NODE, 1), (NODE, 22), SYN, b""), TRACE_PASS),
        (
            At::ToUplink,
            Packet::tcp((NODE, 1), (CLIENT, 22), SYN, b""),
            TRACE_PASS,
        ),
        (
            At::ToPod("vp1"),
            Packet::tcp((NODE, 1), (P1, 22), SYN, b""),
            TRACE_PASS,
        ),
        (
            At::Uplink,
            Packet::tcp((CLIENT, 1), (NODE, 22), SYN, b""),
            TRACE_PASS,
        ),
    ] {
        assert_eq!(
            told(At::Pod("vp1"), &refused),
            (TRACE_REFUSE, none, 83_u16.to_be())
        );
        assert_eq!(told(at, &packet), (verdict, 0, 22_u16.to_be()), "{at:?}");
    }
}
