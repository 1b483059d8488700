//! Files together.

use std::{path::PathBuf, sync::Arc};

use proptest::prelude::*;
use serde_json::json;

use super::{good, pod, service, with};
use crate::{
    manifest::{
        merge::{Accepted, Allocated, Merged, Readings, claims, merge},
        object::Object,
    },
    object::Key,
};

fn named(name: &str) -> Object {
    good(with(pod(), "/metadata/name", json!(name)))
}

fn node_port(name: &str, port: i32) -> Object {
    let value = with(
        with(service(), "/metadata/name", json!(name)),
        "/spec/type",
        json!("NodePort"),
    );
    good(with(value, "/spec/ports/0/nodePort", json!(port)))
}

fn readings<const N: usize>(files: [(&str, Result<Vec<Object>, &str>); N]) -> Readings {
    files
        .into_iter()
        .map(|(path, reading)| (path.into(), reading.map_err(|error| vec![error.to_owned()])))
        .collect()
}

fn after(readings: &Readings, before: &Merged) -> Merged {
    merge(readings, &before.accepted, &Allocated::new())
}

fn of<'a>(merged: &'a Merged, path: &str) -> &'a [Object] {
    merged
        .accepted
        .get(&PathBuf::from(path))
        .map_or(&[], Vec::as_slice)
}

fn problem(merged: &Merged, path: &str) -> String {
    merged
        .problems
        .get(&PathBuf::from(path))
        .map(|all| all.join("\n"))
        .unwrap_or_default()
}

#[test]
fn a_bad_file_keeps_its_last_good_state_and_others_go_on() {
    let first = after(
        &readings([("a", Ok(vec![named("x")])), ("b", Ok(vec![named("y")]))]),
        &Merged::default(),
    );
    let second = after(
        &readings([("a", Err("line 3: broken")), ("b", Ok(vec![named("z")]))]),
        &first,
    );
    assert_eq!(of(&second, "a"), [named("x")]);
    assert_eq!(of(&second, "b"), [named("z")]);
    assert_eq!(problem(&second, "a"), "line 3: broken");
    assert_eq!(problem(&second, "b"), "");
}

#[test]
fn a_file_that_is_gone_takes_its_objects_along_even_if_it_was_bad() {
    let first = after(&readings([("a", Ok(vec![named("x")]))]), &Merged::default());
    let bad = after(&readings([("a", Err("broken"))]), &first);
    assert_eq!(after(&readings([]), &bad), Merged::default());
}

#[test]
fn an_object_in_two_files_stays_with_the_first_and_both_are_named() {
    let first = after(&readings([("b", Ok(vec![named("x")]))]), &Merged::default());
    let now = readings([
        ("a", Ok(vec![named("x"), named("y")])),
        ("b", Ok(vec![named("x")])),
    ]);
    let second = after(&now, &first);
    assert!(of(&second, "a").is_empty(), "a file is taken as a whole");
    assert_eq!(of(&second, "b"), [named("x")]);
    let text = problem(&second, "a");
    assert!(
        text.contains("Pod default/x is defined in b already; a is refused"),
        "{text}"
    );
    let healed = after(&readings([("a", Ok(vec![named("x"), named("y")]))]), &second);
    assert_eq!(of(&healed, "a").len(), 2);
    assert!(healed.problems.is_empty());
}

#[test]
fn a_node_port_of_two_services_stays_with_the_first_and_both_are_named() {
    let first = after(
        &readings([("b", Ok(vec![node_port("one", 30080)]))]),
        &Merged::default(),
    );
    let now = readings([
        ("a", Ok(vec![node_port("two", 30080)])),
        ("b", Ok(vec![node_port("one", 30080)])),
    ]);
    let second = after(&now, &first);
    assert_eq!((of(&second, "a").len(), of(&second, "b").len()), (0, 1));
    let text = problem(&second, "a");
    assert!(
        text.contains("nodePort 30080/TCP of Service default/two belongs to Service default/one in b"),
        "{text}"
    );
    let within = after(
        &readings([("c", Ok(vec![node_port("one", 30080), node_port("two", 30080)]))]),
        &Merged::default(),
    );
    assert!(problem(&within, "c").contains("of this file"), "{within:?}");
}

#[test]
fn a_node_port_given_by_the_node_is_not_taken_away() {
    let open = good(with(
        with(service(), "/metadata/name", json!("one")),
        "/spec/type",
        json!("NodePort"),
    ));
    let Object::Service(given) = node_port("one", 30080) else {
        panic!("a service")
    };
    let allocated = Allocated::from([(Key::new("default", "one"), Arc::new(given))]);
    let now = readings([
        ("a", Ok(vec![node_port("two", 30080)])),
        ("b", Ok(vec![open.clone()])),
    ]);
    let last = Accepted::from([("b".into(), vec![open])]);
    let merged = merge(&now, &last, &allocated);
    assert!(
        problem(&merged, "a").contains("belongs to Service default/one in b"),
        "{merged:?}"
    );
    // Once it is no longer of that type, the port is free although it is still written in the running Service.
    let plain = good(with(service(), "/metadata/name", json!("one")));
    let now = readings([("a", Ok(vec![node_port("two", 30080)])), ("b", Ok(vec![plain]))]);
    assert!(merge(&now, &last, &allocated).problems.is_empty());
}

#[test]
fn objects_may_move_between_files_in_one_step() {
    let first = after(
        &readings([("a", Ok(vec![named("x")])), ("b", Ok(vec![named("y")]))]),
        &Merged::default(),
    );
    let second = after(
        &readings([("a", Ok(vec![named("y")])), ("b", Ok(vec![named("x")]))]),
        &first,
    );
    assert!(second.problems.is_empty(), "{second:?}");
    assert_eq!(
        (of(&second, "a"), of(&second, "b")),
        (&[named("y")][..], &[named("x")][..])
    );
}

#[test]
fn a_file_put_back_takes_what_it_had_from_who_took_it_meanwhile() {
    // b gives y up, c takes it; but b is refused for another reason and goes on with y, so c must wait.
    let first = after(
        &readings([("a", Ok(vec![named("x")])), ("b", Ok(vec![named("y")]))]),
        &Merged::default(),
    );
    let now = readings([
        ("a", Ok(vec![named("x")])),
        ("b", Ok(vec![named("x")])),
        ("c", Ok(vec![named("y")])),
    ]);
    let second = after(&now, &first);
    assert_eq!((of(&second, "b"), of(&second, "c").len()), (&[named("y")][..], 0));
    assert!(
        problem(&second, "c").contains("Pod default/y is defined in b"),
        "{second:?}"
    );
}

proptest! {
    #[test]
    fn nothing_that_runs_contradicts_and_every_file_that_is_refused_says_why(
        rounds in prop::collection::vec(
            prop::collection::btree_map(0..4_u8, prop::option::weighted(0.8, prop::collection::vec((0..4_u8, 0..3_i32), 0..3)), 0..4),
            1..6,
        )
    ) {
        let mut state = Merged::default();
        for round in rounds {
            let now: Readings = round
                .into_iter()
                .map(|(file, objects)| {
                    let objects = objects.map(|all| {
                        all.into_iter().map(|(name, port)| node_port(&format!("s{name}"), 30000 + port)).collect()
                    });
                    (PathBuf::from(format!("f{file}")), objects.ok_or_else(|| vec!["broken".to_owned()]))
                })
                .collect();
            let next = merge(&now, &state.accepted, &Allocated::new());
            let mut seen = std::collections::BTreeSet::new();
            for (path, objects) in &next.accepted {
                prop_assert!(now.contains_key(path));
                for claim in objects.iter().flat_map(|object| claims(object, &Allocated::new())) {
                    prop_assert!(seen.insert(claim.clone()), "{claim} twice in {next:?}");
                }
            }
            for (path, reading) in &now {
                let runs = next.accepted.get(path).cloned().unwrap_or_default();
                if next.problems.contains_key(path) {
                    prop_assert_eq!(runs, state.accepted.get(path).cloned().unwrap_or_default());
                } else {
                    prop_assert_eq!(&Ok(runs), reading);
                }
            }
            // Reading the same again changes nothing.
            prop_assert_eq!(&merge(&now, &next.accepted, &Allocated::new()), &next);
            state = next;
        }
    }
}
