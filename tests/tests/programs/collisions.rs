//! One client port, several ways to one server: flows of Services and direct connections never take each other's
//! answers.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    room::Room,
    talk::{PATIENCE, abort, ask_tcp, connect_from, exchange_udp, greeting, ping_pong, serve_tcp, serve_udp},
    topology::{CLIENT, NODE, P2, Q1, TCP, To, Topology, UDP, VIP},
};

const PORT: u16 = 15_555;

/// Both connections are from one port and both work, in turns.
fn both_work(room: &Room, first: (Ipv4Addr, u16), second: (Ipv4Addr, u16)) -> (u16, u16) {
    let mut one = connect_from(room, PORT, first).expect("the first connects");
    let one_seen = greeting(&mut one).expect("the first is greeted");
    let mut two = connect_from(room, PORT, second).expect("the second connects");
    let two_seen = greeting(&mut two).expect("the second is greeted");
    for _ in 0..3 {
        ping_pong(&mut one).expect("the first goes on");
        ping_pong(&mut two).expect("the second goes on");
    }
    abort(one);
    abort(two);
    (one_seen.peer.port(), two_seen.peer.port())
}

#[test]
fn a_pod_may_ask_directly_and_through_a_service_from_one_port() {
    let t = Topology::new();
    serve_tcp(&t.p2, 8080);
    t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    let (kept, changed) = both_work(&t.p1, (VIP, 80), (P2, 8080));
    assert_eq!(kept, PORT, "the Service came first");
    assert_ne!(
        changed, PORT,
        "the server would have taken both for one connection"
    );
    // Closed flows are in nobody's way: a direct connection keeps its port, once both have really been closed.
    let end = Instant::now() + PATIENCE;
    loop {
        let mut direct = connect_from(&t.p1, PORT, (P2, 8080)).expect("connects");
        let seen = greeting(&mut direct).expect("greeted");
        abort(direct);
        if seen.peer.port() == PORT {
            break;
        }
        assert!(
            Instant::now() < end,
            "closed flows are still in the way: {seen:?}"
        );
    }
    let (kept, changed) = both_work(&t.p1, (P2, 8080), (VIP, 80));
    assert_eq!(kept, PORT, "the direct connection came first");
    assert_ne!(changed, PORT, "the live socket was found");
}

#[test]
fn two_services_with_one_endpoint_may_be_asked_from_one_port() {
    let t = Topology::new();
    for room in [&t.p2, &t.node, &t.q1] {
        serve_tcp(room, 8080);
    }
    t.service(&[(VIP, 80, TCP), (NODE, 30080, TCP)], &[To::Pod(P2, 8080)]);
    t.service(&[(VIP, 81, TCP), (NODE, 30081, TCP)], &[To::Pod(P2, 8080)]);
    t.service(&[(VIP, 90, TCP), (NODE, 30090, TCP)], &[To::Node(8080)]);
    t.service(&[(VIP, 91, TCP), (NODE, 30091, TCP)], &[To::Node(8080)]);
    for room in [&t.p1, &t.p2, &t.node] {
        both_work(room, (VIP, 80), (VIP, 81));
        both_work(room, (VIP, 90), (VIP, 91));
        both_work(room, (NODE, 30080), (NODE, 30081));
    }
    both_work(&t.client, (NODE, 30080), (NODE, 30081));
    both_work(&t.client, (NODE, 30090), (NODE, 30091));
}

#[test]
fn a_process_of_the_host_may_ask_directly_and_through_a_service_from_one_port() {
    let t = Topology::new();
    serve_tcp(&t.p2, 8080);
    serve_tcp(&t.q1, 8080);
    t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    t.service(&[(VIP, 81, TCP)], &[To::Pod(Q1, 8080)]);
    for (service, direct) in [((VIP, 80), (P2, 8080)), ((VIP, 81), (Q1, 8080))] {
        both_work(&t.node, service, direct);
        both_work(&t.node, direct, service);
    }
}

#[test]
fn a_client_outside_may_ask_the_node_directly_and_through_a_service_from_one_port() {
    let t = Topology::new();
    serve_tcp(&t.node, 8080);
    t.service(&[(NODE, 30080, TCP)], &[To::Node(8080)]);
    both_work(&t.client, (NODE, 30080), (NODE, 8080));
    both_work(&t.client, (NODE, 8080), (NODE, 30080));
}

#[test]
fn datagrams_from_one_socket_get_answers_from_those_they_were_sent_to() {
    let t = Topology::new();
    serve_udp(&t.p2, 8080);
    serve_udp(&t.q1, 8080);
    t.service(&[(VIP, 80, UDP)], &[To::Pod(P2, 8080)]);
    t.service(&[(VIP, 81, UDP)], &[To::Pod(Q1, 8080)]);
    for room in [&t.p1, &t.node] {
        room.run(|| {
            let socket = UdpSocket::bind(("0.0.0.0", PORT)).expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
            let mut buffer = [0; 100];
            for _ in 0..3 {
                for to in [(VIP, 80), (P2, 8080), (VIP, 81), (Q1, 8080)] {
                    socket.send_to(b"x", to).expect("sent");
                    let (_, from) = socket.recv_from(&mut buffer).expect("answered");
                    assert_eq!(from, to.into());
                }
            }
        });
    }
}

#[test]
fn one_port_serves_any_number_of_short_connections() {
    let t = Topology::new();
    serve_tcp(&t.p2, 8080);
    t.service(&[(VIP, 80, TCP), (NODE, 30080, TCP)], &[To::Pod(P2, 8080)]);
    for (room, to) in [
        (&t.p1, (VIP, 80)),
        (&t.node, (VIP, 80)),
        (&t.client, (NODE, 30080)),
    ] {
        for round in 0..30 {
            let mut stream =
                connect_from(room, PORT, to).unwrap_or_else(|e| panic!("{to:?}, round {round}: {e}"));
            greeting(&mut stream).expect("greeted");
            abort(stream);
        }
    }
}

#[test]
fn pods_with_one_source_port_share_the_nodes_address() {
    let t = Topology::new();
    serve_udp(&t.client, 8080);
    serve_tcp(&t.client, 8080);
    // Many sockets of two pods on the same ports, all towards one address and port.
    let rooms = [&t.p1, &t.p2];
    let sockets: Vec<Vec<UdpSocket>> = rooms
        .iter()
        .map(|room| {
            room.run(|| {
                let sockets: Vec<UdpSocket> = (0..150)
                    .map(|i| {
                        let socket = UdpSocket::bind(("0.0.0.0", 16_000 + i)).expect("bind");
                        socket.connect((CLIENT, 8080)).expect("connect");
                        socket
                    })
                    .collect();
                sockets
            })
        })
        .collect();
    let mut ports = std::collections::BTreeSet::new();
    for (room, sockets) in rooms.iter().zip(&sockets) {
        for socket in sockets {
            let socket = socket.try_clone().expect("clone");
            let seen = room
                .run(move || exchange_udp(&socket, 10, Duration::from_secs(4)))
                .expect("answer");
            assert_eq!(seen.ip(), NODE);
            assert!((20_000..30_000).contains(&seen.peer.port()), "{seen:?}");
            assert!(ports.insert(seen.peer.port()), "one port for two flows: {seen:?}");
        }
    }
    assert_eq!(ask_tcp(&t.p1, (CLIENT, 8080), 10).expect("TCP").ip(), NODE);
}
