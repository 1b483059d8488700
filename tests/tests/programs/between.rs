//! Pods of different nodes, with real sockets: every mode, both families, several MTUs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use keelson_core::network::peers::Mode;

use crate::{
    cluster::{CLIENT, Cluster, Shape, VIP},
    room::Room,
    talk::{ask_tcp, ask_udp, serve_tcp, serve_udp},
    topology::{To, six},
};

/// In one packet, and in several.
const DATAGRAMS: [usize; 2] = [100, 20_000];

fn serve_all(cluster: &Cluster) {
    for room in cluster
        .nodes
        .iter()
        .flat_map(|member| [&member.pod, &member.room])
        .chain([&cluster.client])
    {
        serve_tcp(room, 8080);
        serve_udp(room, 8080);
    }
}

/// Asks by TCP and UDP, with little and with much; the server must see this client.
fn ask_one(room: &Room, to: SocketAddr, seen: IpAddr) {
    for size in DATAGRAMS {
        match ask_udp(room, to, size) {
            Ok(answer) => assert_eq!(answer.ip(), seen, "UDP to {to}: client as the server saw it"),
            Err(error) => panic!("UDP, {size} bytes, to {to}: {error}"),
        }
    }
    for size in [100, 1_000_000] {
        match ask_tcp(room, to, size) {
            Ok(answer) => assert_eq!(answer.ip(), seen, "TCP to {to}: client as the server saw it"),
            Err(error) => panic!("TCP, {size} bytes, to {to}: {error}"),
        }
    }
}

/// The same over both families.
fn ask(room: &Room, (to, port): (Ipv4Addr, u16), seen: Ipv4Addr) {
    ask_one(room, (to, port).into(), seen.into());
    ask_one(room, (six(to), port).into(), six(seen).into());
}

/// What holds between any two nodes that know each other. `sources`: what a pod of the other node sees of this one's host.
fn holds_between(cluster: &Cluster, from: usize, to: usize, host: Ipv4Addr) {
    let (a, b) = (&cluster.nodes[from], &cluster.nodes[to]);
    let endpoint = b.pod_address();
    // Pod to pod, either way: each sees the other's own address.
    ask(&a.pod, (endpoint, 8080), a.pod_address());
    ask(&b.pod, (a.pod_address(), 8080), endpoint);
    a.pod.must(&format!("ping -c 1 -W 2 -s 4000 {endpoint}"));
    // A Service's cluster address: not masqueraded for pods.
    let port = 1000 + (from * 10 + to) as u16;
    cluster.service(VIP, port, &[To::Pod(endpoint, 8080)]);
    ask(&a.pod, (VIP, port), a.pod_address());
    // The host itself.
    ask(&a.room, (endpoint, 8080), host);
    ask(&a.room, (VIP, port), host);
    // Outside, by a NodePort: masqueraded, so that the answer comes back this way.
    let node_port = 30_000 + port;
    cluster.service(a.address(), node_port, &[To::Pod(endpoint, 8080)]);
    ask(&cluster.client, (a.address(), node_port), host);
    ask(&a.pod, (a.address(), node_port), host);
}

#[test]
fn on_one_network_pods_of_two_nodes_reach_each_other_as_they_are() {
    let cluster = Cluster::new(Shape::of(Mode::Native));
    serve_all(&cluster);
    holds_between(&cluster, 0, 1, cluster.nodes[0].address());
    // Outside they are translated as ever.
    ask(&cluster.nodes[0].pod, (CLIENT, 8080), cluster.nodes[0].address());
}

#[test]
fn in_the_tunnel_pods_reach_each_other_across_a_router() {
    let cluster = Cluster::new(Shape::of(Mode::Vxlan));
    serve_all(&cluster);
    for (from, to) in [(0, 1), (0, 2), (2, 0)] {
        holds_between(&cluster, from, to, cluster.nodes[from].first_address());
    }
    ask(&cluster.nodes[0].pod, (CLIENT, 8080), cluster.nodes[0].address());
}
