//! Failures of the runtime and of the agent itself cost time, and nothing else.

use keelson_proto::cri::ContainerState;
use serde_json::json;

use super::bench::*;
use crate::{
    doors::{containerd::Event, cri::ErrorKind},
    health::subsystem,
};

#[tokio::test(start_paused = true)]
async fn every_failure_on_the_way_up_is_made_up_for() {
    for operation in [
        "list",
        "image",
        "run_sandbox",
        "sandbox_status",
        "create",
        "start",
        "container_status",
        "status",
    ] {
        for (kind, done) in [
            (ErrorKind::Refused, false),
            (ErrorKind::Refused, true),
            (ErrorKind::Timeout, true),
            (ErrorKind::Unavailable, false),
            (ErrorKind::Unavailable, true),
        ] {
            let mut node = Node::new("up");
            node.fake.fail(operation, kind, done);
            node.fake.fail(operation, kind, done);
            node.start();
            node.apply(&pod());
            node.until(&format!("{operation} {kind:?} {done}"), Node::ready)
                .await;
            node.settle().await;
            let inner = node.fake.lock();
            assert_eq!(
                inner.sandboxes.len(),
                1,
                "{operation} {kind:?} {done}: {:?}",
                inner.calls
            );
            let pulled = inner.calls.iter().any(|call| call.starts_with("pull"));
            assert!(
                !pulled,
                "{operation}: what is there is not fetched: {:?}",
                inner.calls
            );
            let running = inner
                .containers
                .values()
                .filter(|one| one.state == ContainerState::ContainerRunning);
            assert_eq!(
                running.count(),
                1,
                "{operation} {kind:?} {done}: {:?}",
                inner.calls
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_agent_that_returns_changes_nothing_and_says_the_same() {
    let mut node = Node::started("return");
    let probe = json!({ "httpGet": { "port": 80 }, "periodSeconds": 5, "initialDelaySeconds": 3 });
    node.apply(&pod_with(json!({}), json!({ "readinessProbe": probe })));
    node.until("ready", Node::ready).await;
    node.settle().await;
    node.kill().await;
    // The world is made anew from manifests: without statuses.
    node.world.update(|objects| {
        let mut fresh = (**objects.pods.values().next().expect("a pod")).clone();
        fresh.status = None;
        objects.put_pod(fresh);
    });
    node.fake.lock().calls.clear();
    node.start();
    node.until("a status", |node| !node.phase().is_empty()).await;
    assert!(node.ready(), "ready from the first word on");
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    assert!(node.ready());
    assert_eq!(node.status().restart_count, 0);
    for operation in [
        "run_sandbox",
        "create",
        "start",
        "stop",
        "remove",
        "stop_sandbox",
        "remove_sandbox",
    ] {
        assert_eq!(node.fake.count(operation), 0, "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_killed_between_any_two_calls_finds_its_way() {
    for calls in 1..12 {
        let mut node = Node::started("between");
        node.apply(&pod());
        node.until("some calls", |node| node.fake.lock().calls.len() >= calls)
            .await;
        node.kill().await;
        node.start();
        node.until("ready", Node::ready).await;
        node.settle().await;
        let inner = node.fake.lock();
        assert_eq!(
            (inner.sandboxes.len(), inner.containers.len()),
            (1, 1),
            "{:?}",
            inner.calls
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_gone_is_told_and_waited_for() {
    let node = Node::started("outage");
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    let id = node.running();
    node.fake.lock().down = true;
    let events = node.events.clone().expect("events");
    events
        .send(Event::Lost("connection refused".into()))
        .await
        .expect("the loop listens");
    let health = node.health.watch();
    let state = || health.borrow().get(subsystem::RUNTIME).cloned();
    node.until(
        "told",
        |_| matches!(state(), Some(Err(why)) if why.contains("connection refused")),
    )
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    assert!(node.ready(), "containers run without it");
    // One ended meanwhile; nobody told.
    node.fake.lock().down = false;
    node.fake.lock().events = None;
    node.fake.exit(&id, 1);
    events.send(Event::Resumed).await.expect("the loop listens");
    node.until("told", |_| matches!(state(), Some(Ok(())))).await;
    node.until("restarted", |node| {
        node.ready() && node.status().restart_count == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_is_made_up_for_by_the_next_list() {
    let node = Node::started("lost");
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    node.fake.lock().events = None;
    node.fake.exit(&node.running(), 1);
    node.until("restarted", |node| node.status().restart_count == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_died_is_replaced_with_all_in_it() {
    let node = Node::started("sandbox");
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    let id = node
        .fake
        .lock()
        .sandboxes
        .keys()
        .next()
        .cloned()
        .expect("a sandbox");
    let container = node.running();
    {
        let mut inner = node.fake.lock();
        let (_, state) = inner.sandboxes.get_mut(&id).expect("it");
        *state = keelson_proto::cri::PodSandboxState::SandboxNotready;
    }
    node.fake.exit(&container, 137);
    node.until("replaced", |node| {
        node.ready() && node.fake.count("run_sandbox") == 2
    })
    .await;
    assert!(node.told("SandboxChanged"));
    assert_eq!(node.status().restart_count, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_a_pod_before_the_nodes_address_was_looked_for() {
    let mut node = Node::new("address");
    node.health = std::sync::Arc::default();
    node.start();
    node.apply(&pod());
    node.until("its container runs", |node| node.fake.count("start") == 1)
        .await;
    node.settle().await;
    assert_eq!(
        node.phase(),
        "",
        "a status without the address would change a moment later"
    );
    node.health.set(subsystem::NETWORK, Err("no uplink".to_owned()));
    node.until("a status, if there is no address", |node| {
        node.phase() == "Running"
    })
    .await;
}
