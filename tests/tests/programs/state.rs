//! What changes while traffic flows: endpoints, their owners, how they are delivered to, who may send what.

use std::net::{Ipv4Addr, UdpSocket};

use keelson_dataplane::abi::{
    COUNTER_DROPS, DropReason, ENDPOINT_NO_PEER, HostPort, HostPortKey, MAP_HOSTPORT,
};

use crate::{
    raw,
    talk::{
        ask_tcp, ask_udp, ask_udp_from, connect_from, exchange_udp, greeting, ping_pong, serve_tcp, serve_udp,
    },
    topology::{CLIENT, NODE, P1, P2, P3, TCP, To, Topology, UDP, VIP, addr},
};

fn drops(t: &Topology, reason: DropReason) -> u64 {
    t.counter(COUNTER_DROPS + reason as u32)
}

#[test]
fn datagrams_go_to_new_endpoints_and_connections_stay() {
    let t = Topology::new();
    serve_udp(&t.p2, 8080);
    serve_udp(&t.p3, 8081);
    serve_tcp(&t.p2, 8080);
    serve_tcp(&t.p3, 8081);
    let frontends = [(VIP, 80, UDP), (VIP, 80, TCP)];
    let service = t.service(&frontends, &[To::Pod(P2, 8080)]);
    let socket = t.p1.run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("bind");
        socket.connect((VIP, 80)).expect("connect");
        socket
    });
    assert_eq!(
        exchange_udp(&socket, 10, crate::talk::PATIENCE)
            .expect("answer")
            .port,
        8080
    );
    let mut stream = connect_from(&t.p1, 15_000, (VIP, 80)).expect("connects");
    assert_eq!(greeting(&mut stream).expect("greeted").port, 8080);
    t.rewrite_service(service, &frontends, &[To::Pod(P3, 8081)], 2);
    // The same socket, the same tuple: the generation tells that the choice is stale.
    assert_eq!(
        exchange_udp(&socket, 10, crate::talk::PATIENCE)
            .expect("answer")
            .port,
        8081
    );
    ping_pong(&mut stream).expect("an established connection stays where it is");
    assert_eq!(ask_tcp(&t.p1, (VIP, 80), 10).expect("answer").port, 8081);
}

#[test]
fn the_next_owner_of_an_address_inherits_no_connection() {
    let t = Topology::new();
    serve_tcp(&t.p2, 8080);
    t.service(&[(VIP, 80, TCP)], &[To::Pod(P2, 8080)]);
    let mut stream = connect_from(&t.p1, 15_000, (VIP, 80)).expect("connects");
    ping_pong(&mut stream).expect("works");
    let before = drops(&t, DropReason::NoConnection);
    t.edit_pod(P2, |endpoint| endpoint.epoch += 1);
    stream
        .set_read_timeout(Some(std::time::Duration::from_millis(600)))
        .expect("time-out");
    assert!(
        ping_pong_once(&mut stream).is_err(),
        "the new owner must not see packets of the old one's connection"
    );
    assert!(drops(&t, DropReason::NoConnection) > before);
    assert_eq!(
        ask_tcp(&t.p1, (VIP, 80), 10).expect("new connections work").ip(),
        P1
    );
}

fn ping_pong_once(stream: &mut std::net::TcpStream) -> std::io::Result<()> {
    use std::io::{Read, Write};
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

#[test]
fn a_shaped_pod_is_reached_through_its_own_queue() {
    let t = Topology::new();
    serve_tcp(&t.p2, 8080);
    serve_udp(&t.p2, 8080);
    t.service(
        &[(VIP, 80, TCP), (VIP, 80, UDP), (NODE, 30080, TCP)],
        &[To::Pod(P2, 8080)],
    );
    t.edit_pod(P2, |endpoint| endpoint.flags |= ENDPOINT_NO_PEER);
    t.edit_pod(P1, |endpoint| endpoint.flags |= ENDPOINT_NO_PEER);
    for to in [(VIP, 80), (P2, 8080)] {
        assert_eq!(ask_tcp(&t.p1, to, 500_000).expect("TCP").ip(), P1);
        assert_eq!(ask_udp(&t.p1, to, 5000).err().map(|e| e.to_string()), None);
    }
    assert_eq!(
        ask_tcp(&t.client, (NODE, 30080), 500_000).expect("TCP").ip(),
        NODE
    );
    assert_eq!(
        ask_tcp(&t.p2, (VIP, 80), 500_000).expect("TCP").ip(),
        Ipv4Addr::new(169, 254, 1, 1)
    );
}

#[test]
fn a_pod_sends_under_its_own_address_only() {
    let t = Topology::new();
    serve_udp(&t.p2, 8080);
    t.p1.ip("addr add 10.244.1.99/32 dev eth0");
    let before = drops(&t, DropReason::SourceCheck);
    let stranger = (Ipv4Addr::new(10, 244, 1, 99), 0);
    ask_udp_from(&t.p1, stranger, (P2, 8080), 10).expect_err("an address nobody gave it");
    assert!(drops(&t, DropReason::SourceCheck) > before);
    // Another pod's address, which exists but not behind this link.
    t.p1.ip("addr add 10.244.1.13/32 dev eth0");
    let before = drops(&t, DropReason::SourceCheck);
    ask_udp_from(&t.p1, (P3, 0), (P2, 8080), 10).expect_err("another pod's address");
    assert!(drops(&t, DropReason::SourceCheck) > before);
    ask_udp(&t.p1, (P2, 8080), 10).expect("its own");
}

#[test]
fn nobody_outside_sends_under_a_pods_address() {
    let t = Topology::new();
    serve_udp(&t.p2, 8080);
    t.client
        .ip("route add 10.244.1.0/24 via 192.168.50.1\naddr add 10.244.1.11/32 dev eth0");
    // Its neighbour must be known: the node answers no ARP from a pod's address.
    t.client.must("ping -c 1 -W 2 192.168.50.1");
    let before = drops(&t, DropReason::SourceCheck);
    ask_udp_from(&t.client, (P1, 0), (P2, 8080), 10).expect_err("forged");
    assert!(drops(&t, DropReason::SourceCheck) > before);
}

#[test]
fn a_host_port_leads_to_its_pod_from_everywhere() {
    let t = Topology::new();
    serve_tcp(&t.p2, 8080);
    t.with(|dataplane| {
        let key = HostPortKey {
            port_be: 8000_u16.to_be(),
            proto: TCP,
            ..HostPortKey::default()
        };
        let value = HostPort {
            addr: addr(P2),
            port_be: 8080_u16.to_be(),
            reserved: 0,
        };
        raw::put(dataplane, MAP_HOSTPORT, &key, &value);
    });
    assert_eq!(
        ask_tcp(&t.client, (NODE, 8000), 100_000).expect("outside").ip(),
        CLIENT
    );
    assert_eq!(ask_tcp(&t.p1, (NODE, 8000), 100_000).expect("pod").ip(), P1);
    assert_eq!(
        ask_tcp(&t.p2, (NODE, 8000), 100_000).expect("itself").ip(),
        Ipv4Addr::new(169, 254, 1, 1)
    );
    assert_eq!(ask_tcp(&t.node, (NODE, 8000), 100_000).expect("host").ip(), NODE);
    assert_eq!(
        ask_tcp(&t.node, (Ipv4Addr::LOCALHOST, 8000), 100_000)
            .expect("lo")
            .ip(),
        NODE
    );
}

#[test]
fn a_packet_at_the_end_of_its_life_is_answered_by_the_node() {
    let t = Topology::new();
    let output = t.p1.command("ping -c 1 -W 2 -t 1 10.244.2.11");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Time to live exceeded"), "{text}");
    let output = t.p1.command("ping -c 1 -W 2 -t 1 10.244.1.12");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Time to live exceeded"), "{text}");
}
