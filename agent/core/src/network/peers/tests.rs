use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().expect("network")
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn peer(name: &str, pods: &[&str], addresses: &[&str]) -> Peer {
    Peer {
        name: name.to_owned(),
        pods: nets(pods),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    }
}

fn uplink(ifindex: u32, mtu: u32, addresses: &[&str]) -> Uplink {
    Uplink {
        ifindex,
        name: format!("eth{ifindex}"),
        mtu,
        addresses: nets(addresses),
    }
}

/// Node `a`: pods 10.244.1.0/24 and fd00:1::/64, attached to 192.168.50.0/24 and fd50::/64.
fn planned(uplinks: &[Uplink], peers: &[Peer], mode: Mode) -> Plan {
    let (pods, services) = (nets(&["10.244.1.0/24", "fd00:1::/64"]), nets(&["10.96.0.0/16"]));
    let all = || {
        uplinks
            .iter()
            .flat_map(|uplink| &uplink.addresses)
            .map(IpNet::addr)
    };
    let addresses: Vec<IpAddr> = [false, true]
        .into_iter()
        .filter_map(|v6| all().find(|address| address.is_ipv6() == v6))
        .collect();
    let own = Own {
        name: "a",
        pods: &pods,
        services: &services,
        uplinks,
        addresses: &addresses,
    };
    plan(&own, peers, mode)
}

fn both() -> Vec<Uplink> {
    vec![uplink(2, 1500, &["192.168.50.1/24", "fd50::1/64"])]
}

fn ways(plan: &Plan) -> Vec<(String, Way)> {
    plan.networks
        .iter()
        .map(|network| (network.pods.to_string(), network.way))
        .collect()
}

#[test]
fn on_one_segment_pods_are_reached_by_the_peers_address_of_their_family() {
    let b = peer(
        "b",
        &["10.244.2.0/24", "fd00:2::/64"],
        &["192.168.50.2", "fd50::2"],
    );
    for mode in [Mode::Native, Mode::CrossSubnet] {
        let plan = planned(&both(), std::slice::from_ref(&b), mode);
        let by = |gateway| Way::Direct {
            gateway: ip(gateway),
            ifindex: 2,
        };
        assert_eq!(
            ways(&plan),
            [
                ("10.244.2.0/24".to_owned(), by("192.168.50.2")),
                ("fd00:2::/64".to_owned(), by("fd50::2")),
            ]
        );
        assert_eq!(plan.refused, []);
        assert_eq!(plan.tunnel.is_some(), mode == Mode::CrossSubnet);
    }
    let native = planned(&both(), &[b], Mode::Native);
    assert_eq!((native.pod_mtu, native.tunnel), (None, None));
}

#[test]
fn beyond_a_router_native_refuses_by_name_and_crosssubnet_tunnels() {
    let far = peer("far", &["10.244.3.0/24"], &["198.51.100.3"]);
    let plan = planned(&both(), std::slice::from_ref(&far), Mode::Native);
    assert_eq!(plan.networks, []);
    let told = plan.refused.first().expect("refused").to_string();
    for part in ["10.244.3.0/24", "\"far\"", "198.51.100.3", "crossSubnet"] {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
    let plan = planned(&both(), &[far], Mode::CrossSubnet);
    assert_eq!(ways(&plan), [("10.244.3.0/24".to_owned(), Way::Tunnel)]);
    assert_eq!(plan.networks[0].endpoint, Some(ip("198.51.100.3")));
}

#[test]
fn either_family_travels_in_the_tunnel_whichever_is_outside() {
    let pods = ["10.244.2.0/24", "fd00:2::/64"];
    for (addresses, mtu) in [
        (&["192.168.50.2", "fd50::2"][..], 1450),
        (&["fd50::2", "192.168.50.2"][..], 1450),
        (&["fd50::2"][..], 1430),
    ] {
        let plan = planned(&both(), &[peer("b", &pods, addresses)], Mode::Vxlan);
        assert!(plan.networks.iter().all(|network| network.way == Way::Tunnel));
        assert_eq!(plan.networks.len(), 2);
        let tunnel = plan.tunnel.expect("a tunnel");
        assert_eq!((tunnel.mtu, plan.pod_mtu), (mtu, Some(mtu)), "{addresses:?}");
        assert_eq!(tunnel.addresses, [ip("10.244.1.1"), ip("fd00:1::1")]);
    }
}

#[test]
fn the_tunnel_fits_the_smallest_uplink_that_it_leaves_by() {
    let uplinks = [
        uplink(2, 9000, &["192.168.50.1/24"]),
        uplink(3, 1450, &["192.168.60.1/24"]),
    ];
    let near = peer("b", &["10.244.2.0/24"], &["192.168.50.2"]);
    let narrow = peer("c", &["10.244.3.0/24"], &["192.168.60.3"]);
    let mtu = |peers: &[Peer]| planned(&uplinks, peers, Mode::Vxlan).tunnel.expect("tunnel").mtu;
    assert_eq!(mtu(&[]), 8950);
    assert_eq!(mtu(std::slice::from_ref(&near)), 8950);
    assert_eq!(mtu(&[near, narrow]), 1400);
}

#[test]
fn a_node_of_one_family_has_no_tunnel_to_one_of_the_other() {
    let uplinks = [uplink(2, 1500, &["192.168.50.1/24"])];
    let six = peer("six", &["10.244.2.0/24"], &["fd50::2"]);
    let plan = planned(&uplinks, &[six], Mode::Vxlan);
    assert!(matches!(plan.refused[0].cause, Cause::NoEndpoint(_)));
}

#[test]
fn a_network_that_is_anybody_elses_is_refused_and_the_others_stay() {
    let peers = [
        peer("b", &["10.244.1.128/25", "10.244.2.0/24"], &["192.168.50.2"]),
        peer("c", &["10.244.0.0/16", "10.244.2.128/25"], &["192.168.50.3"]),
        peer("d", &["10.96.7.0/24", "192.168.50.64/26"], &["192.168.50.4"]),
        peer("e", &["10.244.5.0/24"], &[]),
    ];
    let plan = planned(&both(), &peers, Mode::Native);
    assert_eq!(plan.networks.len(), 1, "{plan:?}");
    let causes: Vec<_> = plan.refused.iter().map(|refusal| &refusal.cause).collect();
    assert!(
        matches!(
            causes[..],
            [
                Cause::OwnPods(_),
                Cause::OwnPods(_),
                Cause::Peer(..),
                Cause::Services(_),
                Cause::Uplink(..),
                Cause::NotOnLink(_)
            ]
        ),
        "{causes:?}"
    );
}

#[test]
fn where_the_cloud_routes_pods_have_addresses_of_the_nodes_network() {
    let b = peer("b", &["192.168.50.64/26"], &["192.168.50.2"]);
    let plan = planned(&both(), &[b], Mode::Cloud);
    assert_eq!(ways(&plan), [("192.168.50.64/26".to_owned(), Way::Foreign)]);
    assert_eq!((plan.tunnel, plan.pod_mtu), (None, None));
}

#[test]
fn the_nodes_own_name_among_the_peers_is_the_node_itself() {
    let own = peer("a", &["10.244.1.0/24"], &["192.168.50.1"]);
    assert_eq!(planned(&both(), &[own], Mode::Native), Plan::default());
}

#[test]
fn the_tunnels_address_is_the_first_that_a_host_may_have() {
    for (pods, expected) in [
        ("10.244.1.0/24", Some("10.244.1.1")),
        ("10.244.1.7/24", Some("10.244.1.1")),
        ("10.244.1.4/30", Some("10.244.1.5")),
        ("10.244.1.4/31", None),
        ("fd00:1::/64", Some("fd00:1::1")),
        ("fd00:1::/127", None),
    ] {
        assert_eq!(first(net(pods)), expected.map(ip), "{pods}");
    }
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let pods = prop::collection::vec((0_u8..8, 22_u8..27), 0..3).prop_map(|nets| {
        let net = |(third, length): (u8, u8)| net(&format!("10.244.{third}.0/{length}"));
        nets.into_iter().map(net).collect::<Vec<_>>()
    });
    let addresses = prop::collection::vec((50_u8..53, 1_u8..6), 0..3);
    (0_u8..5, pods, addresses).prop_map(|(name, pods, addresses)| Peer {
        name: format!("n{name}"),
        pods,
        addresses: addresses
            .into_iter()
            .map(|(net, host)| IpAddr::from([192, 168, net, host]))
            .collect(),
    })
}

proptest! {
    #[test]
    fn every_network_of_every_peer_is_reached_or_refused_and_none_twice(
        peers in prop::collection::vec(any_peer(), 0..6),
        mode in prop::sample::select(vec![Mode::Native, Mode::Vxlan, Mode::CrossSubnet, Mode::Cloud]),
    ) {
        // Files name an object once.
        let by_name: BTreeMap<String, Peer> = peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
        let peers: Vec<Peer> = by_name.into_values().collect();
        let plan = planned(&both(), &peers, mode);
        let told = plan.networks.len() + plan.refused.len();
        prop_assert_eq!(told, peers.iter().map(|peer| peer.pods.len()).sum::<usize>());
        for (at, one) in plan.networks.iter().enumerate() {
            for other in &plan.networks[at + 1..] {
                prop_assert!(!one.pods.contains(&other.pods) && !other.pods.contains(&one.pods));
            }
            match one.way {
                Way::Direct { gateway, .. } => prop_assert!(net("192.168.50.0/24").contains(&gateway) && mode != Mode::Vxlan),
                Way::Tunnel => prop_assert!(mode.tunnels() && one.endpoint.is_some()),
                Way::Foreign => prop_assert_eq!(mode, Mode::Cloud),
            }
        }
        let mut shuffled = peers.clone();
        shuffled.reverse();
        prop_assert_eq!(planned(&both(), &shuffled, mode), plan);
    }
}
