//! From what runs to what shall run.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::{good, pod, service, with};
use crate::manifest::{
    object::Object,
    plan::{PodStep, Running, RunningSet, advance, keep_allocated, pod_step, renew, with_allocations},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn next(running: &RunningSet, value: Value, second: i64) -> RunningSet {
    advance(running, [good(value)], at(second), || format!("u{second}"))
}

fn only(set: &RunningSet) -> Running {
    assert_eq!(set.len(), 1);
    set.values().next().expect("one").clone()
}

fn in_world(running: &Running) -> Pod {
    let Object::Pod(pod) = &running.object else {
        panic!("a pod")
    };
    let status = Some(PodStatus {
        phase: Some("Running".to_owned()),
        ..PodStatus::default()
    });
    Pod {
        status,
        ..pod.clone()
    }
}

#[test]
fn an_unchanged_object_keeps_everything() {
    let first = next(&RunningSet::new(), service(), 1);
    let second = next(&first, service(), 2);
    assert_eq!(first, second);
    let metadata = only(&second).object.metadata().clone();
    assert_eq!(
        (metadata.uid.as_deref(), metadata.generation),
        (Some("u1"), Some(1))
    );
}

#[test]
fn a_changed_object_keeps_uid_and_birth_and_counts_generations() {
    let first = next(&RunningSet::new(), service(), 1);
    let second = next(&first, with(service(), "/spec/ports/0/port", json!(81)), 2);
    let third = next(
        &second,
        with(
            with(service(), "/spec/ports/0/port", json!(81)),
            "/metadata/labels",
            json!({"a": "b"}),
        ),
        3,
    );
    let all = [&first, &second, &third].map(|set| only(set).object.metadata().clone());
    assert_eq!(
        all.each_ref().map(|metadata| metadata.generation),
        [Some(1), Some(2), Some(2)]
    );
    assert_eq!(
        all.each_ref()
            .map(|metadata| metadata.resource_version.as_deref()),
        [Some("1"), Some("2"), Some("3")]
    );
    assert!(all.iter().all(|metadata| metadata.uid.as_deref() == Some("u1")));
    assert!(
        all.iter()
            .all(|metadata| metadata.creation_timestamp == all[0].creation_timestamp)
    );
}

#[test]
fn an_object_that_went_and_came_back_is_a_new_one() {
    let first = next(&RunningSet::new(), service(), 1);
    let gone = advance(&first, [], at(2), || unreachable!("nothing is made"));
    assert_eq!(
        only(&next(&gone, service(), 3)).object.metadata().uid.as_deref(),
        Some("u3")
    );
}

#[test]
fn a_new_image_changes_the_pod_in_place_anything_else_replaces_it() {
    let mut first = only(&next(&RunningSet::new(), pod(), 1));
    first.placed = true;
    let set = RunningSet::from([(first.object.id(), first.clone())]);
    for (pointer, value, same) in [
        ("/spec/containers/0/image", json!("other:2"), true),
        ("/metadata/labels", json!({"a": "b"}), true),
        ("/spec/activeDeadlineSeconds", json!(60), true),
        ("/spec/containers/0/command", json!(["sh"]), false),
        ("/spec/containers/0/name", json!("d"), false),
        ("/spec/terminationGracePeriodSeconds", json!(5), false),
        (
            "/spec/initContainers",
            json!([{"name": "i", "image": "x"}]),
            false,
        ),
    ] {
        let second = only(&next(&set, with(pod(), pointer, value), 2));
        let uid = second.object.metadata().uid.as_deref();
        assert_eq!(
            (uid, second.placed),
            if same {
                (Some("u1"), true)
            } else {
                (Some("u2"), false)
            },
            "{pointer}"
        );
        let step = pod_step(&second, Some(&in_world(&first)));
        if same {
            let PodStep::Change(changed) = step else {
                panic!("{pointer}: {step:?}")
            };
            assert_eq!(changed.status, in_world(&first).status, "the status stays");
            assert_eq!(
                pod_step(&second, Some(&changed)),
                PodStep::Wait,
                "and then there is nothing to do"
            );
        } else {
            assert_eq!(step, PodStep::End("u1".to_owned()), "{pointer}");
        }
    }
}

#[test]
fn a_pod_is_made_only_after_the_other_of_its_name_is_gone() {
    let wanted = only(&next(&RunningSet::new(), pod(), 1));
    assert_eq!(pod_step(&wanted, None), PodStep::Create);
    let mut other = in_world(&wanted);
    other.metadata.uid = Some("u0".to_owned());
    assert_eq!(pod_step(&wanted, Some(&other)), PodStep::End("u0".to_owned()));
    other.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(5)));
    assert_eq!(pod_step(&wanted, Some(&other)), PodStep::Wait);
    let mut owned = in_world(&wanted);
    owned.metadata.uid = Some("u0".to_owned());
    owned.metadata.owner_references = Some(vec![Default::default()]);
    assert_eq!(
        pod_step(&wanted, Some(&owned)),
        PodStep::Wait,
        "a Deployment's pod is not ended"
    );
}

#[test]
fn a_pod_that_somebody_ended_comes_again_as_another() {
    let mut wanted = only(&next(&RunningSet::new(), pod(), 1));
    wanted.placed = true;
    let mut there = in_world(&wanted);
    assert_eq!(pod_step(&wanted, Some(&there)), PodStep::Wait);
    there.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(5)));
    assert_eq!(pod_step(&wanted, Some(&there)), PodStep::Wait);
    assert_eq!(pod_step(&wanted, None), PodStep::Renew);
    renew(&mut wanted, at(6), "u6".to_owned());
    assert_eq!(pod_step(&wanted, None), PodStep::Create);
    assert_eq!(wanted.object.metadata().uid.as_deref(), Some("u6"));
}

#[test]
fn what_the_node_allocated_stays_where_the_manifest_leaves_it_open() {
    let make = |ports: Value, kind: &str| {
        let value = with(with(service(), "/spec/ports", ports), "/spec/type", json!(kind));
        let Object::Service(mut service) = good(value) else {
            panic!("a service")
        };
        service.metadata.uid = Some("u1".to_owned());
        service
    };
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    let mut there = make(ports, "NodePort");
    let spec = there.spec.as_mut().expect("spec");
    spec.cluster_ip = Some("10.96.0.7".to_owned());
    for (port, number) in spec.ports.iter_mut().flatten().zip([30001, 30002]) {
        port.node_port = Some(number);
    }
    // Renumbered, renamed, new, and one that now asks for a port that the other had.
    let wanted = make(
        json!([{"name": "a", "port": 90}, {"name": "c", "port": 81}, {"name": "d", "port": 82}]),
        "NodePort",
    );
    let merged = with_allocations(&wanted, Some(&there)).spec.expect("spec");
    assert_eq!(merged.cluster_ip.as_deref(), Some("10.96.0.7"));
    let numbers = |spec: &k8s_openapi::api::core::v1::ServiceSpec| {
        spec.ports
            .iter()
            .flatten()
            .map(|port| port.node_port)
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(&merged), [Some(30001), Some(30002), None]);
    let wanted = make(
        json!([{"name": "a", "port": 80, "nodePort": 30002}, {"name": "b", "port": 81}]),
        "NodePort",
    );
    let merged = with_allocations(&wanted, Some(&there)).spec.expect("spec");
    assert_eq!(
        numbers(&merged),
        [Some(30002), None],
        "one node port is not given twice"
    );
    let plain = make(json!([{"name": "a", "port": 80}]), "ClusterIP");
    let merged = with_allocations(&plain, Some(&there)).spec.expect("spec");
    assert_eq!(
        (merged.cluster_ip.as_deref(), numbers(&merged)),
        (Some("10.96.0.7"), vec![None])
    );
    // Another Service of the same name inherits nothing.
    let mut other = plain.clone();
    other.metadata.uid = Some("u2".to_owned());
    assert_eq!(
        with_allocations(&other, Some(&there))
            .spec
            .expect("spec")
            .cluster_ip,
        None
    );
    let mut again = merged.clone();
    keep_allocated(&mut again, &merged);
    assert_eq!(again, merged);
}

#[test]
fn what_was_stored_is_the_same_as_what_runs() {
    let now = Timestamp::from_nanosecond(1_700_000_000_123_456_789).expect("a time");
    let running = advance(&RunningSet::new(), [good(pod()), good(service())], now, || {
        "u1".to_owned()
    });
    for one in running.values() {
        let value = one.object.to_value().expect("serialises");
        let text = value.to_string();
        let read = serde_json::from_str(&text).expect("parses");
        assert_eq!(Object::from_value(read).expect("reads"), one.object);
    }
}
