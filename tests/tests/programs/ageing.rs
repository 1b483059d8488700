//! The flow table under pressure: it cleans itself, and says when it is full.

use keelson_dataplane::abi::{
    COUNTER_DROPS, COUNTER_FLOW_EXPIRED, COUNTER_FLOW_NEW, DropReason, FLOW_STUB, Flow, FlowKey, MAP_FLOW,
    MAP_FLOW_CURSOR,
};

use crate::{
    crafted::{At, REDIRECT},
    packet::Packet,
    raw,
    topology::{P1, P2, To, Topology, UDP, VIP},
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
                let slot: Option<FlowKey> = raw::get(dataplane, "flow_ring", &flow.slot);
                assert_eq!(slot, Some(key));
                seen.push(flow.slot);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=SLOTS as u32).collect::<Vec<_>>());
    });
}
