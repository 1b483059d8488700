//! The flow table under pressure: it cleans itself, and says when it is full.

use keelson_dataplane::{
    Dataplane, TestContext,
    abi::{
        COUNTER_DROPS, COUNTER_FLOW_EXPIRED, COUNTER_FLOW_NEW, COUNTER_FLOW_REPLACED, DropReason, FLOW_STUB,
        Flow, FlowKey, MAP_FLOW, MAP_FLOW_CURSOR, MAP_FLOW_RING, PROG_POD_INGRESS, RingSlot,
    },
};

use std::{
    net::{Ipv4Addr, TcpStream},
    thread,
};

use crate::{
    crafted::{At, REDIRECT},
    packet::{ACK, Packet, RST, SYN},
    raw,
    talk::{abort, greeting, serve_tcp},
    topology::{CLIENT, NODE, P1, P2, Q1, TCP, To, Topology, UDP, VIP},
};

/// Slots of the small ring: as many flows fit.
const SLOTS: u64 = 8;

fn small() -> Topology {
    let t = Topology::new();
    t.service(&[(VIP, 53, UDP)], &[To::Pod(P2, 8080)]);
    // Slot 0 is never used.
    t.with(|dataplane| raw::put(dataplane, MAP_FLOW_CURSOR, &1_u32, &(SLOTS + 1)));
    t
}

fn open(t: &Topology, port: u16) -> bool {
    let (code, out) = t.send(At::Pod("vp1"), &Packet::udp((P1, port), (VIP, 53), b"x"));
    // What finds no room is refused: an ICMP error comes back in its place.
    code == REDIRECT && out.protocol == UDP
}

/// Makes flows look as if their last packet was long ago.
fn grow_old(t: &Topology, which: impl Fn(&FlowKey) -> bool + Send + 'static) {
    t.with(move |dataplane| {
        for (key, mut flow) in dataplane.flows().expect("flows") {
            if flow.flags & FLOW_STUB == 0 && which(&key) {
                flow.last_seen = flow.last_seen.wrapping_sub(1000);
                raw::put::<FlowKey, Flow>(dataplane, MAP_FLOW, &key, &flow);
            }
        }
    });
}

#[test]
fn a_full_table_refuses_and_says_so() {
    let t = small();
    for port in 0..SLOTS as u16 {
        assert!(open(&t, 4000 + port), "flow {port} of {SLOTS}");
    }
    let full = COUNTER_DROPS + DropReason::FlowTableFull as u32;
    let before = t.counter(full);
    assert!(!open(&t, 5000));
    assert_eq!(t.counter(full), before + 1);
    assert!(open(&t, 4003), "flows that exist go on");
}

#[test]
fn silent_flows_make_room_for_new_ones_without_any_process() {
    let t = small();
    for port in 0..SLOTS as u16 {
        assert!(open(&t, 4000 + port));
    }
    grow_old(&t, |key| u16::from_be(key.sport_be) != 4002);
    let (new, expired) = (t.counter(COUNTER_FLOW_NEW), t.counter(COUNTER_FLOW_EXPIRED));
    for port in 0..SLOTS as u16 - 1 {
        assert!(open(&t, 5000 + port), "flow {port}");
    }
    assert_eq!(t.counter(COUNTER_FLOW_NEW), new + SLOTS - 1);
    assert_eq!(t.counter(COUNTER_FLOW_EXPIRED), expired + SLOTS - 1);
    let flows = t.with(|dataplane| dataplane.flows().expect("flows"));
    assert_eq!(
        flows.len() as u64,
        2 * SLOTS,
        "both legs of each went, and nothing else"
    );
    let ports = |flows: &[(FlowKey, Flow)]| {
        let entries = flows.iter().filter(|(_, flow)| flow.flags & FLOW_STUB == 0);
        entries
            .map(|(key, _)| u16::from_be(key.sport_be))
            .collect::<Vec<_>>()
    };
    assert!(
        ports(&flows).contains(&4002),
        "the live one stayed: {:?}",
        ports(&flows)
    );
    for (key, flow) in flows.iter().filter(|(_, flow)| flow.flags & FLOW_STUB != 0) {
        assert!(
            flows.iter().any(|(entry, _)| *entry == flow.other),
            "a stub without its entry: {key:?}"
        );
    }
}

#[test]
fn every_slot_leads_to_the_flow_that_settled_there() {
    let t = small();
    for port in 0..SLOTS as u16 {
        assert!(open(&t, 4000 + port));
    }
    t.with(|dataplane| {
        let mut seen = Vec::new();
        for (key, flow) in dataplane.flows().expect("flows") {
            if flow.flags & FLOW_STUB == 0 {
                let slot: Option<RingSlot> = raw::get(dataplane, MAP_FLOW_RING, &flow.slot);
                assert_eq!(
                    slot.map(|slot| (slot.key, slot.claim as u32)),
                    Some((key, flow.claim))
                );
                seen.push(flow.slot);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=SLOTS as u32).collect::<Vec<_>>());
    });
}

#[test]
fn after_many_connections_at_once_the_table_is_whole() {
    let t = Topology::new();
    for room in [&t.p2, &t.q1, &t.node, &t.client] {
        serve_tcp(room, 8080);
    }
    for (port, to) in [
        (80, To::Pod(P2, 8080)),
        (81, To::Pod(Q1, 8080)),
        (82, To::Node(8080)),
    ] {
        t.service(&[(VIP, port, TCP), (NODE, 30_000 + port, TCP)], &[to]);
    }
    let asked: [(_, &[(Ipv4Addr, u16)]); 3] = [
        (&t.p1, &[(VIP, 80), (VIP, 81), (VIP, 82), (CLIENT, 8080)]),
        (
            &t.node,
            &[
                (VIP, 80),
                (VIP, 81),
                (VIP, 82),
                (NODE, 30_080),
                (Ipv4Addr::LOCALHOST, 30_081),
            ],
        ),
        (&t.client, &[(NODE, 30_080), (NODE, 30_081), (NODE, 30_082)]),
    ];
    // The threads inherit the namespace of the room that starts them, and then run at the same time.
    let mut running = Vec::new();
    for (room, to) in asked {
        for to in to.iter().copied() {
            running.push((to, room.run(move || thread::spawn(move || many(to)))));
        }
    }
    for (to, thread) in running {
        thread
            .join()
            .expect("thread")
            .unwrap_or_else(|error| panic!("{to:?}: {error}"));
    }
    t.with(every_flow_is_whole);
}

/// Entries and stubs lead to each other, and ageing finds both.
fn every_flow_is_whole(dataplane: &Dataplane) {
    let flows = dataplane.flows().expect("flows");
    assert!(flows.len() > 1000, "{} legs", flows.len());
    let table: std::collections::HashMap<FlowKey, Flow> = flows.iter().copied().collect();
    for (key, flow) in &flows {
        if flow.flags & FLOW_STUB != 0 {
            assert!(
                table.contains_key(&flow.other),
                "a stub without its entry: {key:?}"
            );
            continue;
        }
        let stub = table.get(&flow.other.reverse());
        assert_eq!(
            stub.map(|stub| stub.other),
            Some(*key),
            "an entry without its stub"
        );
        let slot: Option<RingSlot> = raw::get(dataplane, MAP_FLOW_RING, &flow.slot);
        assert_eq!(
            slot.map(|slot| slot.key),
            Some(*key),
            "a flow that no ageing finds"
        );
    }
}

/// Many short connections, one after the other.
fn many(to: (Ipv4Addr, u16)) -> std::io::Result<()> {
    for _ in 0..100 {
        let mut stream = TcpStream::connect(to)?;
        greeting(&mut stream)?;
        abort(stream);
    }
    Ok(())
}

#[test]
fn many_cpus_in_a_crowded_ring_never_share_a_slot() {
    let t = Topology::new();
    t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    const CROWDED: u64 = 24;
    t.with(|dataplane| raw::put(dataplane, MAP_FLOW_CURSOR, &1_u32, &(CROWDED + 1)));
    // Connections that end at once, from more threads than there are CPUs: each one takes the place of another.
    let (ifindex, mac) = t.link("vp1");
    let running: Vec<_> = (0..4_u16)
        .map(|thread| {
            let dataplane = std::sync::Arc::clone(&t.dataplane);
            t.node.run(move || {
                thread::spawn(move || {
                    for port in 0..3000 {
                        for flags in [SYN, RST | ACK] {
                            let from = (P1, 1000 + thread * 10_000 + port);
                            let mut frame = Packet::tcp(from, (VIP, 80), flags, b"").frame();
                            frame[..6].copy_from_slice(&mac);
                            let context = TestContext {
                                ifindex,
                                ingress_ifindex: ifindex,
                                mark: 0,
                            };
                            dataplane
                                .test_run(PROG_POD_INGRESS, &frame, context)
                                .expect("test run");
                        }
                    }
                })
            })
        })
        .collect();
    for thread in running {
        thread.join().expect("thread");
    }
    assert!(t.counter(COUNTER_FLOW_REPLACED) > 10_000, "the ring was crowded");
    t.with(|dataplane| {
        let mut slots = std::collections::BTreeMap::new();
        for (key, flow) in dataplane.flows().expect("flows") {
            if flow.flags & FLOW_STUB != 0 {
                continue;
            }
            let slot: Option<RingSlot> = raw::get(dataplane, MAP_FLOW_RING, &flow.slot);
            assert_eq!(
                slot.map(|slot| (slot.key, slot.claim as u32)),
                Some((key, flow.claim)),
                "a flow that no ageing finds"
            );
            assert_eq!(slots.insert(flow.slot, key), None, "two flows in one slot");
        }
        assert!(
            !slots.is_empty() && slots.len() as u64 <= CROWDED,
            "{} flows",
            slots.len()
        );
    });
}

#[test]
fn a_table_full_of_closed_connections_refuses_none() {
    let t = small();
    t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    let refused = COUNTER_DROPS + DropReason::FlowTableFull as u32;
    // Three times the table's size in connections that end at once, long before any time is up.
    for port in 0..3 * SLOTS as u16 {
        for flags in [SYN, RST | ACK] {
            let packet = Packet::tcp((P1, 4000 + port), (VIP, 80), flags, b"");
            let (code, out) = t.send(At::Pod("vp1"), &packet);
            assert_eq!((code, out.destination), (REDIRECT, P2), "connection {port}");
        }
    }
    assert_eq!(t.counter(refused), 0);
    assert!(t.flow_count() as u64 <= 2 * SLOTS);
}
