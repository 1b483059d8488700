//! SCTP, which this machine may have no sockets for: packets by hand, their checksum computed over all of them.

use std::net::Ipv4Addr;

use keelson_dataplane::abi::DropReason;

use crate::{
    crafted::{At, DROP, REDIRECT},
    packet::Packet,
    topology::{NODE, P1, P2, To, Topology, VIP},
};

const SCTP: u8 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const DATA: u8 = 0;
const ABORT: u8 = 6;

/// The checksum as its definition has it: bit by bit over everything, the field itself taken as zero.
fn crc32c(bytes: &[u8]) -> u32 {
    let whole = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if (8..12).contains(&at) { 0 } else { *byte });
    let crc = whole.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    });
    !crc
}

/// A packet with one chunk of so many bytes.
fn packet(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), chunk: u8, size: usize) -> Packet {
    let mut payload = Vec::new();
    payload.extend(from.1.to_be_bytes());
    payload.extend(to.1.to_be_bytes());
    payload.extend([1, 2, 3, 4, 0, 0, 0, 0]);
    payload.extend([chunk, 0]);
    payload.extend((size as u16 + 4).to_be_bytes());
    payload.extend((0..size).map(|at| (at * 7) as u8));
    let sum = crc32c(&payload).to_le_bytes();
    payload[8..12].copy_from_slice(&sum);
    Packet {
        source: from.0,
        destination: to.0,
        protocol: SCTP,
        ttl: 64,
        id: 7,
        fragment: 0,
        payload,
    }
}

fn ports(packet: &Packet) -> (u16, u16) {
    let at = |index: usize| u16::from_be_bytes([packet.payload[index], packet.payload[index + 1]]);
    (at(0), at(2))
}

fn is_sound(packet: &Packet) -> bool {
    packet.payload[8..12] == crc32c(&packet.payload).to_le_bytes()
}

#[test]
fn an_association_is_translated_both_ways_with_a_sound_checksum_whatever_its_length() {
    let t = Topology::new();
    t.service(&[(VIP, 80, SCTP)], &[To::Pod(P2, 8080)]);
    for size in [4, 5, 100, 1000, 1337] {
        let (code, out) = t.send(At::Pod("vp1"), &packet((P1, 4000), (VIP, 80), INIT, size));
        assert_eq!((code, out.destination, ports(&out)), (REDIRECT, P2, (4000, 8080)));
        assert!(is_sound(&out), "{size} bytes");
        let (code, back) = t.send(At::Pod("vp2"), &packet((P2, 8080), (P1, 4000), INIT_ACK, size));
        assert_eq!((code, back.source, ports(&back)), (REDIRECT, VIP, (80, 4000)));
        assert!(is_sound(&back), "{size} bytes");
    }
}

#[test]
fn a_masqueraded_association_has_a_port_of_the_range() {
    let t = Topology::new();
    t.service(&[(NODE, 30080, SCTP)], &[To::Pod(P2, 8080)]);
    let (code, out) = t.send(At::Pod("vp1"), &packet((P1, 4000), (NODE, 30080), INIT, 64));
    let (source, target) = ports(&out);
    assert_eq!((code, out.source, target), (REDIRECT, NODE, 8080));
    assert!((20_000..30_000).contains(&source) && is_sound(&out));
    let (_, back) = t.send(At::Pod("vp2"), &packet((P2, 8080), (NODE, source), INIT_ACK, 64));
    assert_eq!(
        (back.source, back.destination, ports(&back)),
        (NODE, P1, (30080, 4000))
    );
    assert!(is_sound(&back));
}

#[test]
fn only_init_opens_an_association_and_abort_ends_it() {
    let t = Topology::new();
    t.service(&[(VIP, 80, SCTP)], &[To::Pod(P2, 8080)]);
    let before = t.flow_count();
    assert_eq!(
        t.send(At::Pod("vp1"), &packet((P1, 4000), (VIP, 80), DATA, 64)).0,
        DROP
    );
    assert_eq!(t.drops(DropReason::NoConnection), 1);
    t.send(At::Pod("vp1"), &packet((P1, 4000), (VIP, 80), INIT, 64));
    assert_eq!(t.flow_count(), before + 2);
    let (code, out) = t.send(At::Pod("vp1"), &packet((P1, 4000), (VIP, 80), ABORT, 4));
    assert_eq!((code, out.destination), (REDIRECT, P2), "the endpoint is told");
    // The place of what has ended is taken at once.
    t.send(At::Pod("vp1"), &packet((P1, 4000), (VIP, 80), INIT, 64));
    assert_eq!(t.flow_count(), before + 2);
}

#[test]
fn without_an_endpoint_an_association_is_refused_by_icmp() {
    let t = Topology::new();
    t.service(&[(VIP, 80, SCTP)], &[]);
    let (code, out) = t.send(At::Pod("vp1"), &packet((P1, 4000), (VIP, 80), INIT, 64));
    assert_eq!(
        (code, out.protocol, out.source, out.destination),
        (REDIRECT, 1, VIP, P1)
    );
    assert_eq!(out.payload[..2], [3, 3]);
}

#[test]
fn later_fragments_of_a_protocol_without_ports_go_where_the_first_went() {
    let t = Topology::new();
    let gre = |fragment| Packet {
        source: P1,
        destination: P2,
        protocol: 47,
        ttl: 64,
        id: 9,
        fragment,
        payload: vec![0; 64],
    };
    for fragment in [0x2000, 0x0008] {
        let (code, out) = t.send(At::Pod("vp1"), &gre(fragment));
        assert_eq!((code, out.destination), (REDIRECT, P2), "{fragment:x}");
    }
}
