//! Pods of different nodes, with real sockets: every mode, both families, several MTUs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use keelson_core::network::peers::Mode;
use keelson_dataplane::abi::{COUNTER_DROPS, DropReason};

use crate::{
    cluster::{CLIENT, Cluster, Shape, VIP},
    room::Room,
    talk::{ask_tcp, ask_udp, ask_udp_from, connect_from, greeting, ping_pong, serve_tcp, serve_udp},
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

/// What holds between any two nodes that know each other. `host`: what a pod of the other node sees of this one's host.
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
    for client in [&cluster.client, &a.pod] {
        if a.has_v4() {
            ask_one(client, (a.address(), node_port).into(), host.into());
        }
        ask_one(client, (six(a.address()), node_port).into(), six(host).into());
    }
}

#[test]
fn on_one_network_pods_of_two_nodes_reach_each_other_as_they_are() {
    for mtu in [1450, 9000] {
        let cluster = Cluster::new(Shape {
            mtu,
            ..Shape::of(Mode::Native)
        });
        serve_all(&cluster);
        holds_between(&cluster, 0, 1, cluster.nodes[0].address());
        // Outside they are translated as ever.
        ask(&cluster.nodes[0].pod, (CLIENT, 8080), cluster.nodes[0].address());
    }
}

#[test]
fn in_the_tunnel_pods_reach_each_other_across_a_router() {
    for mtu in [1450, 9000] {
        let cluster = Cluster::new(Shape {
            mtu,
            ..Shape::of(Mode::Vxlan)
        });
        serve_all(&cluster);
        holds_between(&cluster, 2, 0, cluster.nodes[2].first_address());
        ask(&cluster.nodes[0].pod, (CLIENT, 8080), cluster.nodes[0].address());
    }
}

#[test]
fn both_families_travel_in_a_tunnel_of_ipv6() {
    let cluster = Cluster::new(Shape {
        only_v6: true,
        ..Shape::of(Mode::Vxlan)
    });
    serve_all(&cluster);
    assert_eq!(cluster.nodes[0].mtu, 1430);
    holds_between(&cluster, 0, 2, cluster.nodes[0].first_address());
}

#[test]
fn across_subnets_only_what_crosses_a_router_is_in_the_tunnel() {
    let cluster = Cluster::new(Shape::of(Mode::CrossSubnet));
    serve_all(&cluster);
    let [a, b, c] = &cluster.nodes;
    let routes = |to: Ipv4Addr| a.room.must(&format!("ip route get {to}"));
    assert!(routes(b.pod_address()).contains("dev eth0"));
    assert!(routes(c.pod_address()).contains("dev keelson-vx"));
    holds_between(&cluster, 0, 1, a.address());
    holds_between(&cluster, 0, 2, a.first_address());
    holds_between(&cluster, 2, 0, c.first_address());
}

#[test]
fn without_the_right_family_on_the_network_native_refuses_by_name() {
    let cluster = Cluster::strangers(Shape {
        only_v6: true,
        ..Shape::of(Mode::Native)
    });
    serve_all(&cluster);
    let [a, b, c] = &cluster.nodes;
    let plan = a.follow(&[b.peer(), c.peer()]);
    b.follow(&[a.peer()]);
    let refused: Vec<String> = plan.refused.iter().map(ToString::to_string).collect();
    let of = |name: &str, net: &str| {
        refused
            .iter()
            .any(|text| text.contains(name) && text.contains(net))
    };
    assert!(of("node-2", "10.244.2.0/24"), "{refused:?}");
    assert!(of("node-3", "10.244.3.0/24") && of("node-3", "fd00:a:f4:3::/64"));
    assert_eq!(refused.len(), 3, "{refused:?}");
    ask_one(
        &a.pod,
        (six(b.pod_address()), 8080).into(),
        six(a.pod_address()).into(),
    );
}

#[test]
fn a_peer_that_leaves_is_not_reached_and_one_that_moves_is() {
    for mode in [Mode::Native, Mode::Vxlan] {
        let cluster = Cluster::new(Shape::of(mode));
        serve_all(&cluster);
        let [a, b, _] = &cluster.nodes;
        let to = b.pod_address();
        ask(&a.pod, (to, 8080), a.pod_address());
        let mut peer = b.peer();
        a.follow(&[]);
        assert_eq!(a.room.must("ip route show proto 107 metric 1070"), "");
        assert_eq!(a.room.must("ip -6 route show proto 107 metric 1070"), "");
        assert!(
            ask_tcp(&a.pod, (to, 8080), 100).is_err(),
            "{mode:?}: still reached"
        );
        // Its pods have another network now, its node another address.
        let moved = Ipv4Addr::new(192, 168, 50, 77);
        b.room.ip(&format!(
            "addr add {moved}/24 dev eth0\naddr add {}/64 dev eth0 nodad",
            six(moved)
        ));
        peer.pods = ["10.244.2.0/28", "fd00:a:f4:2::/80"]
            .map(|net| net.parse().expect("CIDR"))
            .to_vec();
        if mode == Mode::Native {
            peer.addresses = vec![moved.into(), six(moved).into()];
        }
        a.follow(&[peer]);
        ask(&a.pod, (to, 8080), a.pod_address());
        let routes = a.room.must("ip route show proto 107 metric 1070");
        assert!(
            routes.contains("10.244.2.0/28") && !routes.contains("/24"),
            "{routes}"
        );
        // Planned and applied again: nothing is different.
        assert_eq!(
            mode == Mode::Native,
            routes.contains(&format!("via {moved}")),
            "{routes}"
        );
    }
}

#[test]
fn what_somebody_takes_away_is_put_back() {
    let cluster = Cluster::new(Shape::of(Mode::Vxlan));
    serve_all(&cluster);
    let [a, b, c] = &cluster.nodes;
    let peers = [b.peer(), c.peer()];
    let first = a.first_address();
    for damage in [
        "ip route flush metric 1070".to_owned(),
        "ip -6 route flush metric 1070".to_owned(),
        "ip link delete keelson-vx".to_owned(),
        "ip link set keelson-vx down".to_owned(),
        "ip neigh flush dev keelson-vx nud permanent".to_owned(),
        format!("ip addr del {first}/32 dev keelson0"),
        // Another's device of that name.
        "ip link delete keelson-vx".to_owned(),
    ] {
        a.room.must(&damage);
        a.follow(&peers);
        ask(&a.pod, (b.pod_address(), 8080), a.pod_address());
        ask(&a.room, (c.pod_address(), 8080), first);
    }
    a.room.must("ip link delete keelson-vx");
    a.room.ip("link add keelson-vx type vxlan id 5 dstport 4789");
    a.follow(&peers);
    ask(&a.pod, (b.pod_address(), 8080), a.pod_address());
}

#[test]
fn a_route_of_somebody_else_is_neither_replaced_nor_removed() {
    let cluster = Cluster::strangers(Shape::of(Mode::Native));
    serve_all(&cluster);
    let [a, b, _] = &cluster.nodes;
    a.room.ip("route add 10.244.2.0/24 via 192.168.50.2 proto bird");
    a.follow(&[b.peer()]);
    b.follow(&[a.peer()]);
    ask(&a.pod, (b.pod_address(), 8080), a.pod_address());
    a.follow(&[]);
    let routes = a.room.must("ip route show 10.244.2.0/24");
    assert!(
        routes.contains("proto bird") && !routes.contains("107"),
        "{routes}"
    );
}

#[test]
fn whatever_address_a_process_of_the_host_has_remote_pods_answer_it() {
    let cluster = Cluster::new(Shape::of(Mode::Vxlan));
    serve_all(&cluster);
    let [a, _, c] = &cluster.nodes;
    a.room
        .ip("link add br0 type bridge\nlink set br0 up\naddr add 172.30.0.1/24 dev br0");
    cluster.service(VIP, 80, &[To::Pod(c.pod_address(), 8080)]);
    for to in [(c.pod_address(), 8080), (VIP, 80)] {
        for from in [a.address(), Ipv4Addr::new(172, 30, 0, 1), a.first_address()] {
            for size in DATAGRAMS {
                let seen = ask_udp_from(&a.room, (from, 0), to, size);
                let seen = seen.unwrap_or_else(|error| panic!("{from} to {to:?}, {size} bytes: {error}"));
                assert_eq!(seen.ip(), a.first_address(), "{from} to {to:?}");
            }
        }
        let mut stream = connect_from(&a.room, 45_678, to).expect("connected");
        greeting(&mut stream).expect("greeted");
        ping_pong(&mut stream).expect("answered");
    }
}

#[test]
fn a_client_outside_that_is_routed_through_a_node_reaches_a_remote_pod() {
    let cluster = Cluster::new(Shape::of(Mode::Vxlan));
    serve_all(&cluster);
    let [a, _, c] = &cluster.nodes;
    cluster
        .client
        .ip(&format!("route add 10.244.0.0/16 via {}", a.address()));
    ask_one(
        &cluster.client,
        (c.pod_address(), 8080).into(),
        a.first_address().into(),
    );
}

#[test]
fn what_comes_by_the_tunnel_must_come_from_the_node_that_has_its_source() {
    let cluster = Cluster::new(Shape::of(Mode::Vxlan));
    serve_all(&cluster);
    let [a, b, _] = &cluster.nodes;
    let forged = || a.counter(COUNTER_DROPS + DropReason::SourceCheck as u32);
    let before = forged();
    // A stranger that knows the tunnel's number, and speaks as b's pod and as itself.
    cluster.client.ip(&format!(
        "link add vx type vxlan id 27493 remote {} dstport 4789
         link set vx up
         addr add {}/32 dev vx
         route add {} dev vx
         neigh add {} lladdr 0a:6b:65:6c:00:02 dev vx nud permanent",
        a.address(),
        b.pod_address(),
        a.pod_address(),
        a.pod_address()
    ));
    for source in [b.pod_address(), CLIENT] {
        let seen = ask_udp_from(&cluster.client, (source, 0), (a.pod_address(), 8080), 100);
        assert!(seen.is_err(), "{source} was answered: {seen:?}");
    }
    assert!(forged() >= before + 2, "nothing was dropped for its source");
    ask(&b.pod, (a.pod_address(), 8080), b.pod_address());
}

#[test]
fn the_tunnel_follows_the_mtu_of_the_uplink_and_open_connections_go_on() {
    let cluster = Cluster::new(Shape::of(Mode::Vxlan));
    serve_all(&cluster);
    let [a, b, c] = &cluster.nodes;
    let mut open = connect_from(&c.pod, 45_679, (a.pod_address(), 8080)).expect("connected");
    greeting(&mut open).expect("greeted");
    cluster
        .router
        .ip("link set to-n3 mtu 1400\nlink set br60 mtu 1400");
    c.room.ip("link set eth0 mtu 1400");
    let plan = c.follow(&[a.peer(), b.peer()]);
    assert_eq!(plan.pod_mtu, Some(1350));
    assert!(c.room.must("ip link show keelson-vx").contains("mtu 1350"));
    assert!(c.room.must("ip route show 10.244.1.0/24").contains("mtu 1350"));
    ping_pong(&mut open).expect("answered");
    // The pod's link is as large as ever: what does not fit is answered, and sent again smaller.
    ask(&c.pod, (a.pod_address(), 8080), c.pod_address());
    ask(&c.room, (a.pod_address(), 8080), c.first_address());
    // And what the other node, which knows nothing of it, sends is taken apart by the router between.
    ask_one(&a.pod, (c.pod_address(), 8080).into(), a.pod_address().into());
}

#[test]
fn the_plugin_alone_leaves_other_nodes_as_the_agent_had_them() {
    let cluster = Cluster::new(Shape::of(Mode::CrossSubnet));
    serve_all(&cluster);
    let [a, b, c] = &cluster.nodes;
    let before = a.prefixes();
    a.as_the_plugin();
    assert_eq!(a.prefixes(), before);
    for other in [b, c] {
        ask(&a.pod, (other.pod_address(), 8080), a.pod_address());
    }
}

#[test]
fn nothing_of_it_stays_when_the_tunnel_is_given_up_or_all_is_removed() {
    let cluster = Cluster::new(Shape::of(Mode::Vxlan));
    let [a, b, c] = &cluster.nodes;
    let left = |room: &Room| {
        [
            room.must("ip route show metric 1070"),
            room.must("ip -6 route show metric 1070"),
            room.must("ip -o link show type vxlan"),
        ]
        .concat()
    };
    assert!(left(&a.room).contains("keelson-vx"));
    let mut native = a.config().clone();
    native.pod_routing = Mode::Native;
    a.follow_as(&native, &[b.peer()]);
    assert!(!left(&a.room).contains("keelson-vx"), "{}", left(&a.room));
    let addresses = a.room.must("ip -o addr show dev keelson0 scope global");
    assert_eq!(addresses, "", "the tunnel's addresses stayed");
    c.remove_all();
    assert_eq!(left(&c.room), "");
}

#[test]
fn an_uplink_that_listens_to_routers_goes_on_doing_so_when_it_forwards() {
    let cluster = Cluster::strangers(Shape::of(Mode::Native));
    let a = &cluster.nodes[0];
    let value = || a.room.must("cat /proc/sys/net/ipv6/conf/eth1/accept_ra");
    a.room
        .ip("link add eth1 type bridge\nlink set eth1 up\naddr add 192.168.90.1/24 dev eth1");
    a.room.set("../ipv6/conf/eth1/accept_ra 1");
    a.follow(&[]);
    assert_eq!(value().trim(), "2");
    a.clean_up();
    assert_eq!(value().trim(), "1");
}
