//! The model against tables made by hand from the documented behaviour.

use super::{table_objects::*, *};
use Masquerade::{Hairpin, No, Yes};
use Place::{Host, Outside, Pod, RemotePod};

const EVERYBODY: [Place; 4] = [Pod, RemotePod, Host, Outside];

/// Every way in from outside.
const EXTERNAL_ENTRIES: [(&str, u16); 4] = [
    (NODE, NODE_PORT),
    ("172.20.0.1", NODE_PORT),
    (VIP, 80),
    (EXTERNAL, 80),
];

#[test]
fn the_masquerade_matrix() {
    let both = |mark| translated(&[NEAR, FAR], mark);
    let only_near = |mark| translated(&[NEAR], mark);
    // Policy internal Local, policy external Local, who → cluster address, external address.
    let table = [
        (false, false, Pod, both(No), both(Yes)),
        (false, false, RemotePod, both(No), both(Yes)),
        (false, false, Host, both(Yes), both(Yes)),
        (false, false, Outside, both(Yes), both(Yes)),
        (true, false, Pod, only_near(No), both(Yes)),
        (true, false, RemotePod, only_near(No), both(Yes)),
        (true, false, Host, only_near(Yes), both(Yes)),
        (true, false, Outside, only_near(Yes), both(Yes)),
        (false, true, Pod, both(No), both(No)),
        (false, true, RemotePod, both(No), both(No)),
        (false, true, Host, both(Yes), both(Yes)),
        (false, true, Outside, both(Yes), only_near(No)),
        (true, true, Pod, only_near(No), both(No)),
        (true, true, RemotePod, only_near(No), both(No)),
        (true, true, Host, only_near(Yes), both(Yes)),
        (true, true, Outside, only_near(Yes), only_near(No)),
    ];
    for (internal, external, who, inside, outside) in table {
        let mut cluster = cluster(vec![near(), far()]);
        cluster.services[0].internal_local = internal;
        cluster.services[0].external_local = external;
        let case = format!("internal Local: {internal}, external Local: {external}, {who:?}");
        assert_eq!(
            cluster.verdict(&packet(who, CLUSTER_IP, 80)),
            inside,
            "{case}, cluster address"
        );
        for (address, port) in EXTERNAL_ENTRIES {
            assert_eq!(
                cluster.verdict(&packet(who, address, port)),
                outside,
                "{case}, {address}:{port}"
            );
        }
    }
}

#[test]
fn masquerade_all_concerns_cluster_addresses_only() {
    let mut cluster = cluster(vec![near(), far()]);
    cluster.settings.masquerade_all = true;
    cluster.services[0].external_local = true;
    for who in EVERYBODY {
        assert_eq!(
            cluster.verdict(&packet(who, CLUSTER_IP, 80)),
            translated(&[NEAR, FAR], Yes),
            "{who:?}"
        );
    }
    assert_eq!(
        cluster.verdict(&packet(Pod, VIP, 80)),
        translated(&[NEAR, FAR], No)
    );
    assert_eq!(
        cluster.verdict(&packet(Outside, VIP, 80)),
        translated(&[NEAR], No)
    );
}

#[test]
fn an_endpoint_that_asks_itself_is_always_masqueraded() {
    let mut cluster = cluster(vec![near(), far()]);
    cluster.services[0].external_local = true;
    for (address, port) in [(CLUSTER_IP, 80), (VIP, 80), (NODE, NODE_PORT)] {
        let mut asks = packet(Pod, address, port);
        asks.source.address = ip("10.244.0.5");
        let expected = [(socket(NEAR), Hairpin), (socket(FAR), No)];
        assert_eq!(
            cluster.verdict(&asks),
            Verdict::Translate(expected.into()),
            "{address}"
        );
    }
}

#[test]
fn verdicts_without_an_endpoint_here_or_anywhere() {
    // Endpoints, policies Local → cluster address from a pod, external address from a pod, the host and outside.
    let refused = || Verdict::Reject;
    let dropped = || Verdict::Drop;
    let far_one = |mark| translated(&[FAR], mark);
    let table = [
        (vec![], false, [refused(), refused(), refused(), refused()]),
        (vec![], true, [refused(), refused(), refused(), refused()]),
        (
            vec![far()],
            false,
            [far_one(No), far_one(Yes), far_one(Yes), far_one(Yes)],
        ),
        (
            vec![far()],
            true,
            [dropped(), far_one(No), far_one(Yes), dropped()],
        ),
        (
            vec![leaving("10.244.7.5", "n2", true)],
            true,
            [dropped(), far_one(No), far_one(Yes), dropped()],
        ),
        (
            vec![leaving("10.244.7.5", "n2", false)],
            true,
            [refused(), refused(), refused(), refused()],
        ),
    ];
    for (endpoints, local, expected) in table {
        let case = format!("{endpoints:?}, Local: {local}");
        let mut cluster = cluster(endpoints);
        cluster.services[0].internal_local = local;
        cluster.services[0].external_local = local;
        let asked = [
            packet(Pod, CLUSTER_IP, 80),
            packet(Pod, NODE, NODE_PORT),
            packet(Host, VIP, 80),
            packet(Outside, EXTERNAL, 80),
        ];
        assert_eq!(asked.map(|packet| cluster.verdict(&packet)), expected, "{case}");
    }
}

#[test]
fn undefined_ports_and_unallocated_addresses() {
    let cluster = cluster(vec![near()]);
    for who in EVERYBODY {
        assert_eq!(
            cluster.verdict(&packet(who, CLUSTER_IP, 81)),
            Verdict::Reject,
            "no such port"
        );
        let datagram = Packet {
            protocol: Protocol::Udp,
            ..packet(who, CLUSTER_IP, 80)
        };
        assert_eq!(cluster.verdict(&datagram), Verdict::Reject, "another protocol");
        assert_eq!(
            cluster.verdict(&packet(who, "10.96.0.11", 80)),
            Verdict::Drop,
            "nobody's address"
        );
        for (address, port) in [
            (VIP, 81),
            (EXTERNAL, 81),
            (NODE, 30081),
            (NODE, 80),
            ("10.244.0.5", 8080),
            (OUTSIDE, 80),
        ] {
            assert_eq!(
                cluster.verdict(&packet(who, address, port)),
                Verdict::Pass,
                "{address}:{port}"
            );
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table is as long as its cases")]
fn terminating_endpoints_by_policy() {
    let serving_near = leaving("10.244.0.5", "n1", true);
    let serving_far = leaving("10.244.7.5", "n2", true);
    let gone_near = leaving("10.244.0.5", "n1", false);
    let unready = Endpoint {
        ready: Some(false),
        serving: Some(false),
        ..near()
    };
    // Ready although it leaves: what publishNotReadyAddresses makes.
    let published = Endpoint {
        ready: Some(true),
        ..leaving("10.244.0.5", "n1", true)
    };
    // Endpoints → cluster set, local set, any at all.
    type Row = (
        &'static str,
        Vec<Endpoint>,
        &'static [&'static str],
        &'static [&'static str],
        bool,
    );
    let table: [Row; 9] = [
        (
            "ready everywhere",
            vec![near(), far()],
            &[NEAR, FAR],
            &[NEAR],
            true,
        ),
        (
            "the near one leaves",
            vec![serving_near.clone(), far()],
            &[FAR],
            &[NEAR],
            true,
        ),
        (
            "the far one leaves",
            vec![near(), serving_far.clone()],
            &[NEAR],
            &[NEAR],
            true,
        ),
        (
            "both leave",
            vec![serving_near, serving_far.clone()],
            &[NEAR, FAR],
            &[NEAR],
            true,
        ),
        ("only one far away leaves", vec![serving_far], &[FAR], &[], true),
        ("gone", vec![gone_near.clone()], &[], &[], false),
        (
            "gone, and one far away",
            vec![gone_near, far()],
            &[FAR],
            &[],
            true,
        ),
        ("not ready", vec![unready], &[], &[], false),
        ("published", vec![published], &[NEAR], &[NEAR], true),
    ];
    for (case, endpoints, wide, narrow, anywhere) in table {
        let sets = set_of(&cluster(endpoints));
        assert_eq!(
            sets.cluster,
            wide.iter().map(|text| socket(text)).collect(),
            "{case}, cluster"
        );
        assert_eq!(
            sets.local,
            narrow.iter().map(|text| socket(text)).collect(),
            "{case}, local"
        );
        assert_eq!(sets.anywhere, anywhere, "{case}");
    }
}

#[test]
fn datagram_flows_may_stay_with_all_that_serve() {
    let table = [
        (near(), true),
        (leaving("10.244.0.5", "n1", true), true),
        (leaving("10.244.0.5", "n1", false), false),
        (
            Endpoint {
                ready: Some(false),
                ..near()
            },
            true,
        ),
    ];
    for (endpoint, stays) in table {
        let sets = set_of(&cluster(vec![endpoint.clone()]));
        assert_eq!(sets.serving.contains(&socket(NEAR)), stays, "{endpoint:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table is as long as its cases")]
fn hints_for_zones_and_nodes() {
    let hinted = |endpoint: Endpoint, zones: &[&str], nodes: &[&str]| Endpoint {
        for_zones: zones.iter().map(|&zone| zone.into()).collect(),
        for_nodes: nodes.iter().map(|&node| node.into()).collect(),
        ..endpoint
    };
    let none: &[&str] = &[];
    // Hints of the near and of the far endpoint → the cluster set.
    let table: [(&str, Endpoint, Endpoint, &[&str]); 9] = [
        ("no hints", near(), far(), &[NEAR, FAR]),
        (
            "zones",
            hinted(near(), &["z2"], none),
            hinted(far(), &["z1"], none),
            &[FAR],
        ),
        ("one without", hinted(near(), &["z1"], none), far(), &[NEAR, FAR]),
        (
            "other zones",
            hinted(near(), &["z2"], none),
            hinted(far(), &["z3"], none),
            &[NEAR, FAR],
        ),
        (
            "several zones",
            hinted(near(), &["z2", "z1"], none),
            hinted(far(), &["z1"], none),
            &[NEAR, FAR],
        ),
        (
            "nodes first",
            hinted(near(), &["z2"], &["n1"]),
            hinted(far(), &["z1"], &["n2"]),
            &[NEAR],
        ),
        (
            "other nodes, so zones",
            hinted(near(), &["z2"], &["n3"]),
            hinted(far(), &["z1"], &["n2"]),
            &[FAR],
        ),
        (
            "a node missing, so zones",
            hinted(near(), &["z1"], &["n1"]),
            hinted(far(), &["z1"], none),
            &[NEAR, FAR],
        ),
        (
            "nodes only",
            hinted(near(), none, &["n2"]),
            hinted(far(), none, &["n1"]),
            &[FAR],
        ),
    ];
    for (case, first, second, expected) in table {
        let sets = set_of(&cluster(vec![first, second]));
        assert_eq!(
            sets.cluster,
            expected.iter().map(|text| socket(text)).collect(),
            "{case}"
        );
        assert_eq!(
            sets.local,
            [socket(NEAR)].into(),
            "{case}: the local set knows no hints"
        );
    }
}

#[test]
fn hints_count_among_ready_endpoints_and_are_forgotten_when_all_leave() {
    let zone = |endpoint: Endpoint, zone: &str| Endpoint {
        for_zones: vec![zone.into()],
        ..endpoint
    };
    let leaving_unhinted = leaving("10.244.0.5", "n1", true);
    let sets = set_of(&cluster(vec![
        leaving_unhinted,
        zone(far(), "z1"),
        zone(endpoint("10.244.7.6", "n2"), "z2"),
    ]));
    assert_eq!(
        sets.cluster,
        [socket(FAR)].into(),
        "one that leaves needs no hint"
    );
    let sets = set_of(&cluster(vec![
        zone(leaving("10.244.0.5", "n1", true), "z1"),
        zone(leaving("10.244.7.5", "n2", true), "z2"),
    ]));
    assert_eq!(sets.cluster, [socket(NEAR), socket(FAR)].into());
    let mut nowhere = cluster(vec![zone(near(), "z1"), zone(far(), "z2")]);
    nowhere.node.zone = None;
    assert_eq!(
        set_of(&nowhere).cluster,
        [socket(NEAR), socket(FAR)].into(),
        "a node of no zone"
    );
}

#[test]
fn slices_are_merged_by_port_name_and_the_endpoint_that_stays_wins() {
    let mut cluster = cluster(vec![leaving("10.244.0.5", "n1", true)]);
    cluster.slices.push(slice("web-2", vec![near()]));
    let mut moved = slice("web-3", vec![endpoint("10.244.7.5", "n2")]);
    moved.ports[0].number = Some(9090);
    cluster.slices.push(moved);
    let sets = set_of(&cluster);
    assert_eq!(sets.cluster, [socket(NEAR), socket("10.244.7.5:9090")].into());
    cluster.slices.reverse();
    assert_eq!(set_of(&cluster), sets, "their order means nothing");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table is as long as its cases")]
fn what_cannot_be_used_is_left_out() {
    type Edit = fn(&mut Slice);
    let table: [(&str, Edit, &[&str]); 15] = [
        ("as it is", |_| {}, &[NEAR]),
        ("no port number", |slice| slice.ports[0].number = None, &[]),
        ("port 0", |slice| slice.ports[0].number = Some(0), &[]),
        (
            "a port beyond the last",
            |slice| slice.ports[0].number = Some(70_000),
            &[],
        ),
        ("no port name", |slice| slice.ports[0].name = None, &[]),
        (
            "another port name",
            |slice| slice.ports[0].name = Some("other".into()),
            &[],
        ),
        (
            "another protocol",
            |slice| slice.ports[0].protocol = Some("UDP".into()),
            &[],
        ),
        (
            "no protocol is TCP",
            |slice| slice.ports[0].protocol = None,
            &[NEAR],
        ),
        ("names", |slice| slice.address_type = "FQDN".into(), &[]),
        (
            "the other family's slice",
            |slice| slice.address_type = "IPv6".into(),
            &[],
        ),
        ("no address", |slice| slice.endpoints[0].addresses.clear(), &[]),
        (
            "no real address",
            |slice| slice.endpoints[0].addresses[0] = "10.244.0".into(),
            &[],
        ),
        (
            "the other family's address",
            |slice| slice.endpoints[0].addresses[0] = "fd00::5".into(),
            &[],
        ),
        (
            "a second address",
            |slice| slice.endpoints[0].addresses.push("10.244.0.6".into()),
            &[NEAR],
        ),
        (
            "leading zeros",
            |slice| slice.endpoints[0].addresses[0] = "010.244.000.005".into(),
            &[NEAR],
        ),
    ];
    for (case, edit, expected) in table {
        let mut cluster = cluster(vec![near()]);
        edit(&mut cluster.slices[0]);
        let sets = set_of(&cluster);
        assert_eq!(
            sets.cluster,
            expected.iter().map(|text| socket(text)).collect(),
            "{case}"
        );
    }
}

#[test]
fn an_endpoint_without_a_node_is_not_local() {
    let homeless = Endpoint { node: None, ..near() };
    let sets = set_of(&cluster(vec![homeless]));
    assert!(sets.local.is_empty() && !sets.cluster.is_empty());
}

#[test]
fn services_that_are_not_served() {
    type Edit = fn(&mut Service);
    let table: [(&str, Edit); 6] = [
        ("headless", |service| service.cluster_ips = vec!["None".into()]),
        ("no address yet", |service| {
            service.cluster_ips = vec![String::new()]
        }),
        ("no addresses at all", |service| service.cluster_ips.clear()),
        ("a name elsewhere", |service| service.kind = Kind::ExternalName),
        ("another proxy's", |service| {
            service.labels = labels("service.kubernetes.io/service-proxy-name")
        }),
        ("labelled headless", |service| {
            service.labels = labels("service.kubernetes.io/headless")
        }),
    ];
    for (case, edit) in table {
        let mut cluster = cluster(vec![near()]);
        edit(&mut cluster.services[0]);
        assert_eq!(
            cluster.verdict(&packet(Pod, CLUSTER_IP, 80)),
            Verdict::Drop,
            "{case}: nobody's address"
        );
        for (address, port) in EXTERNAL_ENTRIES {
            assert_eq!(
                cluster.verdict(&packet(Outside, address, port)),
                Verdict::Pass,
                "{case}"
            );
        }
    }
    let mut labelled = cluster(vec![near()]);
    labelled.slices[0].labels = labels("service.kubernetes.io/headless");
    assert_eq!(
        labelled.verdict(&packet(Pod, CLUSTER_IP, 80)),
        Verdict::Reject,
        "a slice labelled headless"
    );
}

#[test]
fn source_ranges_guard_the_load_balancers_address_only() {
    let mut cluster = cluster(vec![near()]);
    let everybody_is_kept_out = ["198.18.0.0/15"];
    cluster.services[0].source_ranges = everybody_is_kept_out.map(Into::into).to_vec();
    for who in EVERYBODY {
        assert_eq!(
            cluster.verdict(&packet(who, VIP, 80)),
            Verdict::Drop,
            "{who:?}, pods included"
        );
        for (address, port) in [(CLUSTER_IP, 80), (NODE, NODE_PORT), (EXTERNAL, 80)] {
            let verdict = cluster.verdict(&packet(who, address, port));
            assert!(
                matches!(verdict, Verdict::Translate(_)),
                "{who:?} → {address}: {verdict:?}"
            );
        }
    }
    cluster.slices.clear();
    assert_eq!(
        cluster.verdict(&packet(Outside, VIP, 80)),
        Verdict::Drop,
        "asked before endpoints are"
    );
}

#[test]
fn source_ranges_are_read_generously() {
    // Ranges → whether pod, host and client outside are let in.
    let table: [(&[&str], [bool; 3]); 8] = [
        (&[], [true, true, true]),
        (&["203.0.113.0/24"], [false, false, true]),
        (&[" 203.0.113.0/24 ", "\t10.244.0.0/16"], [true, false, true]),
        (&["192.168.50.0/24"], [false, true, false]),
        (&["0.0.0.0/0"], [true, true, true]),
        (&["203.0.113.0/24", "0.0.0.0/0"], [true, true, true]),
        (&["fd00::/8"], [true, true, true]),
        (&["fd00::/8", "10.244.0.0/16"], [true, false, false]),
    ];
    for (ranges, expected) in table {
        let mut cluster = cluster(vec![near()]);
        cluster.services[0].source_ranges = ranges.iter().map(|&range| range.into()).collect();
        let let_in = [Pod, Host, Outside].map(|who| cluster.verdict(&packet(who, VIP, 80)) != Verdict::Drop);
        assert_eq!(let_in, expected, "{ranges:?}");
    }
}

#[test]
fn the_load_balancers_own_address_is_let_in_where_the_node_is() {
    let asks = Packet {
        source: Source {
            place: Host,
            address: ip(VIP),
        },
        ..packet(Host, VIP, 80)
    };
    for (range, let_in) in [
        ("192.168.50.0/24", true),
        ("203.0.113.0/24", false),
        // The node's other address is not the one it is known by.
        ("172.20.0.1/32", false),
        ("198.51.100.1/32", true),
    ] {
        let mut cluster = cluster(vec![near()]);
        cluster.services[0].source_ranges = vec![range.into()];
        assert_eq!(cluster.verdict(&asks) != Verdict::Drop, let_in, "{range}");
    }
}

#[test]
fn only_addresses_of_load_balancers_that_deliver_packets_as_they_are() {
    for (mode, served) in [
        (None, true),
        (Some("VIP"), true),
        (Some("Proxy"), false),
        (Some("Other"), false),
    ] {
        let mut cluster = cluster(vec![near()]);
        cluster.services[0].ingress[0].mode = mode.map(Into::into);
        let verdict = cluster.verdict(&packet(Pod, VIP, 80));
        assert_eq!(verdict != Verdict::Pass, served, "{mode:?}");
    }
    let mut named = cluster(vec![near()]);
    named.services[0].ingress[0].ip = None;
    named.services[0].ingress[0].hostname = Some("lb.example".into());
    assert_eq!(named.verdict(&packet(Pod, VIP, 80)), Verdict::Pass);
}

#[test]
fn external_addresses_have_a_switch() {
    let mut cluster = cluster(vec![near()]);
    cluster.settings.external_ips = false;
    assert_eq!(cluster.verdict(&packet(Outside, EXTERNAL, 80)), Verdict::Pass);
    assert_ne!(cluster.verdict(&packet(Outside, VIP, 80)), Verdict::Pass);
}

#[test]
fn node_ports_are_served_on_the_addresses_selected() {
    use NodePortAddresses::{All, Networks, Primary};
    // Setting → the address the node is known by, its other one.
    let table = [
        (All, [true, true]),
        (Primary, [true, false]),
        (Networks(vec!["172.16.0.0/12".into()]), [false, true]),
        (
            Networks(vec!["172.16.0.0/12".into(), "192.168.50.1/32".into()]),
            [true, true],
        ),
        (Networks(vec!["10.0.0.0/8".into()]), [false, false]),
        (Networks(vec!["fd00::/8".into()]), [true, true]),
    ];
    for (setting, expected) in table {
        let mut cluster = cluster(vec![near()]);
        cluster.settings.node_port_addresses = setting.clone();
        let served =
            [NODE, "172.20.0.1"].map(|to| cluster.verdict(&packet(Outside, to, NODE_PORT)) != Verdict::Pass);
        assert_eq!(served, expected, "{setting:?}");
        let elsewhere = cluster.verdict(&packet(Pod, "192.168.50.2", NODE_PORT));
        assert_eq!(elsewhere, Verdict::Pass, "another node's address");
    }
}

#[test]
fn only_the_host_reaches_node_ports_under_127_0_0_1() {
    let mut cluster = cluster(vec![near()]);
    let ask = |cluster: &Cluster, who| cluster.verdict(&packet(who, "127.0.0.1", NODE_PORT));
    assert_eq!(ask(&cluster, Host), translated(&[NEAR], Yes));
    assert_eq!(ask(&cluster, Pod), Verdict::Pass);
    cluster.settings.node_port_addresses = NodePortAddresses::Networks(vec!["172.16.0.0/12".into()]);
    assert_eq!(
        ask(&cluster, Host),
        Verdict::Pass,
        "the address that it stands for is not selected"
    );
    cluster.settings.node_port_addresses = NodePortAddresses::All;
    cluster.settings.localhost_node_ports = false;
    assert_eq!(ask(&cluster, Host), Verdict::Pass);
}

#[test]
fn affinity_holds_while_its_endpoint_is_in_the_set() {
    let mut cluster = cluster(vec![near(), far()]);
    let ask = |cluster: &Cluster, to: &str, port, kept: &str| {
        cluster.verdict(&Packet {
            remembered: Some(socket(kept)),
            ..packet(Pod, to, port)
        })
    };
    assert_eq!(
        ask(&cluster, CLUSTER_IP, 80, FAR),
        translated(&[NEAR, FAR], No),
        "no affinity asked for"
    );
    cluster.services[0].affinity = Some(60);
    assert_eq!(ask(&cluster, CLUSTER_IP, 80, FAR), translated(&[FAR], No));
    assert_eq!(
        ask(&cluster, NODE, NODE_PORT, FAR),
        translated(&[FAR], Yes),
        "through another entry"
    );
    assert_eq!(
        ask(&cluster, CLUSTER_IP, 80, "10.244.7.99:8080"),
        translated(&[NEAR, FAR], No),
        "gone"
    );
    cluster.services[0].internal_local = true;
    assert_eq!(
        ask(&cluster, CLUSTER_IP, 80, FAR),
        translated(&[NEAR], No),
        "not in this set"
    );
}

#[test]
fn the_same_port_of_two_protocols_is_two() {
    let mut cluster = cluster(vec![near()]);
    let port = cluster.services[0].ports[0].clone();
    for (protocol, name) in [("UDP", "udp"), ("SCTP", "sctp")] {
        cluster.services[0].ports.push(Port {
            name: name.into(),
            protocol: protocol.into(),
            ..port.clone()
        });
    }
    let mut datagrams = slice("web-udp", vec![far()]);
    datagrams.ports[0].name = Some("udp".into());
    datagrams.ports[0].protocol = Some("UDP".into());
    cluster.slices.push(datagrams);
    let ask = |protocol| {
        cluster.verdict(&Packet {
            protocol,
            ..packet(Pod, CLUSTER_IP, 80)
        })
    };
    assert_eq!(ask(Protocol::Tcp), translated(&[NEAR], No));
    assert_eq!(ask(Protocol::Udp), translated(&[FAR], No));
    assert_eq!(ask(Protocol::Sctp), Verdict::Reject);
}

#[test]
fn each_family_has_its_own_endpoints() {
    let mut cluster = cluster(vec![near()]);
    cluster.services[0].cluster_ips.push("fd00:a:60::a".into());
    assert_eq!(
        cluster.verdict(&packet(Pod, "fd00:a:60::a", 80)),
        Verdict::Reject,
        "none of this family"
    );
    let mut six = slice("web-6", vec![endpoint("fd00:244::5", "n1")]);
    six.address_type = "IPv6".into();
    cluster.slices.push(six);
    let mut asks = packet(Pod, "fd00:a:60::a", 80);
    asks.source.address = ip("fd00:244::9");
    assert_eq!(cluster.verdict(&asks), translated(&["[fd00:244::5]:8080"], No));
    assert_eq!(
        cluster.verdict(&packet(Pod, CLUSTER_IP, 80)),
        translated(&[NEAR], No)
    );
    assert_eq!(cluster.verdict(&packet(Pod, "fd00:a:60::b", 80)), Verdict::Drop);
}

#[test]
fn a_family_without_a_cluster_address_has_no_other_address() {
    let mut cluster = cluster(vec![near()]);
    let mut six = slice("web-6", vec![endpoint("fd00:244::5", "n1")]);
    six.address_type = "IPv6".into();
    cluster.slices.push(six);
    cluster.node.addresses.push(ip("fd00:c0:a8:32::1"));
    cluster.services[0].external_ips.push("fd00:cb:0:71::77".into());
    for (address, port) in [("fd00:c0:a8:32::1", NODE_PORT), ("fd00:cb:0:71::77", 80)] {
        let mut asks = packet(Outside, address, port);
        asks.source.address = ip("fd00:cb:0:71::7");
        cluster.services[0].cluster_ips = vec![CLUSTER_IP.into()];
        assert_eq!(cluster.verdict(&asks), Verdict::Pass, "{address}, single stack");
        cluster.services[0].cluster_ips.push("fd00:a:60::a".into());
        assert_eq!(
            cluster.verdict(&asks),
            translated(&["[fd00:244::5]:8080"], Yes),
            "{address}, dual stack"
        );
    }
}

#[test]
fn the_oldest_service_has_an_address_that_two_claim() {
    let mut cluster = cluster(vec![near()]);
    cluster.services[0].created = 20;
    let mut older = service();
    older.name = "older".into();
    older.created = 10;
    older.cluster_ips = vec!["10.96.0.20".into()];
    cluster.services.push(older);
    // The older one has no endpoint.
    assert_eq!(cluster.verdict(&packet(Outside, VIP, 80)), Verdict::Reject);
    assert_eq!(
        cluster.verdict(&packet(Pod, CLUSTER_IP, 80)),
        translated(&[NEAR], No)
    );
    cluster.services[1].created = 30;
    assert_eq!(
        cluster.verdict(&packet(Outside, VIP, 80)),
        translated(&[NEAR], Yes)
    );
}
