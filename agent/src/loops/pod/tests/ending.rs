//! Pods end in order, and leave nothing.

use std::time::Duration;

use keelson_proto::cri::{PodSandboxConfig, PodSandboxMetadata, PodSandboxState};
use serde_json::json;
use tokio::time::Instant;

use super::bench::*;
use crate::doors::{
    cri::{ErrorKind, Output},
    volumes::Volumes,
};

fn nothing_left(node: &Node) {
    let inner = node.fake.lock();
    assert!(
        inner.sandboxes.is_empty() && inner.containers.is_empty(),
        "{:?}",
        inner.calls
    );
    let volumes = Volumes::new(&node.folder.path().join("root"), &node.folder.path().join("logs"));
    assert!(volumes.pods().is_empty());
    assert!(!volumes.log_directory("shop", "web", "u-1").exists());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_ended_and_leaves_nothing() {
    let node = Node::started("delete");
    let empty = json!([{ "name": "tmp", "emptyDir": {} }]);
    let pod = pod_with(json!({ "volumes": empty }), json!({}));
    node.apply(&pod);
    node.until("ready", Node::ready).await;
    node.delete(&pod, None);
    node.until("gone", |node| node.pod().is_none()).await;
    nothing_left(&node);
    let calls = node.fake.lock().calls.clone();
    let at = |name: &str| calls.iter().position(|call| call.starts_with(name)).expect(name);
    assert!(
        at("stop c") < at("stop_sandbox") && at("stop_sandbox") < at("remove_sandbox"),
        "{calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn it_is_stopped_only_after_its_traffic_has_left() {
    let node = Node::started("traffic");
    node.acknowledge(false);
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    node.delete(&pod(), None);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        node.fake.count("stop"),
        0,
        "nobody said yet that the dataplane took it out"
    );
    node.acknowledge(true);
    node.until("stopped", |node| node.fake.count("stop") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn while_services_are_not_programmed_the_end_waits_for_as_long_as_the_pod_may_take() {
    let node = Node::started("unprogrammed");
    node.acknowledge(false);
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    let start = Instant::now();
    node.delete(&pod(), Some(7));
    node.until("stopped", |node| node.fake.count("stop") == 1).await;
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_dataplane_that_works_and_does_not_answer_delays_the_end_by_two_seconds() {
    let node = Node::started("silent");
    node.acknowledge(false);
    node.health.set(crate::health::subsystem::SERVICES, Ok(()));
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    let start = Instant::now();
    node.delete(&pod(), None);
    node.until("stopped", |node| node.fake.count("stop") == 1).await;
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_hook_comes_first_and_counts_against_the_grace() {
    let node = Node::started("prestop");
    let hook = json!({ "preStop": { "sleep": { "seconds": 4 } } });
    let pod = pod_with(
        json!({ "terminationGracePeriodSeconds": 10 }),
        json!({ "lifecycle": hook }),
    );
    node.apply(&pod);
    node.until("ready", Node::ready).await;
    let start = Instant::now();
    node.delete(&pod, None);
    node.until("stopped", |node| node.fake.count("stop") == 1).await;
    assert_eq!(start.elapsed().as_secs(), 4);
    let calls = node.fake.lock().calls.clone();
    assert!(
        calls.iter().any(|call| call.ends_with("within 6 s")),
        "what is left of ten: {calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_hook_is_told_and_the_end_goes_on() {
    let node = Node::started("badhook");
    node.fake.lock().commands.insert(
        "bye".into(),
        Output {
            code: 3,
            text: "no".into(),
        },
    );
    let hook = json!({ "preStop": { "exec": { "command": ["bye"] } } });
    let pod = pod_with(json!({}), json!({ "lifecycle": hook }));
    node.apply(&pod);
    node.until("ready", Node::ready).await;
    node.delete(&pod, None);
    node.until("gone", |node| node.pod().is_none()).await;
    assert!(node.told("FailedPreStopHook"));
}

#[tokio::test(start_paused = true)]
async fn every_failure_on_the_way_out_is_made_up_for() {
    for operation in [
        "list",
        "stop",
        "stop_sandbox",
        "remove_sandbox",
        "container_status",
    ] {
        for (kind, done) in [
            (ErrorKind::Refused, false),
            (ErrorKind::Timeout, true),
            (ErrorKind::Unavailable, false),
        ] {
            let node = Node::started("out");
            node.apply(&pod());
            node.until("ready", Node::ready).await;
            node.settle().await;
            node.fake.fail(operation, kind, done);
            node.fake.fail(operation, kind, done);
            node.delete(&pod(), None);
            node.until(operation, |node| node.pod().is_none()).await;
            nothing_left(&node);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_is_removed_once_the_manifests_are_read() {
    let mut node = Node::new("orphan");
    node.world.update(|objects| objects.revisions.listed = 0);
    let sandbox = |uid: &str, labels: &[(&str, &str)]| PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "x".into(),
            uid: uid.into(),
            ..Default::default()
        }),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..PodSandboxConfig::default()
    };
    let ready = PodSandboxState::SandboxReady;
    let ours = sandbox("gone", &[("io.kubernetes.pod.uid", "gone")]);
    node.fake.lock().sandboxes.insert("s-ours".into(), (ours, ready));
    node.fake
        .lock()
        .sandboxes
        .insert("s-other".into(), (sandbox("", &[("somebody", "else")]), ready));
    node.start();
    node.settle().await;
    assert_eq!(
        node.fake.lock().sandboxes.len(),
        2,
        "not known yet what is asked for"
    );
    node.world.update(|objects| objects.revisions.listed = 1);
    node.until("removed", |node| node.fake.lock().sandboxes.len() == 1)
        .await;
    assert!(
        node.fake.lock().sandboxes.contains_key("s-other"),
        "what others made is theirs"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_left_the_world_without_a_word_is_removed() {
    let node = Node::started("vanished");
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    node.world.update(|objects| {
        objects.pods.clear();
        objects.revisions.pods += 1;
    });
    node.until("removed", |node| node.fake.lock().sandboxes.is_empty())
        .await;
    node.settle().await;
    nothing_left(&node);
}
