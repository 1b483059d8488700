//! Real sockets over every path.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{
    talk::{ask_tcp, ask_udp, serve_tcp, serve_udp},
    topology::{CLIENT, NODE, OTHER, P1, P2, P3, Q1, TCP, To, Topology, UDP, VIP, six},
};

/// Datagrams that fit one packet, that need several, and the largest there is.
const DATAGRAMS: [usize; 3] = [100, 5000, 60_000];

/// Asks by TCP and by UDP, with little and with much, over both families; each must show the server the same client.
fn ask_all(room: &crate::room::Room, to: (Ipv4Addr, u16), seen: Ipv4Addr) {
    ask_family(room, to, seen, &DATAGRAMS);
    // ::1 is not served: it is the host's own.
    if !to.0.is_loopback() {
        ask_family(room, (six(to.0), to.1), six(seen), &DATAGRAMS);
    }
}

fn ask_family(
    room: &crate::room::Room,
    to: impl Into<SocketAddr>,
    seen: impl Into<IpAddr>,
    datagrams: &[usize],
) {
    let (to, seen) = (to.into(), seen.into());
    for size in datagrams {
        match ask_udp(room, to, *size) {
            Ok(answer) => assert_eq!(answer.ip(), seen, "UDP to {to}: client as the server saw it"),
            Err(error) => panic!("UDP, {size} bytes, to {to}: {error}"),
        }
    }
    for (what, result) in [
        ("TCP", ask_tcp(room, to, 100)),
        ("TCP, much", ask_tcp(room, to, 2_000_000)),
    ] {
        match result {
            Ok(answer) => assert_eq!(answer.ip(), seen, "{what} to {to}: client as the server saw it"),
            Err(error) => panic!("{what} to {to}: {error}"),
        }
    }
}

/// The address in both families, where it has a twin.
fn twins(address: Ipv4Addr, port: u16) -> Vec<SocketAddr> {
    let mut both = vec![SocketAddr::from((address, port))];
    if !address.is_loopback() {
        both.push((six(address), port).into());
    }
    both
}

/// Servers on port 8080 in every pod that can be asked.
fn serve_all(topology: &Topology) {
    for room in [
        &topology.p1,
        &topology.p2,
        &topology.p3,
        &topology.q1,
        &topology.node,
        &topology.client,
    ] {
        serve_tcp(room, 8080);
        serve_udp(room, 8080);
    }
}

fn both(address: Ipv4Addr, port: u16) -> [(Ipv4Addr, u16, u8); 2] {
    [(address, port, TCP), (address, port, UDP)]
}

#[test]
fn pods_of_a_node_reach_each_other_directly() {
    let t = Topology::new();
    serve_all(&t);
    ask_all(&t.p1, (P2, 8080), P1);
    ask_all(&t.p2, (P1, 8080), P2);
    ask_all(&t.p1, (P3, 8080), P1);
    t.p1.must("ping -c 1 -W 2 10.244.1.12");
    t.p1.must("ping -c 1 -W 2 -s 4000 10.244.1.12");
}

#[test]
fn a_pod_reaches_a_service_and_itself_through_it() {
    let t = Topology::new();
    serve_all(&t);
    t.service(&both(VIP, 80), &[To::Pod(P2, 8080)]);
    ask_all(&t.p1, (VIP, 80), P1);
    // Through a smaller link: what does not fit is fragmented or answered, and the answer comes translated.
    ask_all(&t.p3, (VIP, 80), P3);
    // To itself: it sees the gateway.
    ask_all(&t.p2, (VIP, 80), Ipv4Addr::new(169, 254, 1, 1));
}

#[test]
fn a_pod_reaches_a_service_behind_a_smaller_link() {
    let t = Topology::new();
    serve_all(&t);
    t.service(&both(VIP, 80), &[To::Pod(P3, 8080)]);
    ask_all(&t.p1, (VIP, 80), P1);
    t.service(&both(VIP, 81), &[To::Pod(Q1, 8080)]);
    ask_all(&t.p1, (VIP, 81), P1);
}

#[test]
fn a_process_of_the_host_reaches_a_service() {
    let t = Topology::new();
    serve_all(&t);
    t.service(&both(VIP, 80), &[To::Pod(P2, 8080)]);
    ask_all(&t.node, (VIP, 80), NODE);
    t.service(&both(VIP, 81), &[To::Pod(Q1, 8080)]);
    ask_all(&t.node, (VIP, 81), NODE);
    t.service(&both(VIP, 82), &[To::Node(8080)]);
    ask_all(&t.node, (VIP, 82), Ipv4Addr::new(169, 254, 1, 2));
    t.service(&both(VIP, 83), &[To::Pod(P3, 8080)]);
    ask_all(&t.node, (VIP, 83), NODE);
}

#[test]
fn a_process_of_the_host_reaches_its_own_nodeports() {
    let t = Topology::new();
    serve_all(&t);
    for (port, to, seen) in [
        (30080, To::Pod(P2, 8080), NODE),
        (30081, To::Pod(Q1, 8080), NODE),
        (30082, To::Node(8080), Ipv4Addr::new(169, 254, 1, 2)),
        (30083, To::Pod(P3, 8080), NODE),
    ] {
        t.service(&both(NODE, port), &[to]);
        ask_all(&t.node, (Ipv4Addr::LOCALHOST, port), seen);
        ask_family(&t.node, (NODE, port), seen, &DATAGRAMS);
        // Only a sender fragments IPv6, and lo tells it of no smaller MTU: what does not fit the pod's link is refused.
        ask_family(&t.node, (six(NODE), port), six(seen), &[100, 1200]);
    }
}

#[test]
fn a_client_outside_reaches_a_nodeport() {
    let t = Topology::new();
    serve_all(&t);
    for (port, to, seen) in [
        (30080, To::Pod(P2, 8080), NODE),
        (30081, To::Pod(Q1, 8080), NODE),
        (30082, To::Node(8080), CLIENT),
        (30083, To::Pod(P3, 8080), NODE),
    ] {
        t.service(&both(NODE, port), &[to]);
        ask_all(&t.client, (NODE, port), seen);
    }
}

#[test]
fn a_pod_reaches_a_nodeport_and_host_network_endpoints() {
    let t = Topology::new();
    serve_all(&t);
    t.service(&both(NODE, 30080), &[To::Pod(P2, 8080)]);
    ask_all(&t.p1, (NODE, 30080), NODE);
    ask_all(&t.p2, (NODE, 30080), Ipv4Addr::new(169, 254, 1, 1));
    t.service(&both(NODE, 30082), &[To::Node(8080)]);
    ask_all(&t.p1, (NODE, 30082), P1);
    t.service(&both(VIP, 80), &[To::Node(8080)]);
    ask_all(&t.p1, (VIP, 80), P1);
    ask_all(&t.p3, (VIP, 80), P3);
    // The node itself, without a Service.
    ask_all(&t.p1, (NODE, 8080), P1);
}

#[test]
fn a_pod_reaches_outside_under_the_nodes_address() {
    let t = Topology::new();
    serve_all(&t);
    ask_all(&t.p1, (CLIENT, 8080), NODE);
    ask_all(&t.p3, (CLIENT, 8080), NODE);
    t.p1.must("ping -c 2 -i 0.2 -W 2 192.168.50.9");
    t.p1.must("ping -c 1 -W 2 -s 4000 192.168.50.9");
    // Pods of another node see the pod's own address.
    ask_all(&t.p1, (Q1, 8080), P1);
    ask_all(&t.q1, (P1, 8080), Q1);
    t.p1.must("ping -c 1 -W 2 10.244.2.11");
    // The other node itself is outside.
    serve_tcp(&t.other, 8080);
    assert_eq!(
        ask_tcp(&t.p1, (OTHER, 8080), 100)
            .map(|answer| answer.ip())
            .expect("answer"),
        NODE
    );
}

#[test]
fn a_service_may_have_an_endpoint_outside_the_cluster() {
    let t = Topology::new();
    serve_all(&t);
    t.service(
        &[both(VIP, 80), both(NODE, 30080)].concat(),
        &[To::Pod(CLIENT, 8080)],
    );
    ask_all(&t.p1, (VIP, 80), NODE);
    ask_all(&t.p3, (VIP, 80), NODE);
    ask_all(&t.node, (VIP, 80), NODE);
    serve_tcp(&t.other, 8080);
    assert_eq!(
        ask_tcp(&t.other, (NODE, 30080), 100)
            .map(|answer| answer.ip())
            .expect("answer"),
        NODE
    );
}

#[test]
fn hosts_and_pods_reach_each_other_without_a_service() {
    let t = Topology::new();
    serve_all(&t);
    ask_all(&t.node, (P1, 8080), NODE);
    ask_all(&t.node, (P3, 8080), NODE);
    ask_all(&t.node, (CLIENT, 8080), NODE);
    ask_all(&t.client, (NODE, 8080), CLIENT);
    t.node.must("ping -c 1 -W 2 10.244.1.11");
    t.client.must("ping -c 1 -W 2 192.168.50.1");
    t.node.must("ping -c 1 -W 2 fd00:a:f4:1::b");
    t.client.must("ping -c 1 -W 2 fd00:c0:a8:32::1");
    // Outside with a route to pods: they see each other's own addresses.
    t.client
        .ip("route add 10.244.1.0/24 via 192.168.50.1\nroute add fd00:a:f4:1::/64 via fd00:c0:a8:32::1");
    ask_all(&t.client, (P1, 8080), CLIENT);
    t.client.must("ping -c 1 -W 2 10.244.1.11");
    t.client.must("ping -c 1 -W 2 fd00:a:f4:1::b");
}

#[test]
fn what_no_service_has_is_refused_at_once() {
    let t = Topology::new();
    t.service(&both(VIP, 80), &[]);
    t.service(&both(NODE, 30080), &[]);
    let refused = |result: io::Result<_>, what: &str| {
        let kind = result.map(|_: crate::talk::Seen| ()).expect_err(what).kind();
        assert_eq!(kind, io::ErrorKind::ConnectionRefused, "{what}");
    };
    for (name, room) in [("pod", &t.p1), ("host", &t.node), ("outside", &t.client)] {
        let asked: &[(Ipv4Addr, u16)] = match name {
            "outside" => &[(NODE, 30080)],
            // Without an endpoint, a port the Service lacks, a NodePort.
            "pod" => &[(VIP, 80), (VIP, 81), (NODE, 30080)],
            _ => &[(VIP, 80), (VIP, 81), (NODE, 30080), (Ipv4Addr::LOCALHOST, 30080)],
        };
        for to in asked.iter().flat_map(|(address, port)| twins(*address, *port)) {
            refused(ask_tcp(room, to, 1), &format!("TCP, {name} to {to}"));
            refused(ask_udp(room, to, 1), &format!("UDP, {name} to {to}"));
        }
    }
}

#[test]
fn a_refusal_of_the_endpoint_reaches_every_client() {
    let t = Topology::new();
    // Nobody listens: the pods' own stacks answer by ICMP, translated on its way.
    for (port, to) in [
        (80, To::Pod(P2, 9)),
        (81, To::Pod(Q1, 9)),
        (82, To::Node(9)),
        (83, To::Pod(CLIENT, 9)),
    ] {
        t.service(&[both(VIP, port), both(NODE, 30000 + port)].concat(), &[to]);
        for (name, room) in [("pod", &t.p1), ("host", &t.node)] {
            for to in twins(VIP, port) {
                let kind = ask_udp(room, to, 1).map(|_| ()).expect_err(name).kind();
                assert_eq!(kind, io::ErrorKind::ConnectionRefused, "{name} to {to}");
            }
        }
        if port == 83 {
            continue;
        }
        for (name, room, address) in [
            ("outside", &t.client, NODE),
            ("host by nodePort", &t.node, NODE),
            ("host by 127.0.0.1", &t.node, Ipv4Addr::LOCALHOST),
        ] {
            for to in twins(address, 30000 + port) {
                let kind = ask_udp(room, to, 1).map(|_| ()).expect_err(name).kind();
                assert_eq!(kind, io::ErrorKind::ConnectionRefused, "{name} to {to}");
            }
        }
    }
    let kind = ask_udp(&t.p1, (CLIENT, 9), 1)
        .map(|_| ())
        .expect_err("direct")
        .kind();
    assert_eq!(kind, io::ErrorKind::ConnectionRefused, "pod to outside");
}

#[test]
fn with_two_uplinks_each_destination_sees_the_address_of_its_own() {
    let t = Topology::new();
    serve_all(&t);
    let far = crate::room::Room::new();
    let (here, there) = (Ipv4Addr::new(172, 20, 0, 1), Ipv4Addr::new(172, 20, 0, 9));
    t.node.ip(&format!(
        "link add up1 type veth peer name eth0 netns {}
         link set up1 up
         addr add {here}/24 dev up1
         addr add {}/64 dev up1 nodad",
        far.tid,
        six(here)
    ));
    far.ip(&format!(
        "link set eth0 up
         addr add {there}/24 dev eth0
         addr add {}/64 dev eth0 nodad",
        six(there)
    ));
    t.follow_devices();
    serve_tcp(&far, 8080);
    serve_udp(&far, 8080);
    ask_all(&t.p1, (there, 8080), here);
    ask_all(&t.p1, (CLIENT, 8080), NODE);
    t.service(&both(here, 30080), &[To::Pod(P2, 8080)]);
    t.service(&both(here, 30081), &[To::Pod(Q1, 8080)]);
    ask_all(&far, (here, 30080), NODE);
    // Masqueraded with the address of the uplink that leads to the endpoint.
    ask_all(&far, (here, 30081), NODE);
    ask_all(&t.p1, (here, 30080), NODE);
    ask_family(&t.node, (here, 30080), here, &DATAGRAMS);
    ask_family(&t.node, (six(here), 30080), six(here), &[100]);
}

#[test]
fn a_service_does_not_answer_echoes_and_says_so() {
    let t = Topology::new();
    t.service(&both(VIP, 80), &[To::Pod(P2, 8080)]);
    let output = t.p1.command("ping -c 1 -W 2 10.96.0.10");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Destination Port Unreachable"), "{text}");
}
