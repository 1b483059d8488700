//! Services that come and go, and agents that die: the maps end right, and every moment between is whole.

use keelson_abi::{Frontend, MEMBER_GONE, Member, MemberKey};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::service::plan::{GUARD, WATERMARK, Write};

const UDP: u8 = 17;

/// A small Service: which cluster address, protocol, endpoints, whether it also claims the one NodePort, how old it is.
#[derive(Clone, Debug)]
struct Small {
    address: u8,
    udp: bool,
    endpoints: BTreeSet<u8>,
    node_port: bool,
    age: i64,
}

fn object(name: &str, small: &Small) -> (Arc<Service>, Arc<EndpointSlice>) {
    let protocol = if small.udp { "UDP" } else { "TCP" };
    let address = format!("10.96.0.{}", small.address);
    let node_port = if small.node_port { 30_080 } else { 0 };
    let service = json!({
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": format!("2020-01-01T00:00:{:02}Z", small.age)},
        "spec": {"type": "NodePort", "clusterIP": address, "clusterIPs": [address],
                 "ports": [{"name": "p", "port": 80, "protocol": protocol, "nodePort": node_port}]},
    });
    let endpoints: Vec<_> = small
        .endpoints
        .iter()
        .map(|last| json!({"addresses": [format!("10.244.0.{last}")], "nodeName": "n1"}))
        .collect();
    let slice = json!({
        "metadata": {"name": format!("{name}-1"), "namespace": "default", "labels": {SERVICE_NAME: name}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 8080, "protocol": protocol}], "endpoints": endpoints,
    });
    let service = serde_json::from_value(service).expect("a Service");
    (
        Arc::new(service),
        Arc::new(serde_json::from_value(slice).expect("a slice")),
    )
}

fn tell(services: &mut Services, name: &str, small: Option<&Small>) {
    let objects = small.map(|small| object(name, small));
    let (service, slice) = objects.map_or((None, None), |(service, slice)| (Some(service), Some(slice)));
    services.set_service(&Key::new("default", name), service);
    services.set_slice(&Key::new("default", &format!("{name}-1")), slice);
}

fn agent(maps: &Observed, known: &BTreeMap<String, Small>) -> Services {
    let mut services = Services::default();
    services.set_node(NodeView {
        name: "n1".into(),
        primary: vec![IpAddr::from([192, 168, 50, 1])],
        addresses: BTreeSet::from([IpAddr::from([192, 168, 50, 1])]),
        ..NodeView::default()
    });
    for (name, small) in known {
        tell(&mut services, name, Some(small));
    }
    services.observe(maps.clone(), 1);
    services
}

fn udp(endpoints: &[u8]) -> Small {
    Small {
        address: 1,
        udp: true,
        endpoints: endpoints.iter().copied().collect(),
        node_port: false,
        age: 0,
    }
}

/// Plan and carry out; the plan.
fn settle(services: &mut Services, maps: &mut Observed) -> Plan {
    let plan = services.plan().plan;
    plan.writes.iter().for_each(|write| maps.follow(write));
    plan
}

fn frontend(maps: &Observed, address: [u8; 4], port: u16, proto: u8) -> Frontend {
    let key = FrontendKey {
        addr: IpAddr::from(address).into(),
        port_be: port.to_be(),
        proto,
        reserved: 0,
    };
    maps.frontends[&key]
}

fn web(maps: &Observed) -> Frontend {
    frontend(maps, [10, 96, 0, 1], 80, UDP)
}

#[test]
fn nothing_is_planned_before_the_maps_were_read() {
    let mut services = Services::default();
    tell(&mut services, "web", Some(&udp(&[5])));
    assert!(services.needs_maps());
    assert!(services.plan().plan.is_empty());
}

#[test]
fn an_endpoint_that_joins_leaves_the_generation_alone_and_one_that_leaves_moves_it() {
    let mut maps = Observed::default();
    let mut services = agent(&maps, &BTreeMap::from([("web".into(), udp(&[5]))]));
    settle(&mut services, &mut maps);
    let first = web(&maps);
    tell(&mut services, "web", Some(&udp(&[5, 6])));
    settle(&mut services, &mut maps);
    let joined = web(&maps);
    assert_eq!(
        (joined.service, joined.generation, joined.count),
        (first.service, first.generation, 2)
    );
    assert_ne!(joined.revision, first.revision);
    tell(&mut services, "web", Some(&udp(&[6])));
    let plan = settle(&mut services, &mut maps);
    assert_eq!(web(&maps).generation, first.generation + 1);
    let gone: Vec<IpAddr> = plan.gone.iter().map(|gone| gone.endpoint.addr.into()).collect();
    assert_eq!(
        gone,
        [IpAddr::from([10, 244, 0, 5])],
        "its datagram flows are looked for"
    );
}

#[test]
fn a_member_that_leaves_is_marked_before_the_flip_and_removed_after_it() {
    let mut maps = Observed::default();
    let mut services = agent(&maps, &BTreeMap::from([("web".into(), udp(&[5, 6]))]));
    settle(&mut services, &mut maps);
    tell(&mut services, "web", Some(&udp(&[6])));
    let plan = services.plan().plan;
    let at = |wanted: &dyn Fn(&Write) -> bool| plan.writes.iter().position(wanted).expect("planned");
    let marked = at(&|write| {
        matches!(
            write,
            Write::PutMember(
                _,
                Member {
                    flags: MEMBER_GONE,
                    ..
                }
            )
        )
    });
    let flipped = at(&|write| matches!(write, Write::PutFrontend(..)));
    let removed = at(&|write| matches!(write, Write::RemoveMember(MemberKey { .. })));
    assert!(marked < flipped && flipped < removed, "{plan:?}");
}

#[test]
fn an_agent_that_returns_keeps_every_id_and_changes_nothing() {
    let mut maps = Observed::default();
    let known = BTreeMap::from([("web".to_owned(), udp(&[5, 6]))]);
    settle(&mut agent(&maps, &known), &mut maps);
    let before = maps.clone();
    assert!(settle(&mut agent(&maps, &known), &mut maps).is_empty());
    assert_eq!(maps, before);
}

#[test]
fn an_id_is_never_given_twice_even_when_its_service_left_no_trace() {
    let mut maps = Observed::default();
    settle(
        &mut agent(&maps, &BTreeMap::from([("web".into(), udp(&[5]))])),
        &mut maps,
    );
    let old = web(&maps).service;
    settle(&mut agent(&maps, &BTreeMap::new()), &mut maps);
    assert!(
        maps.frontends.keys().all(|key| *key == WATERMARK),
        "only the memory of ids stays"
    );
    settle(
        &mut agent(&maps, &BTreeMap::from([("web".into(), udp(&[5]))])),
        &mut maps,
    );
    assert!(web(&maps).service > old);
}

#[test]
fn the_younger_of_two_gets_the_address_when_the_older_goes_and_is_told_meanwhile() {
    let mut maps = Observed::default();
    let small = |address, age, endpoint| Small {
        address,
        udp: false,
        endpoints: BTreeSet::from([endpoint]),
        node_port: true,
        age,
    };
    let mut services = agent(&maps, &BTreeMap::from([("old".to_owned(), small(1, 1, 5))]));
    settle(&mut services, &mut maps);
    let owner = |maps: &Observed| frontend(maps, [192, 168, 50, 1], 30_080, 6).service;
    let old = owner(&maps);
    tell(&mut services, "young", Some(&small(2, 2, 6)));
    let outcome = services.plan();
    outcome.plan.writes.iter().for_each(|write| maps.follow(write));
    assert_eq!(owner(&maps), old);
    let told: Vec<_> = outcome
        .reports
        .iter()
        .map(|(key, report)| (key.name.as_str(), report.reason))
        .collect();
    assert_eq!(told, [("young", "AddressConflict")]);
    tell(&mut services, "old", None);
    settle(&mut services, &mut maps);
    assert_eq!(owner(&maps), frontend(&maps, [10, 96, 0, 2], 80, 6).service);
}

#[test]
fn slots_that_a_frontend_names_are_never_written_whoever_gets_the_frontend() {
    let small = |address, age, endpoints: &[u8], node_port| Small {
        address,
        udp: false,
        endpoints: endpoints.iter().copied().collect(),
        node_port,
        age,
    };
    let mut maps = Observed::default();
    let a = BTreeMap::from([("a".to_owned(), small(1, 2, &[5], true))]);
    settle(&mut agent(&maps, &a), &mut maps);
    // A plan for two endpoints was cut off when only the NodePort had been flipped to the new slots.
    let mut services = agent(&maps, &a);
    tell(&mut services, "a", Some(&small(1, 2, &[5, 6], true)));
    let node_port = |key: &FrontendKey| IpAddr::from(key.addr) == IpAddr::from([192, 168, 50, 1]);
    let plan = services.plan().plan;
    for write in &plan.writes {
        let flips = matches!(write, Write::PutFrontend(key, _) if node_port(key));
        if flips || matches!(write, Write::PutBackend(..)) {
            maps.follow(write);
        }
    }
    let cut = frontend(&maps, [192, 168, 50, 1], 30_080, 6);
    let slots = maps.slots(&cut);
    assert_eq!((cut.count, slots.is_some()), (2, true));
    // Meanwhile the NodePort became an older Service's, and there is a third endpoint.
    let now = BTreeMap::from([
        ("a".to_owned(), small(1, 2, &[7, 8], true)),
        ("b".to_owned(), small(2, 1, &[9], true)),
    ]);
    for write in agent(&maps, &now).plan().plan.writes {
        maps.follow(&write);
        if frontend(&maps, [192, 168, 50, 1], 30_080, 6) == cut {
            assert_eq!(maps.slots(&cut), slots, "after {write:?}");
        }
    }
}

fn any_small() -> impl Strategy<Value = Small> {
    let endpoints = proptest::collection::btree_set(1_u8..9, 0..7);
    (1_u8..4, any::<bool>(), endpoints, any::<bool>(), 0_i64..3).prop_map(
        |(address, udp, endpoints, node_port, age)| Small {
            address,
            udp,
            endpoints,
            node_port,
            age,
        },
    )
}

fn any_state() -> impl Strategy<Value = BTreeMap<String, Small>> {
    proptest::collection::btree_map("[a-c]", any_small(), 0..4)
}

/// What the maps say without ids and revisions.
fn meaning(maps: &Observed) -> Vec<String> {
    let asked = maps.frontends.iter().filter(|(key, _)| **key != WATERMARK);
    asked
        .map(|(key, frontend)| {
            let mut slots = maps.slots(frontend).expect("whole");
            slots.sort();
            let members: Vec<_> = maps
                .members_of(frontend.service)
                .map(|(key, member)| (key.addr, key.port_be, *member))
                .collect();
            format!("{key:?} {} {slots:?} {members:?}", frontend.service == GUARD)
        })
        .collect()
}

proptest! {
    #[test]
    fn any_way_with_deaths_ends_as_if_only_the_last_state_had_ever_been(
        states in proptest::collection::vec((any_state(), proptest::option::of(0_usize..30)), 1..6),
    ) {
        let mut maps = Observed::default();
        let mut services = agent(&maps, &BTreeMap::new());
        for (state, death) in &states {
            for name in ["a", "b", "c"] {
                tell(&mut services, name, state.get(name));
            }
            let plan = services.plan().plan;
            for write in plan.writes.iter().take(death.unwrap_or(usize::MAX)) {
                maps.follow(write);
                for frontend in maps.frontends.values() {
                    prop_assert!(maps.slots(frontend).is_some(), "after {:?}: {:?} has a hole", write, frontend);
                }
            }
            if death.is_some() {
                services = agent(&maps, state);
                settle(&mut services, &mut maps);
            }
        }
        let last = &states[states.len() - 1].0;
        let mut fresh = Observed::default();
        settle(&mut agent(&fresh, last), &mut fresh);
        prop_assert_eq!(meaning(&maps), meaning(&fresh));
        prop_assert_eq!(maps.backends.len(), fresh.backends.len(), "no block is left behind");
        prop_assert_eq!(maps.members.len(), fresh.members.len());
        prop_assert!(agent(&maps, last).plan().plan.is_empty());
    }
}
