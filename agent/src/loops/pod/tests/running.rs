//! Pods come up, stay up, and say so.

use std::sync::{Arc, atomic::Ordering};

use k8s_openapi::api::core::v1::ConfigMap;
use keelson_core::object::Key;
use serde_json::json;

use super::bench::*;
use crate::loops::pod::images::Report;

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_world_runs_and_is_ready() {
    let node = Node::started("runs");
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    assert_eq!(node.phase(), "Running");
    let status = node.pod().expect("pod").status.clone().expect("status");
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.9"));
    for reason in ["Created", "Started"] {
        assert!(node.told(reason), "{reason}");
    }
    node.settle().await;
    // The bare three calls, and little else: looking on the way costs time.
    let calls = node.fake.lock().calls.clone();
    for operation in ["run_sandbox", "create", "start"] {
        assert_eq!(node.fake.count(operation), 1, "{calls:?}");
    }
    assert!(node.fake.count("list") <= 3, "{calls:?}");
    assert!(calls.len() <= 14, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_runtime_is_told_what_every_kubernetes_node_tells_it() {
    let node = Node::started("told");
    node.apply(&pod_with(
        json!({}),
        json!({ "env": [{ "name": "A", "value": "1" }] }),
    ));
    node.until("ready", Node::ready).await;
    let inner = node.fake.lock();
    let (sandbox, _) = inner.sandboxes.values().next().expect("a sandbox");
    assert_eq!(sandbox.labels["io.kubernetes.pod.uid"], "u-1");
    assert_eq!(
        sandbox.linux.as_ref().expect("linux").cgroup_parent,
        "/kubepods/besteffort/podu-1"
    );
    assert!(
        sandbox.log_directory.ends_with("logs/shop_web_u-1"),
        "{}",
        sandbox.log_directory
    );
    let container = &inner.containers.values().next().expect("a container").config;
    assert_eq!(container.labels["io.kubernetes.container.name"], "main");
    assert_eq!(container.annotations["io.kubernetes.container.restartCount"], "0");
    assert_eq!(container.log_path, "main/0.log");
    assert!(
        container
            .envs
            .iter()
            .any(|env| env.key == "A" && env.value == "1")
    );
    let mounts: Vec<_> = container
        .mounts
        .iter()
        .map(|mount| mount.container_path.as_str())
        .collect();
    assert_eq!(mounts, ["/dev/termination-log", "/etc/hosts"]);
    let hosts = container
        .mounts
        .iter()
        .find(|mount| mount.container_path == "/etc/hosts")
        .expect("hosts");
    assert!(
        std::fs::read_to_string(&hosts.host_path)
            .expect("hosts file")
            .contains("10.244.0.9\tweb")
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_restarted_at_once_and_then_ever_later() {
    let node = Node::started("restart");
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    node.fake.exit(&node.running(), 1);
    node.until("restarted", |node| {
        node.status().restart_count == 1 && node.ready()
    })
    .await;
    let before = tokio::time::Instant::now();
    node.fake.exit(&node.running(), 1);
    node.until("waits", |node| node.waiting() == "CrashLoopBackOff")
        .await;
    assert_eq!(node.phase(), "Running");
    node.until("restarted again", |node| {
        node.status().restart_count == 2 && node.ready()
    })
    .await;
    assert_eq!(before.elapsed().as_secs(), 10);
    // One dead container is kept for its log and its last state.
    node.settle().await;
    assert!(
        node.status()
            .last_state
            .is_some_and(|state| state.terminated.is_some())
    );
    assert_eq!(node.fake.lock().containers.len(), 3 - 1);
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_probe() {
    let node = Node::started("readiness");
    let probe = json!({ "httpGet": { "port": 80 }, "periodSeconds": 1, "failureThreshold": 2 });
    node.apply(&pod_with(json!({}), json!({ "readinessProbe": probe })));
    node.until("ready", Node::ready).await;
    node.healthy.0.store(false, Ordering::SeqCst);
    node.until("unready", |node| !node.ready()).await;
    assert!(node.told("Unhealthy"));
    node.healthy.0.store(true, Ordering::SeqCst);
    node.until("ready again", Node::ready).await;
    assert_eq!(node.status().restart_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_liveness_probe_restarts_the_container() {
    let node = Node::started("liveness");
    let probe = json!({ "tcpSocket": { "port": 80 }, "periodSeconds": 1, "failureThreshold": 2 });
    node.apply(&pod_with(json!({}), json!({ "livenessProbe": probe })));
    node.until("ready", Node::ready).await;
    node.healthy.0.store(false, Ordering::SeqCst);
    node.until("killed", |node| node.fake.count("stop") == 1).await;
    node.healthy.0.store(true, Ordering::SeqCst);
    node.until("restarted", |node| {
        node.status().restart_count == 1 && node.ready()
    })
    .await;
    assert!(node.told("Killing"));
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_the_other_before_the_rest() {
    let node = Node::started("init");
    let init = |name: &str| json!({ "name": name, "image": IMAGE });
    node.apply(&pod_with(
        json!({ "initContainers": [init("one"), init("two")] }),
        json!({}),
    ));
    for name in ["one", "two"] {
        node.until(name, |node| node.fake.running(name).len() == 1).await;
        assert_eq!(
            node.fake
                .lock()
                .containers
                .values()
                .filter(|one| one.state as i32 == 1)
                .count(),
            1
        );
        assert_eq!(node.waiting(), "PodInitializing");
        node.fake.exit(&node.fake.running(name)[0].clone(), 0);
    }
    node.until("ready", Node::ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_work_is_done_ends_and_stays_ended() {
    let mut node = Node::started("done");
    node.apply(&pod_with(json!({ "restartPolicy": "OnFailure" }), json!({})));
    node.until("running", |node| node.fake.running("main").len() == 1)
        .await;
    node.fake.exit(&node.running(), 0);
    node.until("succeeded", |node| node.phase() == "Succeeded").await;
    node.settle().await;
    let said = node.pod().expect("pod").status.clone();
    node.kill().await;
    // Even if the runtime forgets all about it, and the status goes with the world: it was kept.
    node.fake.lock().containers.clear();
    node.fake.lock().sandboxes.clear();
    node.forget();
    node.start();
    node.apply(&pod_with(json!({ "restartPolicy": "OnFailure" }), json!({})));
    node.until("told again", |node| node.phase() == "Succeeded").await;
    node.settle().await;
    assert_eq!(node.fake.count("run_sandbox"), 1);
    let now = node.pod().expect("pod").status.clone();
    let ends = |status: Option<k8s_openapi::api::core::v1::PodStatus>| {
        status.map(|status| (status.start_time, status.container_statuses))
    };
    assert_eq!(ends(now), ends(said));
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_waited_for_and_named() {
    let node = Node::started("missing");
    let from = json!({ "configMapKeyRef": { "name": "settings", "key": "level" } });
    node.apply(&pod_with(
        json!({}),
        json!({ "env": [{ "name": "LEVEL", "valueFrom": from }] }),
    ));
    node.until("config error", |node| {
        node.waiting() == "CreateContainerConfigError"
    })
    .await;
    assert!(node.told("Failed"));
    let map: ConfigMap = serde_json::from_value(json!({ "data": { "level": "7" } })).expect("a map");
    node.world.update(|objects| {
        objects
            .config_maps
            .insert(Key::new("shop", "settings"), Arc::new(map));
        objects.revisions.config_maps += 1;
    });
    node.until("ready", Node::ready).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_comes_later_is_used_at_once() {
    let node = Node::started("image");
    node.fake.lock().images.clear();
    node.apply(&pod());
    node.until("back-off", |node| node.waiting() == "ImagePullBackOff")
        .await;
    let waits = tokio::time::Instant::now();
    node.fake.lock().images.push(IMAGE.into());
    let report = Report::Imported {
        image: IMAGE.into(),
        from: "web.tar".into(),
    };
    node.reports
        .as_ref()
        .expect("reports")
        .send(report)
        .await
        .expect("the loop listens");
    node.until("ready", Node::ready).await;
    assert!(waits.elapsed().as_secs() < 1, "{:?}", waits.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_replaces_the_container() {
    let node = Node::started("change");
    node.fake.lock().images.push("web:2".into());
    node.apply(&pod());
    node.until("ready", Node::ready).await;
    let first = node.running();
    node.world.update(|objects| {
        let mut changed = (**objects.pods.values().next().expect("a pod")).clone();
        changed.spec.as_mut().expect("spec").containers[0].image = Some("web:2".into());
        objects.put_pod(changed);
    });
    node.until("replaced", |node| {
        node.ready() && node.status().restart_count == 1
    })
    .await;
    assert_ne!(node.running(), first);
    assert_eq!(node.fake.count("run_sandbox"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_post_start_hook_ends_the_container() {
    let node = Node::started("hook");
    node.healthy.0.store(false, Ordering::SeqCst);
    let hook = json!({ "postStart": { "httpGet": { "port": 80 } } });
    node.apply(&pod_with(json!({}), json!({ "lifecycle": hook })));
    node.until("ended", |node| node.fake.count("stop") >= 1).await;
    assert!(node.told("FailedPostStartHook"));
    node.healthy.0.store(true, Ordering::SeqCst);
    node.until("restarted", |node| {
        node.ready() && node.status().restart_count >= 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_says_what_it_said_before() {
    let mut node = Node::started("again");
    let probe = json!({ "readinessProbe": { "httpGet": { "port": 80 } } });
    node.apply(&pod_with(json!({}), probe.clone()));
    node.until("ready", Node::ready).await;
    node.settle().await;
    let said = node.pod().expect("pod").status.clone();
    node.kill().await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    node.forget();
    // Nobody answers the probe: what was known of the container is what counts.
    node.healthy.0.store(false, Ordering::SeqCst);
    node.start();
    node.apply(&pod_with(json!({}), probe));
    node.until("told", |node| !node.phase().is_empty()).await;
    assert_eq!(node.pod().expect("pod").status, said);
}

#[tokio::test(start_paused = true)]
async fn a_container_ended_for_its_liveness_probe_is_restarted_even_if_it_exits_well() {
    let node = Node::started("politely");
    node.fake.lock().stopped = Some(0);
    let probe = json!({ "tcpSocket": { "port": 80 }, "periodSeconds": 1, "failureThreshold": 2 });
    node.apply(&pod_with(
        json!({ "restartPolicy": "OnFailure" }),
        json!({ "livenessProbe": probe }),
    ));
    node.until("ready", Node::ready).await;
    node.healthy.0.store(false, Ordering::SeqCst);
    node.until("killed", |node| node.fake.count("stop") == 1).await;
    node.healthy.0.store(true, Ordering::SeqCst);
    node.until("restarted", |node| {
        node.status().restart_count == 1 && node.ready()
    })
    .await;
    let last = node.status().last_state.and_then(|state| state.terminated);
    assert_eq!(
        last.map(|last| last.exit_code),
        Some(0),
        "or the test shows nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_group_alone_runs_as_the_images_user() {
    let node = Node::started("group");
    node.apply(&pod_with(
        json!({}),
        json!({ "securityContext": { "runAsGroup": 7 } }),
    ));
    node.until("ready", Node::ready).await;
    let inner = node.fake.lock();
    let config = &inner.containers.values().next().expect("a container").config;
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.clone());
    let security = security.expect("security");
    assert_eq!(security.run_as_group.map(|group| group.value), Some(7));
    assert_eq!(security.run_as_user.map(|user| user.value), Some(0));
}

/// The loop is run as a task among others.
#[test]
fn the_loop_can_be_moved_between_threads() {
    fn is_send<T: Send>(_: fn(crate::context::Context) -> T) {}
    is_send(crate::loops::pod::run);
}
