//! What one Service asks, as flags, sets and reports.

use std::sync::Arc;

use keelson_abi::{
    FRONTEND_DROP, FRONTEND_EXTERNAL, FRONTEND_LOCAL, FRONTEND_MEMBERS, FRONTEND_NODE_PORT, FRONTEND_RANGES,
    FRONTEND_RESET_GONE, MEMBER_CLUSTER, MEMBER_LOCAL,
};
use serde_json::{Value, json};

use super::*;

const NODE: [u8; 4] = [192, 168, 50, 1];
const CLUSTER_IP: [u8; 4] = [10, 96, 0, 1];
const VIP: [u8; 4] = [198, 51, 100, 1];
const EXTERNAL: [u8; 4] = [198, 51, 100, 77];

fn node() -> NodeView {
    NodeView {
        name: "n1".into(),
        primary: vec![IpAddr::from(NODE)],
        addresses: BTreeSet::from([IpAddr::from(NODE)]),
        external_ips: true,
        localhost_node_ports: true,
        ..NodeView::default()
    }
}

/// A load balancer's Service with every kind of address; `edit` changes fields of its spec.
fn service(edit: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "externalIPs": ["198.51.100.77"],
                 "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
    });
    for (name, value) in edit.as_object().expect("fields") {
        object["spec"][name] = value.clone();
    }
    serde_json::from_value(object).expect("a Service")
}

/// Endpoints by address and node; those with a `-` before their address terminate, but serve.
fn slice(endpoints: &[(&str, &str)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node)| match address.strip_prefix('-') {
            None => json!({"addresses": [address], "nodeName": node}),
            Some(address) => json!({"addresses": [address], "nodeName": node,
                "conditions": {"ready": false, "serving": true, "terminating": true}}),
        })
        .collect();
    let object = json!({
        "metadata": {"name": "web-1", "namespace": "default"}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    });
    serde_json::from_value(object).expect("a slice")
}

fn only(service: &Service, slice: &EndpointSlice) -> Group {
    let view = view(service, &[slice], &node());
    assert_eq!(view.groups.len(), 1, "{view:?}");
    view.groups[0].clone()
}

fn flags(group: &Group, address: [u8; 4], port: u16) -> Option<u32> {
    let key = FrontendKey {
        addr: IpAddr::from(address).into(),
        port_be: port.to_be(),
        proto: 6,
        reserved: 0,
    };
    group.frontends.get(&key).copied()
}

fn last(backends: &[Backend]) -> Vec<u8> {
    let addresses = backends.iter().map(|backend| IpAddr::from(backend.addr));
    addresses
        .map(|address| {
            address
                .to_string()
                .rsplit('.')
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        })
        .collect()
}

#[test]
fn every_address_of_a_port_shares_one_group_under_its_own_flags() {
    let group = only(&service(json!({})), &slice(&[("10.244.0.5", "n1")]));
    assert_eq!(flags(&group, CLUSTER_IP, 80), Some(0));
    assert_eq!(flags(&group, VIP, 80), Some(FRONTEND_EXTERNAL));
    assert_eq!(flags(&group, EXTERNAL, 80), Some(FRONTEND_EXTERNAL));
    assert_eq!(
        flags(&group, NODE, 30080),
        Some(FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)
    );
    assert_eq!(group.frontends.len(), 4);
}

#[test]
fn each_policy_marks_its_own_addresses_and_is_silent_where_others_have_an_endpoint() {
    let far = slice(&[("10.244.7.5", "n2")]);
    let near = slice(&[("10.244.0.5", "n1")]);
    let internal = service(json!({"internalTrafficPolicy": "Local"}));
    let group = only(&internal, &far);
    assert_eq!(
        flags(&group, CLUSTER_IP, 80),
        Some(FRONTEND_LOCAL | FRONTEND_DROP)
    );
    assert_eq!(flags(&group, VIP, 80), Some(FRONTEND_EXTERNAL));
    assert_eq!(
        flags(&only(&internal, &near), CLUSTER_IP, 80),
        Some(FRONTEND_LOCAL)
    );
    let external = service(json!({"externalTrafficPolicy": "Local"}));
    let group = only(&external, &far);
    assert_eq!(flags(&group, CLUSTER_IP, 80), Some(0));
    assert_eq!(
        flags(&group, VIP, 80),
        Some(FRONTEND_EXTERNAL | FRONTEND_LOCAL | FRONTEND_DROP)
    );
    // Nobody anywhere: refused, whatever the policy.
    let nobody = only(&external, &slice(&[]));
    assert_eq!(flags(&nobody, VIP, 80), Some(FRONTEND_EXTERNAL | FRONTEND_LOCAL));
}

#[test]
fn both_sets_stand_where_somebody_is_given_them_and_members_say_who_is_in_which() {
    let endpoints = slice(&[("10.244.0.5", "n1"), ("10.244.7.5", "n2"), ("-10.244.7.6", "n2")]);
    let cluster_only = only(&service(json!({})), &endpoints);
    assert_eq!(
        (last(&cluster_only.cluster), last(&cluster_only.local)),
        (vec![5, 5], vec![])
    );
    let both = only(&service(json!({"externalTrafficPolicy": "Local"})), &endpoints);
    assert_eq!((last(&both.cluster), last(&both.local)), (vec![5, 5], vec![5]));
    let members: Vec<u16> = both.serving.iter().map(|(_, flags)| *flags).collect();
    assert_eq!(
        members,
        [MEMBER_CLUSTER | MEMBER_LOCAL, MEMBER_CLUSTER, 0],
        "the last one serves, but is given to nobody"
    );
}

#[test]
fn the_member_list_is_kept_for_datagrams_affinity_and_resets() {
    let endpoints = slice(&[("10.244.0.5", "n1")]);
    assert!(!only(&service(json!({})), &endpoints).has_members());
    let sticky = only(&service(json!({"sessionAffinity": "ClientIP"})), &endpoints);
    assert_eq!((sticky.has_members(), sticky.affinity_seconds), (true, 10_800));
    let udp = service(json!({"ports": [{"name": "http", "port": 80, "protocol": "UDP"}]}));
    assert_eq!(
        only(&udp, &endpoints).frontends.values().next(),
        Some(&FRONTEND_MEMBERS)
    );
    let mut told = service(json!({}));
    let annotation = (
        annotations::GONE_CONNECTIONS.to_owned(),
        annotations::RESET.to_owned(),
    );
    told.metadata.annotations = Some(BTreeMap::from([annotation]));
    let expected = FRONTEND_MEMBERS | FRONTEND_RESET_GONE;
    assert_eq!(flags(&only(&told, &endpoints), CLUSTER_IP, 80), Some(expected));
}

#[test]
fn source_ranges_guard_the_load_balancers_address_alone() {
    let endpoints = slice(&[("10.244.0.5", "n1")]);
    let group = only(
        &service(json!({"loadBalancerSourceRanges": [" 203.0.113.0/24", "fd00::/8"]})),
        &endpoints,
    );
    assert_eq!(flags(&group, VIP, 80), Some(FRONTEND_EXTERNAL | FRONTEND_RANGES));
    assert_eq!(flags(&group, EXTERNAL, 80), Some(FRONTEND_EXTERNAL));
    assert_eq!(
        group.ranges,
        BTreeSet::from(["203.0.113.0/24".parse().expect("a network")])
    );
    for everybody in [json!(["0.0.0.0/0"]), json!(["fd00::/8"])] {
        let group = only(
            &service(json!({"loadBalancerSourceRanges": everybody})),
            &endpoints,
        );
        assert_eq!(flags(&group, VIP, 80), Some(FRONTEND_EXTERNAL));
    }
    // The node is let in, and so is its own load balancer's address.
    let group = only(
        &service(json!({"loadBalancerSourceRanges": ["192.168.50.0/24"]})),
        &endpoints,
    );
    assert!(
        group
            .ranges
            .contains(&"198.51.100.1/32".parse().expect("a network")),
        "{:?}",
        group.ranges
    );
}

#[test]
fn what_is_not_programmed_is_told() {
    let reasons = |edit: Value| -> Vec<&'static str> {
        let view = view(&service(edit), &[&slice(&[("127.0.0.1", "n1")])], &node());
        view.reports.iter().map(|report| report.reason).collect()
    };
    assert_eq!(reasons(json!({})), ["UnusableEndpoint"]);
    assert!(reasons(json!({"externalIPs": ["127.0.0.1"]})).contains(&"UnusableAddress"));
    assert!(reasons(json!({"loadBalancerSourceRanges": ["x"]})).contains(&"UnusableSourceRange"));
    assert!(reasons(json!({"ports": [{"port": 80, "protocol": "DCCP"}]})).contains(&"UnknownProtocol"));
    assert!(reasons(json!({"ports": [{"port": 0}]})).contains(&"UnusablePort"));
    let off = NodeView {
        external_ips: false,
        ..node()
    };
    let view = view(&service(json!({})), &[], &off);
    assert_eq!(
        view.reports
            .iter()
            .map(|report| report.reason)
            .collect::<Vec<_>>(),
        ["ExternalIPsOff"]
    );
    assert_eq!(flags(&view.groups[0], EXTERNAL, 80), None);
}

#[test]
fn a_service_that_is_nobodys_business_asks_for_nothing() {
    let labelled = |name: &str| {
        let mut service = service(json!({}));
        service.metadata.labels = Some(BTreeMap::from([(name.to_owned(), "x".to_owned())]));
        service
    };
    for service in [
        service(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
        service(json!({"clusterIP": "", "clusterIPs": []})),
        service(json!({"type": "ExternalName"})),
        labelled(SERVICE_PROXY_NAME),
        labelled(HEADLESS),
    ] {
        assert_eq!(view(&service, &[], &node()), ServiceView::default());
    }
}

#[test]
fn of_two_of_one_age_the_name_decides_and_no_age_is_old() {
    let at = |seconds: Option<i64>, name: &str| {
        let mut service = service(json!({}));
        let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        service.metadata.creation_timestamp = time.map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time);
        Rank::of(&Key::new("default", name), &Arc::new(service))
    };
    assert!(at(Some(1), "z") < at(Some(2), "a"));
    assert!(at(Some(1), "a") < at(Some(1), "b"));
    assert!(at(None, "z") < at(Some(0), "a"));
}
