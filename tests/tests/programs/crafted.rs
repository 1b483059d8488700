//! Crafted packets through `BPF_PROG_TEST_RUN`: verdict and bytes, checksums included (reading a packet checks them).

use std::net::Ipv4Addr;

use keelson_dataplane::{
    TestContext,
    abi::{
        COUNTER_DROPS, DropEvent, DropReason, MAP_DROP, PROG_HOST_INGRESS, PROG_LO_EGRESS, PROG_POD_EGRESS,
        PROG_POD_INGRESS, PROG_UPLINK_EGRESS, PROG_UPLINK_INGRESS, TRACE_DROP, TRACE_NEIGH, TRACE_PEER,
        TRACE_REFUSE, Trace,
    },
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    packet::{ACK, FIN, Packet, RST, SYN},
    raw,
    topology::{CLIENT, NODE, OTHER, P1, P2, Q1, TCP, To, Topology, UDP, VIP, addr},
};

pub const PASS: u32 = 0;
pub const DROP: u32 = 2;
pub const REDIRECT: u32 = 7;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Where a packet is let in.
#[derive(Clone, Copy, Debug)]
pub enum At {
    Pod(&'static str),
    ToPod(&'static str),
    Uplink,
    ToUplink,
    Host,
    Lo,
}

impl At {
    /// Program and device.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            At::Pod(link) => (PROG_POD_INGRESS, link),
            At::ToPod(link) => (PROG_POD_EGRESS, link),
            At::Uplink => (PROG_UPLINK_INGRESS, "up0"),
            At::ToUplink => (PROG_UPLINK_EGRESS, "up0"),
            At::Host => (PROG_HOST_INGRESS, "keelson1"),
            At::Lo => (PROG_LO_EGRESS, "lo"),
        }
    }
}

impl Topology {
    /// Lets a frame in, addressed to the device; the verdict and the frame afterwards.
    pub fn frame(&self, at: At, frame: &[u8], mark: u32) -> (u32, Vec<u8>) {
        let mac = self.link(at.place().1).1;
        let mut addressed = frame.to_vec();
        addressed[..6].copy_from_slice(&mac);
        let (code, mut after) = self.raw_frame(at, &addressed, mark);
        if after[..6] == mac {
            after[..6].copy_from_slice(&frame[..6]);
        }
        (code, after)
    }

    /// Lets a frame in as it is.
    pub fn raw_frame(&self, at: At, frame: &[u8], mark: u32) -> (u32, Vec<u8>) {
        let (program, link) = at.place();
        let ifindex = self.link(link).0;
        let frame = frame.to_vec();
        self.with(move |dataplane| {
            let context = TestContext {
                ifindex,
                ingress_ifindex: ifindex,
                mark,
            };
            let output = dataplane.test_run(program, &frame, context).expect("test run");
            (output.code, output.packet)
        })
    }

    /// Lets a packet in; the verdict and the packet that comes out.
    pub fn send(&self, at: At, packet: &Packet) -> (u32, Packet) {
        let (code, frame) = self.frame(at, &packet.frame(), 0);
        (code, Packet::parse(&frame))
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counter(COUNTER_DROPS + reason as u32)
    }

    pub fn flow_count(&self) -> usize {
        self.with(|dataplane| dataplane.flows().expect("flows").len())
    }

    pub fn dry(&self, at: At, packet: &Packet) -> (u32, Trace) {
        let mark = self.with(|dataplane| dataplane.node().expect("node").dry_run_mark);
        assert_ne!(mark, 0);
        // Traces are per CPU.
        self.node.run(|| {
            let mut one = CpuSet::new();
            one.set(0).expect("CPU 0");
            sched_setaffinity(Pid::from_raw(0), &one).expect("affinity");
        });
        let (code, frame) = self.frame(at, &packet.frame(), mark);
        assert_eq!(frame, packet.frame(), "a dry run changes no packet");
        let traces = self.with(|dataplane| dataplane.traces().expect("traces"));
        (code, traces[0])
    }
}

#[test]
fn a_service_is_translated_both_ways_and_the_checksums_follow() {
    let t = Topology::new();
    t.service(&[(VIP, 80, TCP), (VIP, 53, UDP)], &[To::Pod(P2, 8080)]);
    let (code, out) = t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 80), SYN, b""));
    assert_eq!(
        (code, out.ends(), out.ttl),
        (REDIRECT, ((P1, 4000), (P2, 8080)), 63)
    );
    let (code, out) = t.send(
        At::Pod("vp2"),
        &Packet::tcp((P2, 8080), (P1, 4000), SYN | ACK, b""),
    );
    assert_eq!(
        (code, out.ends(), out.ttl),
        (REDIRECT, ((VIP, 80), (P1, 4000)), 63)
    );
    let (code, out) = t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 80), ACK, b"odd"));
    assert_eq!((code, out.ends()), (REDIRECT, ((P1, 4000), (P2, 8080))));
    let (code, out) = t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (VIP, 53), b"query"));
    assert_eq!((code, out.ends()), (REDIRECT, ((P1, 4000), (P2, 8080))));
    let mut unchecked = Packet::udp((P2, 8080), (P1, 4000), b"answer");
    unchecked.payload[6..8].copy_from_slice(&[0, 0]);
    let (code, out) = t.send(At::Pod("vp2"), &unchecked);
    assert_eq!((code, out.ends()), (REDIRECT, ((VIP, 53), (P1, 4000))));
    assert_eq!(
        out.payload[6..8],
        [0, 0],
        "a datagram without a checksum keeps none"
    );
    let (code, out) = t.send(At::Pod("vp2"), &Packet::tcp((P2, 4000), (VIP, 80), SYN, b""));
    assert_eq!(
        (code, out.ends()),
        (REDIRECT, ((GATEWAY, 4000), (P2, 8080))),
        "to itself"
    );
}

#[test]
fn pods_leave_under_ports_of_the_range_and_echoes_under_identifiers() {
    let t = Topology::new();
    let (code, out) = t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (CLIENT, 53), b"query"));
    assert_eq!(
        (code, out.ends(), out.ttl),
        (REDIRECT, ((P1, 4000), (CLIENT, 53)), 63),
        "only sent on its way"
    );
    let (code, out) = t.send(At::ToUplink, &Packet::udp((P1, 4000), (CLIENT, 53), b"query"));
    let ((source, port), _) = out.ends();
    assert_eq!((code, source), (PASS, NODE));
    assert!((20_000..30_000).contains(&port));
    let (_, again) = t.send(At::ToUplink, &Packet::udp((P1, 4000), (CLIENT, 53), b"query"));
    assert_eq!(again.ends(), out.ends(), "one flow, one port");
    let (code, back) = t.send(At::Uplink, &Packet::udp((CLIENT, 53), (NODE, port), b"answer"));
    assert_eq!((code, back.ends()), (REDIRECT, ((CLIENT, 53), (P1, 4000))));
    let (_, out) = t.send(At::ToUplink, &Packet::echo(P1, CLIENT, true, 99));
    assert_eq!(out.source, NODE);
    let (code, back) = t.send(At::Uplink, &Packet::echo(CLIENT, NODE, false, out.echo_id()));
    assert_eq!((code, back.destination, back.echo_id()), (REDIRECT, P1, 99));
    // Nobody asked for these.
    let before = t.drops(DropReason::NoConnection);
    assert_eq!(
        t.send(At::ToUplink, &Packet::tcp((P1, 4000), (CLIENT, 80), ACK, b""))
            .0,
        DROP
    );
    assert_eq!(t.send(At::ToUplink, &Packet::echo(P1, CLIENT, false, 5)).0, DROP);
    assert_eq!(
        t.send(At::Uplink, &Packet::tcp((CLIENT, 80), (NODE, 20_005), ACK, b""))
            .0,
        DROP
    );
    assert_eq!(t.drops(DropReason::NoConnection), before + 3);
    // The cluster's own networks and the node itself are never translated.
    for to in [Q1, P2] {
        let (code, out) = t.send(At::ToUplink, &Packet::udp((P1, 1), (to, 53), b""));
        assert_eq!((code, out.source), (PASS, P1), "{to}");
    }
}

#[test]
fn a_client_outside_is_masqueraded_unless_the_endpoint_is_the_node() {
    let t = Topology::new();
    t.service(&[(NODE, 30080, TCP)], &[To::Pod(P2, 8080)]);
    t.service(&[(NODE, 30081, TCP)], &[To::Pod(Q1, 8080)]);
    t.service(&[(NODE, 30082, TCP)], &[To::Node(8080)]);
    let syn = |port| Packet::tcp((CLIENT, 4000), (NODE, port), SYN, b"");
    let (code, out) = t.send(At::Uplink, &syn(30080));
    let ((source, port), to) = out.ends();
    assert_eq!((code, source, to), (REDIRECT, NODE, (P2, 8080)));
    let (code, back) = t.send(
        At::Pod("vp2"),
        &Packet::tcp((P2, 8080), (NODE, port), SYN | ACK, b""),
    );
    assert_eq!((code, back.ends()), (REDIRECT, ((NODE, 30080), (CLIENT, 4000))));
    let (code, out) = t.send(At::Uplink, &syn(30082));
    assert_eq!(
        (code, out.ends(), out.ttl),
        (PASS, ((CLIENT, 4000), (NODE, 8080)), 64)
    );
    let (code, back) = t.send(
        At::ToUplink,
        &Packet::tcp((NODE, 8080), (CLIENT, 4000), SYN | ACK, b""),
    );
    assert_eq!((code, back.ends()), (PASS, ((NODE, 30082), (CLIENT, 4000))));
    let (code, out) = t.send(At::Uplink, &syn(30081));
    let ((source, port), to) = out.ends();
    assert_eq!((code, source, to), (REDIRECT, NODE, (Q1, 8080)));
    let (code, back) = t.send(At::Uplink, &Packet::tcp((Q1, 8080), (NODE, port), SYN | ACK, b""));
    assert_eq!((code, back.ends()), (REDIRECT, ((NODE, 30081), (CLIENT, 4000))));
}

#[test]
fn processes_of_the_host_are_translated_at_keelson1() {
    let t = Topology::new();
    t.service(&[(VIP, 80, TCP), (NODE, 30080, TCP)], &[To::Pod(P2, 8080)]);
    t.service(&[(VIP, 82, TCP)], &[To::Node(8080)]);
    let lo = Ipv4Addr::LOCALHOST;
    let nodeport = Packet::tcp((lo, 4000), (lo, 30080), SYN, b"");
    let (code, out) = t.send(At::Lo, &nodeport);
    assert_eq!(
        (code, out.ends()),
        (REDIRECT, ((lo, 4000), (lo, 30080))),
        "sent to keelson1 as it is"
    );
    assert_eq!(
        t.send(At::Lo, &Packet::tcp((lo, 4000), (lo, 8080), SYN, b"")).0,
        PASS,
        "nobody's business"
    );
    let (code, out) = t.send(At::Host, &nodeport);
    let ((source, port), to) = out.ends();
    assert_eq!((code, source, to), (REDIRECT, NODE, (P2, 8080)));
    let (code, back) = t.send(
        At::Pod("vp2"),
        &Packet::tcp((P2, 8080), (NODE, port), SYN | ACK, b""),
    );
    assert_eq!(
        (code, back.ends(), back.ttl),
        (REDIRECT, ((lo, 30080), (lo, 4000)), 64)
    );
    let (code, out) = t.send(At::Host, &Packet::tcp((NODE, 4001), (VIP, 82), SYN, b""));
    let host_loop = Ipv4Addr::new(169, 254, 1, 2);
    assert_eq!((code, out.ends()), (REDIRECT, ((host_loop, 4001), (NODE, 8080))));
    let (code, back) = t.send(
        At::Host,
        &Packet::tcp((NODE, 8080), (host_loop, 4001), SYN | ACK, b""),
    );
    assert_eq!((code, back.ends()), (REDIRECT, ((VIP, 82), (NODE, 4001))));
}

#[test]
fn nobody_but_the_host_reaches_its_loopback_addresses() {
    let t = Topology::new();
    t.service(&[(NODE, 30080, TCP)], &[To::Pod(P2, 8080)]);
    let lo = Ipv4Addr::LOCALHOST;
    let frames = [
        (At::Uplink, Packet::tcp((CLIENT, 4000), (lo, 30080), SYN, b"")),
        (At::Uplink, Packet::tcp((lo, 4000), (NODE, 30080), SYN, b"")),
        (At::Pod("vp1"), Packet::tcp((P1, 4000), (lo, 30080), SYN, b"")),
        (At::Pod("vp1"), Packet::tcp((lo, 4000), (NODE, 30080), SYN, b"")),
    ];
    for (at, frame) in frames {
        let before = t.drops(DropReason::SourceCheck);
        assert_eq!(t.send(at, &frame).0, DROP);
        assert_eq!(t.drops(DropReason::SourceCheck), before + 1);
    }
}

#[test]
fn refusals_are_built_in_place() {
    let t = Topology::new();
    t.service(&[(VIP, 80, TCP), (VIP, 80, UDP)], &[]);
    for (port, reason) in [(80, DropReason::NoEndpoint), (81, DropReason::UnknownPort)] {
        let before = t.drops(reason);
        let (code, out) = t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, port), SYN, b""));
        assert_eq!((code, out.ends()), (REDIRECT, ((VIP, port), (P1, 4000))));
        assert_eq!(out.payload[13], RST | ACK);
        assert_eq!(
            out.payload[8..12],
            1001_u32.to_be_bytes(),
            "it acknowledges the SYN"
        );
        let asked = Packet::udp((P1, 4000), (VIP, port), b"some data");
        let (code, out) = t.send(At::Pod("vp1"), &asked);
        assert_eq!((code, out.source, out.destination), (REDIRECT, VIP, P1));
        assert_eq!(out.payload[..2], [3, 3], "port unreachable");
        assert_eq!(
            out.payload[8..],
            asked.ip()[..28],
            "it quotes the packet as it was"
        );
        assert_eq!(t.drops(reason), before + 2);
    }
    let nobody = Ipv4Addr::new(10, 96, 77, 77);
    let before = t.drops(DropReason::UnknownAddress);
    assert_eq!(
        t.send(At::Pod("vp1"), &Packet::udp((P1, 1), (nobody, 80), b"")).0,
        DROP
    );
    assert_eq!(
        t.send(At::Host, &Packet::udp((NODE, 1), (nobody, 80), b"")).0,
        DROP
    );
    assert_eq!(t.drops(DropReason::UnknownAddress), before + 2);
    let before = t.drops(DropReason::NoConnection);
    assert_eq!(
        t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 80), ACK, b""))
            .0,
        DROP
    );
    assert_eq!(
        t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 81), RST, b""))
            .0,
        DROP
    );
    assert_eq!(
        t.drops(DropReason::NoConnection),
        before + 2,
        "no answer to what opens nothing"
    );
}

#[test]
fn icmp_errors_show_each_side_what_it_knows() {
    let t = Topology::new();
    t.service(&[(VIP, 53, UDP), (NODE, 30053, UDP)], &[To::Pod(P2, 8080)]);
    t.service(&[(NODE, 30054, UDP)], &[To::Pod(Q1, 8080)]);
    let about = |packet: &Packet| packet.ip()[..28].to_vec();
    // The endpoint refuses: to the pod that asked it is the Service that does.
    let (_, asked) = t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (VIP, 53), b"query"));
    let error = Packet::icmp(P2, P1, [3, 3], [0; 4], &about(&asked));
    let (code, out) = t.send(At::Pod("vp2"), &error);
    assert_eq!((code, out.source, out.destination), (REDIRECT, VIP, P1));
    let quote = Packet::parse_ip(&out.payload[8..], false);
    assert_eq!(quote.ends(), ((P1, 4000), (VIP, 53)));
    // The asking pod refuses the answer: the endpoint learns about its own packet.
    let answer = Packet::udp((VIP, 53), (P1, 4000), b"answer");
    let error = Packet::icmp(P1, VIP, [3, 3], [0; 4], &about(&answer));
    let (code, out) = t.send(At::Pod("vp1"), &error);
    assert_eq!((code, out.source, out.destination), (REDIRECT, P1, P2));
    assert_eq!(
        Packet::parse_ip(&out.payload[8..], false).ends(),
        ((P2, 8080), (P1, 4000))
    );
    // A router between the node and a remote endpoint keeps its address.
    let (_, asked) = t.send(At::Uplink, &Packet::udp((CLIENT, 4000), (NODE, 30054), b"query"));
    let error = Packet::icmp(OTHER, NODE, [3, 4], [0, 0, 5, 20], &about(&asked));
    let (code, out) = t.send(At::Uplink, &error);
    assert_eq!((code, out.source, out.destination), (REDIRECT, OTHER, CLIENT));
    assert_eq!(
        Packet::parse_ip(&out.payload[8..], false).ends(),
        ((CLIENT, 4000), (NODE, 30054))
    );
    assert_eq!(out.payload[4..8], [0, 0, 5, 20], "the MTU is told");
    // About a translated source.
    let (_, asked) = t.send(At::ToUplink, &Packet::udp((P1, 4001), (CLIENT, 53), b"query"));
    let (code, out) = t.send(
        At::Uplink,
        &Packet::icmp(CLIENT, NODE, [3, 3], [0; 4], &about(&asked)),
    );
    assert_eq!((code, out.source, out.destination), (REDIRECT, CLIENT, P1));
    assert_eq!(
        Packet::parse_ip(&out.payload[8..], false).ends(),
        ((P1, 4001), (CLIENT, 53))
    );
    // A pod that complains about somebody else's packets is not listened to.
    let forged = Packet::icmp(P1, CLIENT, [3, 3], [0; 4], &about(&asked));
    let (_, out) = t.send(At::Pod("vp1"), &forged);
    assert_eq!(out.payload[8..], forged.payload[8..], "left as it was");
}

#[test]
fn fragments_follow_their_first() {
    let t = Topology::new();
    t.service(&[(VIP, 53, UDP)], &[To::Pod(P2, 8080)]);
    let mut first = Packet::udp((P1, 4000), (VIP, 53), &[1; 64]);
    first.fragment = 0x2000;
    let mut second = first.clone();
    second.fragment = 9;
    second.payload = vec![2; 40];
    let before = t.drops(DropReason::Fragment);
    assert_eq!(
        t.send(At::Pod("vp1"), &second).0,
        DROP,
        "nobody knows yet where to"
    );
    assert_eq!(t.drops(DropReason::Fragment), before + 1);
    let (code, out) = t.send(At::Pod("vp1"), &first);
    assert_eq!((code, out.ends()), (REDIRECT, ((P1, 4000), (P2, 8080))));
    let (code, out) = t.send(At::Pod("vp1"), &second);
    assert_eq!(
        (code, out.source, out.destination, out.payload),
        (REDIRECT, P1, P2, vec![2; 40])
    );
    second.id += 1;
    assert_eq!(t.send(At::Pod("vp1"), &second).0, DROP, "another datagram");
}

#[test]
fn options_in_the_header_are_stepped_over() {
    let t = Topology::new();
    t.service(&[(VIP, 53, UDP)], &[To::Pod(P2, 8080)]);
    let plain = Packet::udp((P1, 4000), (VIP, 53), b"query").frame();
    // Four bytes of "no operation" between the header and the datagram.
    let mut frame = [&plain[..34], &[1, 1, 1, 1], &plain[34..]].concat();
    frame[14] = 0x46;
    frame[17] += 4;
    let (code, out) = t.frame(At::Pod("vp1"), &frame, 0);
    assert_eq!((code, out.len()), (REDIRECT, frame.len()));
    assert_eq!(&out[30..34], P2.octets());
    assert_eq!(
        &out[34..42],
        [
            &[1_u8, 1, 1, 1][..],
            &4000_u16.to_be_bytes(),
            &8080_u16.to_be_bytes()
        ]
        .concat()
    );
    // Without the options it is an ordinary packet again, whose checksums must be right.
    let (_, expected) = t.frame(At::Pod("vp1"), &plain, 0);
    assert_eq!(out[38..], expected[34..], "ports and checksum of the datagram");
}

#[test]
fn a_pod_finds_no_way_round_the_source_check() {
    let t = Topology::new();
    let before = t.drops(DropReason::SourceCheck);
    let forged = Packet::udp((P2, 1), (NODE, 10_250), b"x");
    assert_eq!(t.send(At::Pod("vp1"), &forged).0, DROP);
    let mut broadcast = forged.frame();
    broadcast[..6].copy_from_slice(&[0xff; 6]);
    assert_eq!(t.raw_frame(At::Pod("vp1"), &broadcast, 0).0, DROP, "to everybody");
    assert_eq!(t.drops(DropReason::SourceCheck), before + 2);
    let own = Packet::udp((P1, 1), (NODE, 10_250), b"x");
    assert_eq!(t.send(At::Pod("vp1"), &own).0, PASS);
}

#[test]
fn a_drop_is_told_with_its_reason() {
    let t = Topology::new();
    assert_eq!(
        t.send(At::Pod("vp1"), &Packet::udp((P2, 1), (P1, 2), b"x")).0,
        DROP
    );
    assert_eq!(
        t.send(At::Pod("vp1"), &Packet::tcp((P1, 4000), (VIP, 80), ACK, b""))
            .0,
        DROP
    );
    let told = t.with(|dataplane| raw::records::<DropEvent>(dataplane, MAP_DROP, 256 * 1024));
    // The namespaces' own chatter (IPv6 aside) may come in between.
    let reasons: Vec<u32> = told.iter().map(|event| event.reason).collect();
    let event = told
        .iter()
        .find(|event| event.reason == DropReason::SourceCheck as u32)
        .expect("told");
    assert_eq!((event.key.src, event.key.dport_be), (addr(P2), 2_u16.to_be()));
    assert_eq!(event.ifindex, t.link("vp1").0);
    assert!(
        reasons.contains(&(DropReason::UnknownAddress as u32)),
        "{reasons:?}"
    );
}

#[test]
fn malformed_packets_change_nothing() {
    let t = Topology::new();
    t.service(
        &[(VIP, 80, TCP), (VIP, 53, UDP), (NODE, 30080, TCP)],
        &[To::Pod(P2, 8080)],
    );
    let flows = t.flow_count();
    let tcp = Packet::tcp((P1, 4000), (VIP, 80), SYN, b"").frame();
    let edit = |frame: &[u8], at: usize, byte: u8| {
        let mut frame = frame.to_vec();
        frame[at] = byte;
        frame
    };
    let broken = [
        ("header length below 20 bytes", edit(&tcp, 14, 0x44)),
        ("options that are not there", edit(&tcp, 14, 0x4f)),
        ("another version", edit(&tcp, 14, 0x65)),
        ("length beyond the packet", edit(&tcp, 16, 0x7f)),
        ("length below its header", edit(&edit(&tcp, 16, 0), 17, 19)),
        ("a TCP header cut short", tcp[..14 + 20 + 12].to_vec()),
        ("length that ends in the TCP header", edit(&tcp, 17, 30)),
        ("a UDP header cut short", {
            let mut frame = Packet::udp((P1, 4000), (VIP, 53), b"").frame();
            frame[17] = 24;
            frame
        }),
        (
            "an ICMP error that quotes nothing",
            Packet::icmp(P1, VIP, [3, 3], [0; 4], b"").frame(),
        ),
        (
            "an ICMP error that quotes noise",
            Packet::icmp(P1, VIP, [3, 3], [0; 4], &[0xff; 28]).frame(),
        ),
    ];
    for (what, frame) in &broken {
        for at in [
            At::Pod("vp1"),
            At::Uplink,
            At::Host,
            At::Lo,
            At::ToPod("vp2"),
            At::ToUplink,
        ] {
            let (code, after) = t.frame(at, frame, 0);
            assert!(code == DROP || code == PASS, "{what}: verdict {code}");
            assert_eq!(&after, frame, "{what}: the packet was changed");
        }
        assert_eq!(
            t.frame(At::Pod("vp1"), frame, 0).0,
            DROP,
            "{what}: a pod's is dropped"
        );
    }
    assert_eq!(t.flow_count(), flows);
}

#[test]
fn a_dry_run_tells_and_leaves_nothing_behind() {
    let t = Topology::new();
    let service = t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    t.service(&[(VIP, 90, TCP)], &[]);
    let (flows, refused) = (t.flow_count(), t.drops(DropReason::NoEndpoint));
    let syn = |to| Packet::tcp((P1, 4000), to, SYN, b"");
    let (_, trace) = t.dry(At::Pod("vp1"), &syn((VIP, 80)));
    assert_eq!(
        (trace.verdict, trace.service, trace.ifindex),
        (TRACE_PEER, service, t.link("vp2").0)
    );
    assert_eq!(trace.translated.dport_be, 8080_u16.to_be());
    let (_, trace) = t.dry(At::Pod("vp1"), &syn((VIP, 90)));
    assert_eq!(
        (trace.verdict, trace.drop_reason),
        (TRACE_REFUSE, DropReason::NoEndpoint as u32 + 1)
    );
    let (_, trace) = t.dry(At::Pod("vp1"), &syn((CLIENT, 80)));
    assert_eq!((trace.verdict, trace.ifindex), (TRACE_NEIGH, t.link("up0").0));
    let (code, trace) = t.dry(At::Pod("vp1"), &Packet::tcp((P2, 1), (P1, 1), SYN, b""));
    assert_eq!(
        (code, trace.verdict, trace.drop_reason),
        (DROP, TRACE_DROP, DropReason::SourceCheck as u32 + 1)
    );
    assert_eq!(
        (t.flow_count(), t.drops(DropReason::NoEndpoint)),
        (flows, refused)
    );
}

#[test]
fn a_closed_connection_gives_way_at_once() {
    let t = Topology::new();
    let service = t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    let client = |flags| Packet::tcp((P1, 4000), (VIP, 80), flags, b"");
    let server = |flags| Packet::tcp((P2, 8080), (P1, 4000), flags, b"");
    t.send(At::Pod("vp1"), &client(SYN));
    t.rewrite_service(service, &[(VIP, 80, TCP)], &[To::Pod(P2, 9090)], 2);
    let (_, out) = t.send(At::Pod("vp1"), &client(ACK));
    assert_eq!(out.ends().1, (P2, 8080), "a connection stays with its endpoint");
    let (_, out) = t.send(At::Pod("vp1"), &client(SYN));
    assert_eq!(
        out.ends().1,
        (P2, 9090),
        "a SYN asks anew when endpoints have gone"
    );
    t.send(At::Pod("vp1"), &client(FIN | ACK));
    let (_, out) = t.send(At::Pod("vp1"), &client(ACK));
    assert_eq!(out.ends().1, (P2, 9090), "half closed is open");
    let answer = Packet::tcp((P2, 9090), (P1, 4000), FIN | ACK, b"");
    assert_eq!(t.send(At::Pod("vp2"), &answer).1.ends().0, (VIP, 80));
    let flows = t.flow_count();
    let (code, _) = t.send(At::Pod("vp1"), &client(SYN));
    assert_eq!((code, t.flow_count()), (REDIRECT, flows), "its place was taken");
    // Late answers of a server that is not the flow's any more go as they are.
    assert_eq!(t.send(At::Pod("vp2"), &server(ACK)).1.ends().0, (P2, 8080));
}

#[test]
fn packets_at_the_end_of_their_life_and_too_large_ones_are_the_stacks() {
    let t = Topology::new();
    t.service(&[(VIP, 53, UDP)], &[To::Pod(Ipv4Addr::new(10, 244, 1, 13), 8080)]);
    let (code, out) = t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (VIP, 53), b"x").ttl(1));
    assert_eq!((code, out.ttl), (PASS, 1));
    let (code, out) = t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (VIP, 53), &[0; 1400]));
    assert_eq!(
        (code, out.ttl, out.ends().1.1),
        (PASS, 64, 8080),
        "translated, not counted down"
    );
    let (code, out) = t.send(At::Pod("vp1"), &Packet::udp((P1, 4000), (VIP, 53), &[0; 1200]));
    assert_eq!((code, out.ttl), (REDIRECT, 63));
}
