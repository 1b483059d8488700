//! From any maps to any Services, cut off at any step: the maps end right, and every moment between is whole.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::service::desired::BackendAddress;

fn apply(maps: &mut Observed, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::RemoveFrontend(key) => drop(maps.frontends.remove(&key)),
            Step::PutBackend(key, value) => drop(maps.backends.insert(key, value)),
            Step::PutFrontend(key, value) => drop(maps.frontends.insert(key, value)),
            Step::RemoveBackend(key) => drop(maps.backends.remove(&key)),
            Step::ForgetUdpFlows { .. } => {}
        }
    }
}

fn frontend_key(service: u8, proto: u8) -> FrontendKey {
    FrontendKey {
        addr: IpAddr::from([10, 96, 0, service]).into(),
        port_be: 80_u16.to_be(),
        proto,
        reserved: 0,
    }
}

fn backends(last: &[u8]) -> BTreeSet<BackendAddress> {
    last.iter()
        .map(|last| BackendAddress {
            address: IpAddr::from([10, 244, 0, *last]),
            port: 8080,
            node: false,
        })
        .collect()
}

fn group(service: u8, proto: u8, endpoints: &[u8]) -> Group {
    Group {
        name: format!("default/s{service}:port"),
        frontends: BTreeMap::from([(frontend_key(service, proto), 0)]),
        backends: backends(endpoints),
        affinity_seconds: 0,
    }
}

fn desired(groups: Vec<Group>) -> Desired {
    Desired {
        groups,
        guards: BTreeSet::new(),
    }
}

/// What a client of a frontend can be sent to; `None` = no such frontend.
fn reachable(maps: &Observed, key: &FrontendKey) -> Option<Vec<Option<Backend>>> {
    let frontend = maps.frontends.get(key)?;
    let slot = |slot: u32| {
        let key = BackendKey {
            service: frontend.service,
            revision: frontend.revision,
            block: slot / BACKEND_BLOCK,
        };
        let block = maps.backends.get(&key)?;
        Some(block.slots[(slot % BACKEND_BLOCK) as usize])
    };
    Some((0..frontend.count).map(slot).collect())
}

fn holds(maps: &Observed, desired: &Desired) {
    for group in &desired.groups {
        for key in group.frontends.keys() {
            let mut got = reachable(maps, key).expect("frontend");
            let mut want: Vec<_> = group
                .backends
                .iter()
                .map(|backend| Some(Backend::from(*backend)))
                .collect();
            let order = |backend: &Option<Backend>| backend.map(|b| (b.addr, b.port_be));
            got.sort_by_key(order);
            want.sort_by_key(order);
            assert_eq!(got, want, "{}", group.name);
        }
    }
    let keys: usize = desired.groups.iter().map(|group| group.frontends.len()).sum();
    assert_eq!(maps.frontends.len(), keys + desired.guards.len());
    let block = BACKEND_BLOCK as usize;
    let blocks = desired
        .groups
        .iter()
        .map(|group| group.backends.len().div_ceil(block));
    assert_eq!(
        maps.backends.len(),
        blocks.sum::<usize>(),
        "no slot is left behind"
    );
}

#[test]
fn a_settled_state_gives_an_empty_plan() {
    let desired = Desired {
        guards: BTreeSet::from([IpAddr::from([10, 96, 0, 1])]),
        ..desired(vec![group(1, 6, &[1, 2])])
    };
    let mut maps = Observed::default();
    let steps = plan(&desired, &maps, 1);
    apply(&mut maps, &steps);
    holds(&maps, &desired);
    assert_eq!(plan(&desired, &maps, 1), []);
}

#[test]
fn an_endpoint_that_joins_leaves_the_generation_alone() {
    let mut maps = Observed::default();
    let first = plan(&desired(vec![group(1, 17, &[1])]), &maps, 1);
    apply(&mut maps, &first);
    let before = maps.frontends[&frontend_key(1, 17)];
    let second = plan(&desired(vec![group(1, 17, &[1, 2])]), &maps, 1);
    apply(&mut maps, &second);
    let after = maps.frontends[&frontend_key(1, 17)];
    assert_eq!(
        (after.service, after.generation),
        (before.service, before.generation)
    );
    assert!(
        !second
            .iter()
            .any(|step| matches!(step, Step::ForgetUdpFlows { .. }))
    );
}

#[test]
fn an_endpoint_that_leaves_moves_the_generation_and_forgets_udp_flows_last() {
    let mut maps = Observed::default();
    let first = plan(&desired(vec![group(1, 17, &[1, 2])]), &maps, 1);
    apply(&mut maps, &first);
    let before = maps.frontends[&frontend_key(1, 17)];
    let second = plan(&desired(vec![group(1, 17, &[2])]), &maps, 1);
    apply(&mut maps, &second);
    let after = maps.frontends[&frontend_key(1, 17)];
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(
        second.last(),
        Some(&Step::ForgetUdpFlows {
            service: before.service
        })
    );
}

#[test]
fn a_new_service_never_gets_the_id_of_one_still_in_the_maps() {
    let mut maps = Observed::default();
    let first = plan(&desired(vec![group(1, 6, &[1])]), &maps, 1);
    apply(&mut maps, &first);
    let old = maps.frontends[&frontend_key(1, 6)].service;
    let second = plan(&desired(vec![group(2, 6, &[1])]), &maps, 1);
    apply(&mut maps, &second);
    assert_ne!(maps.frontends[&frontend_key(2, 6)].service, old);
}

#[test]
fn a_flag_alone_rewrites_the_frontend_without_new_slots() {
    let mut maps = Observed::default();
    let first = plan(&desired(vec![group(1, 6, &[1])]), &maps, 1);
    apply(&mut maps, &first);
    let mut sticky = group(1, 6, &[1]);
    sticky.affinity_seconds = 60;
    let second = plan(&desired(vec![sticky]), &maps, 1);
    assert!(matches!(second[..], [Step::PutFrontend(..)]), "{second:?}");
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let endpoints = proptest::collection::btree_set(1_u8..6, 0..4);
    let service = (
        1_u8..5,
        prop_oneof![Just(6_u8), Just(17)],
        endpoints,
        any::<bool>(),
    );
    proptest::collection::vec(service, 0..5).prop_map(|services| {
        let unique: BTreeMap<(u8, u8), _> = services
            .into_iter()
            .map(|(id, proto, e, guard)| ((id, proto), (e, guard)))
            .collect();
        let guards = unique
            .iter()
            .filter(|(_, (_, guard))| *guard)
            .map(|((id, _), _)| IpAddr::from([10, 96, 0, *id]))
            .collect();
        let groups = unique
            .iter()
            .map(|((id, proto), (endpoints, _))| {
                group(*id, *proto, &endpoints.iter().copied().collect::<Vec<_>>())
            })
            .collect();
        Desired { groups, guards }
    })
}

proptest! {
    #[test]
    fn any_state_reaches_any_other_even_when_cut_off(states in proptest::collection::vec((any_desired(), 0_usize..12), 1..5)) {
        let mut maps = Observed::default();
        for (desired, cut) in &states {
            let steps = plan(desired, &maps, 1);
            apply(&mut maps, &steps[..(*cut).min(steps.len())]);
        }
        let last = &states[states.len() - 1].0;
        let steps = plan(last, &maps, 1);
        apply(&mut maps, &steps);
        holds(&maps, last);
        prop_assert_eq!(plan(last, &maps, 1), vec![]);
    }

    #[test]
    fn at_every_step_each_frontend_has_all_of_its_slots(first in any_desired(), second in any_desired()) {
        let mut maps = Observed::default();
        let steps = plan(&first, &maps, 1);
        apply(&mut maps, &steps);
        for step in plan(&second, &maps, 1) {
            apply(&mut maps, &[step]);
            for key in maps.frontends.keys() {
                let slots = reachable(&maps, key).expect("frontend");
                prop_assert!(slots.iter().all(Option::is_some), "after {:?}: {:?} has a hole", step, key);
            }
        }
    }

    #[test]
    fn the_order_of_services_means_nothing(desired in any_desired()) {
        let mut reversed = desired.clone();
        reversed.groups.reverse();
        let mut maps = Observed::default();
        let steps = plan(&desired, &maps, 1);
        apply(&mut maps, &steps);
        prop_assert_eq!(plan(&reversed, &maps, 1), vec![]);
    }
}
