//! Addresses and ports: unique, kept, honoured when asked for, refused by name when taken.

use proptest::prelude::*;

use super::*;
use crate::service::test_objects;

fn pools() -> Pools {
    Pools {
        addresses: "10.96.0.0/24".parse().expect("CIDR"),
        addresses_v6: Some("fd00:96::/112".parse().expect("network")),
        node_ports: 30000..=30003,
    }
}

fn service(
    name: &str,
    edit: impl FnOnce(&mut k8s_openapi::api::core::v1::ServiceSpec),
) -> (Key, Arc<Service>) {
    let (key, mut service) = test_objects::service(name, "");
    let spec = Arc::make_mut(&mut service).spec.as_mut().expect("spec");
    spec.cluster_ip = None;
    spec.cluster_ips = None;
    edit(spec);
    (key, service)
}

fn node_port(asked: Option<i32>) -> impl FnOnce(&mut k8s_openapi::api::core::v1::ServiceSpec) {
    move |spec| {
        spec.type_ = Some("NodePort".into());
        spec.ports.as_mut().expect("ports")[0].node_port = asked;
    }
}

fn by_uid(
    services: &BTreeMap<Key, Arc<Service>>,
    given: &BTreeMap<Key, Allocation>,
) -> BTreeMap<String, Allocation> {
    given
        .iter()
        .map(|(key, a)| (services[key].metadata.uid.clone().expect("uid"), a.clone()))
        .collect()
}

#[test]
fn a_service_of_two_families_gets_an_address_of_each_and_keeps_both() {
    let dual = |policy: &'static str| {
        move |spec: &mut k8s_openapi::api::core::v1::ServiceSpec| spec.ip_family_policy = Some(policy.into())
    };
    let services = BTreeMap::from([
        service("a", dual("PreferDualStack")),
        service("b", dual("RequireDualStack")),
    ]);
    let first = allocate(&services, &BTreeMap::new(), &pools());
    for key in services.keys() {
        let given = &first.given[key];
        assert!(
            given.cluster_ip.is_some_and(|address| address.is_ipv4()),
            "{given:?}"
        );
        assert!(
            given.second_cluster_ip.is_some_and(|address| address.is_ipv6()),
            "{given:?}"
        );
        let filled = fill(&services[key], given).spec.expect("spec");
        assert_eq!(filled.cluster_ips.expect("addresses").len(), 2);
        assert_eq!(filled.ip_families, Some(vec!["IPv4".into(), "IPv6".into()]));
    }
    assert_eq!(
        allocate(&services, &by_uid(&services, &first.given), &pools()).given,
        first.given
    );
    // Without a network of the second family who prefers it goes without, and who needs it is refused.
    let single = Pools {
        addresses_v6: None,
        ..pools()
    };
    let result = allocate(&services, &BTreeMap::new(), &single);
    assert_eq!(result.given[&Key::new("default", "a")].second_cluster_ip, None);
    assert!(matches!(
        result.refused[&Key::new("default", "b")],
        Refusal::NoNetwork { family: "IPv6", .. }
    ));
}

#[test]
fn the_family_of_an_address_asked_for_comes_first() {
    let asked = |texts: &'static [&'static str]| {
        move |spec: &mut k8s_openapi::api::core::v1::ServiceSpec| {
            spec.cluster_ip = Some(texts[0].into());
            spec.cluster_ips = Some(texts.iter().map(|text| (*text).into()).collect());
        }
    };
    let only_six =
        |spec: &mut k8s_openapi::api::core::v1::ServiceSpec| spec.ip_families = Some(vec!["IPv6".into()]);
    let services = BTreeMap::from([
        service("both", asked(&["fd00:96::7", "10.96.0.7"])),
        service("outside", asked(&["fd00:97::7"])),
        service("six", only_six),
    ]);
    let result = allocate(&services, &BTreeMap::new(), &pools());
    let both = &result.given[&Key::new("default", "both")];
    assert_eq!(both.cluster_ip, "fd00:96::7".parse().ok());
    assert_eq!(both.second_cluster_ip, "10.96.0.7".parse().ok());
    assert!(matches!(
        result.refused[&Key::new("default", "outside")],
        Refusal::OutsideOfPool { .. }
    ));
    let six = &result.given[&Key::new("default", "six")];
    assert!(six.cluster_ip.is_some_and(|address| address.is_ipv6()) && six.second_cluster_ip.is_none());
}

#[test]
fn what_was_given_is_kept_when_others_come_and_go() {
    let mut services = BTreeMap::from([service("b", node_port(None))]);
    let first = allocate(&services, &BTreeMap::new(), &pools());
    let kept = by_uid(&services, &first.given);
    services.extend([service("a", node_port(None)), service("c", |_| {})]);
    let second = allocate(&services, &kept, &pools());
    let key = Key::new("default", "b");
    assert_eq!(second.given[&key], first.given[&key]);
    assert_eq!(second.given.len(), 3);
}

#[test]
fn a_newcomer_that_asks_for_a_held_port_is_refused_and_both_are_named() {
    let mut services = BTreeMap::from([service("old", node_port(Some(30001)))]);
    let kept = by_uid(&services, &allocate(&services, &BTreeMap::new(), &pools()).given);
    services.extend([service("a-new", node_port(Some(30001)))]);
    let result = allocate(&services, &kept, &pools());
    let message = result.refused[&Key::new("default", "a-new")].to_string();
    assert!(
        message.contains("default/a-new") && message.contains("default/old") && message.contains("30001"),
        "{message}"
    );
    assert!(result.given.contains_key(&Key::new("default", "old")));
}

#[test]
fn the_same_number_for_tcp_and_udp_is_no_conflict() {
    let udp = |spec: &mut k8s_openapi::api::core::v1::ServiceSpec| {
        node_port(Some(30001))(spec);
        spec.ports.as_mut().expect("ports")[0].protocol = Some("UDP".into());
    };
    let services = BTreeMap::from([service("a", node_port(Some(30001))), service("b", udp)]);
    assert!(allocate(&services, &BTreeMap::new(), &pools()).refused.is_empty());
}

#[test]
fn an_address_outside_the_service_network_is_refused() {
    for bad in ["10.97.0.1", "10.96.0.0", "10.96.0.255", "nonsense", "fd00::1"] {
        let services = BTreeMap::from([service("a", |spec| spec.cluster_ip = Some(bad.into()))]);
        let result = allocate(&services, &BTreeMap::new(), &pools());
        assert!(
            matches!(
                result.refused.values().next(),
                Some(Refusal::OutsideOfPool { .. })
            ),
            "{bad}"
        );
    }
}

#[test]
fn headless_and_external_name_services_hold_nothing() {
    let headless = service("a", |spec| spec.cluster_ip = Some("None".into()));
    let external = service("b", |spec| spec.type_ = Some("ExternalName".into()));
    let result = allocate(&BTreeMap::from([headless, external]), &BTreeMap::new(), &pools());
    assert!(
        result
            .given
            .values()
            .all(|allocation| *allocation == Allocation::default())
    );
}

#[test]
fn a_full_range_says_how_full_it_is() {
    let services: BTreeMap<_, _> = (0..5)
        .map(|i| service(&format!("s{i}"), node_port(None)))
        .collect();
    let result = allocate(&services, &BTreeMap::new(), &pools());
    assert_eq!((result.given.len(), result.refused.len()), (4, 1));
    let message = result.refused.values().next().expect("one").to_string();
    assert!(
        message.contains("30000-30003") && message.contains("4 in use"),
        "{message}"
    );
}

#[test]
fn the_allocation_is_written_into_the_service() {
    let services = BTreeMap::from([service("a", node_port(None))]);
    let result = allocate(&services, &BTreeMap::new(), &pools());
    let (key, allocation) = result.given.first_key_value().expect("one");
    let filled = fill(&services[key], allocation);
    let spec = filled.spec.expect("spec");
    assert_eq!(spec.cluster_ip, allocation.cluster_ip.map(|ip| ip.to_string()));
    assert!(spec.ports.expect("ports")[0].node_port.is_some());
}

proptest! {
    #[test]
    fn no_two_services_share_anything(asks in proptest::collection::vec((any::<bool>(), prop_oneof![Just(None), (30000_i32..30004).prop_map(Some)]), 0..8)) {
        let services: BTreeMap<_, _> = asks
            .iter()
            .enumerate()
            .map(|(i, (wants, asked))| service(&format!("s{i}"), |spec| if *wants { node_port(*asked)(spec) }))
            .collect();
        let result = allocate(&services, &BTreeMap::new(), &pools());
        let addresses: BTreeSet<_> = result.given.values().filter_map(|a| a.cluster_ip).collect();
        prop_assert_eq!(addresses.len(), result.given.len());
        let ports: Vec<_> = result.given.values().flat_map(|a| a.node_ports.values()).collect();
        let unique: BTreeSet<_> = ports.iter().collect();
        prop_assert_eq!(unique.len(), ports.len());
        prop_assert_eq!(result.given.len() + result.refused.len(), services.len());
    }

    #[test]
    fn a_full_network_gives_every_address_once(size in 24_u8..30) {
        let pool: Ipv4Net = format!("10.96.0.0/{size}").parse().expect("CIDR");
        let usable = (1_usize << (32 - size)) - 2;
        let services: BTreeMap<_, _> = (0..usable + 1).map(|i| service(&format!("s{i}"), |_| {})).collect();
        let result = allocate(&services, &BTreeMap::new(), &Pools { addresses: pool, addresses_v6: None, node_ports: 1..=1 });
        prop_assert_eq!(result.given.len(), usable);
        prop_assert_eq!(result.refused.len(), 1);
    }
}
