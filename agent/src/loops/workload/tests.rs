//! The loop over a world and a store in memory; with the manifests loop where a restart is at stake.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    config::Config,
    doors::store::{fake::MemoryStore, kind},
    world::World,
};

struct Bench {
    store: Arc<MemoryStore>,
    world: Arc<World>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

fn deployment(replicas: i32, image: &str) -> Deployment {
    let mut deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d1", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                 "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "c", "image": image}]}}}
    }))
    .expect("a Deployment");
    let template = &mut deployment.spec.as_mut().expect("spec").template;
    keelson_core::manifest::defaults::pod_spec(template.spec.as_mut().expect("spec"));
    deployment
}

impl Bench {
    fn new() -> Self {
        let (stop, _) = watch::channel(false);
        let mut bench = Self {
            store: Arc::default(),
            world: World::new(Default::default()),
            stop,
            task: None,
        };
        bench.start();
        bench
    }

    /// The agent starts: the world is empty, the manifests loop puts back what it finds, then says that all is listed.
    fn start(&mut self) {
        self.world = World::new(Default::default());
        let (stop, shutdown) = watch::channel(false);
        self.stop = stop;
        let ctx = Context {
            config: Arc::new(Config {
                node_name: "n1".to_owned(),
                ..Config::default()
            }),
            world: Arc::clone(&self.world),
            health: Arc::default(),
            proxy: Arc::default(),
            metrics: Arc::default(),
            network: Arc::default(),
            shutdown,
        };
        self.task = Some(tokio::spawn(WorkloadLoop::new(ctx, self.store.clone()).run()));
    }

    fn listed(&self) {
        let (pods, lost) = restore(&*self.store);
        assert!(lost.is_empty(), "{lost:?}");
        self.world.update(|objects| {
            pods.into_iter().for_each(|pod| objects.put_pod(pod));
            objects.revisions.listed = 1;
        });
    }

    fn put(&self, deployment: Deployment) {
        self.world.update(|objects| {
            let key = Key::of(&deployment.metadata);
            let status = objects
                .deployments
                .get(&key)
                .and_then(|there| there.status.clone());
            objects
                .deployments
                .insert(key, Arc::new(Deployment { status, ..deployment }));
            objects.revisions.deployments += 1;
        });
    }

    async fn until(&self, what: &str, fine: impl Fn(&Objects) -> bool) -> Objects {
        let mut revisions = self.world.watch();
        let wait = async {
            loop {
                revisions.borrow_and_update();
                let objects = self.world.snapshot();
                if fine(&objects) {
                    return objects;
                }
                revisions.changed().await.expect("the world is there");
            }
        };
        match time::timeout(Duration::from_secs(3600), wait).await {
            Ok(objects) => objects,
            Err(_) => panic!("{what} did not happen: {:#?}", self.world.snapshot()),
        }
    }

    /// What the pod loop does: pods that start become ready, pods that end are gone.
    fn pods_move(&self) {
        self.world.update(|objects| {
            let pods: Vec<Arc<Pod>> = objects.pods.values().cloned().collect();
            for pod in pods {
                let key = Key::of(&pod.metadata);
                if pod.metadata.deletion_timestamp.is_some() {
                    objects.pods.remove(&key);
                    objects.revisions.pods += 1;
                } else if pod.status.is_none() {
                    objects.put_pod(Pod {
                        status: Some(ready()),
                        ..Pod::clone(&pod)
                    });
                }
            }
        });
    }

    /// Until the Deployment is complete; the bounds hold all the way.
    async fn complete(&self, image: &str, replicas: i32) -> Objects {
        for _ in 0..200 {
            self.pods_move();
            time::sleep(Duration::from_millis(20)).await;
            let objects = self.world.snapshot();
            let running = objects
                .pods
                .values()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none());
            assert!(running.count() as i32 <= replicas + 1);
            let done = objects
                .pods
                .values()
                .all(|pod| image_of(pod) == image && pod.status.is_some());
            let status = objects
                .deployments
                .values()
                .next()
                .and_then(|one| one.status.clone())
                .unwrap_or_default();
            if done && status.available_replicas == Some(replicas) && objects.pods.len() as i32 == replicas {
                return objects;
            }
        }
        panic!("not complete: {:#?}", self.world.snapshot());
    }

    async fn stored(&self, kind: &str, count: usize) {
        for _ in 0..1000 {
            if self.store.list(kind).is_ok_and(|records| records.len() == count) {
                return;
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} instead of {count} records", self.store.list(kind));
    }

    async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            task.await.expect("no panic").expect("no error");
        }
    }
}

fn ready() -> PodStatus {
    PodStatus {
        phase: Some("Running".to_owned()),
        conditions: Some(vec![PodCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(Timestamp::now())),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    }
}

fn image_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.containers[0].image.as_deref())
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_before_all_is_listed() {
    let mut bench = Bench::new();
    bench.put(deployment(2, "x:1"));
    time::sleep(Duration::from_secs(10)).await;
    assert!(bench.world.snapshot().pods.is_empty());
    bench.listed();
    let objects = bench.until("pods", |objects| objects.pods.len() == 2).await;
    for (key, pod) in &objects.pods {
        assert!(
            key.name.starts_with("web-") && template::owner(pod) == Some("d1"),
            "{pod:?}"
        );
        assert_eq!(
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()),
            Some("n1")
        );
    }
    let reasons: Vec<_> = objects
        .events
        .iter()
        .filter_map(|event| event.reason.as_deref())
        .collect();
    assert_eq!(
        reasons,
        ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulCreate"]
    );
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_template_replaces_the_pods_and_the_status_says_so() {
    let mut bench = Bench::new();
    bench.listed();
    bench.put(deployment(3, "x:1"));
    bench.complete("x:1", 3).await;
    bench.put(deployment(3, "x:2"));
    let objects = bench.complete("x:2", 3).await;
    let status = objects
        .deployments
        .values()
        .next()
        .and_then(|one| one.status.clone())
        .expect("status");
    assert_eq!(
        (
            status.updated_replicas,
            status.replicas,
            status.unavailable_replicas
        ),
        (Some(3), Some(3), Some(0))
    );
    bench.stored(kind::PODS, 3).await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_keep_names_and_uids_over_a_restart() {
    let mut bench = Bench::new();
    bench.listed();
    bench.put(deployment(3, "x:1"));
    let before = bench.complete("x:1", 3).await;
    // One is told to end, and must not come to life again by the restart.
    let (key, doomed) = before.pods.iter().next().expect("one");
    let uid = doomed.metadata.uid.clone().expect("uid");
    bench
        .world
        .update(|objects| objects.delete_pod(key, &uid, None, Timestamp::now()));
    bench.stored(kind::PODS, 4).await;
    bench.stop().await;
    bench.start();
    bench.put(deployment(3, "x:1"));
    bench.listed();
    time::sleep(Duration::from_secs(1)).await;
    let after = bench.world.snapshot();
    assert_eq!(after.pods.len(), 4, "no others are made");
    for (key, pod) in &before.pods {
        assert_eq!(after.pods[key].metadata.uid, pod.metadata.uid);
    }
    assert!(after.pods[key].metadata.deletion_timestamp.is_some());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_deployment_that_is_gone_end() {
    let mut bench = Bench::new();
    bench.listed();
    bench.put(deployment(2, "x:1"));
    bench.complete("x:1", 2).await;
    bench.world.update(|objects| {
        objects.deployments.clear();
        objects.revisions.deployments += 1;
    });
    bench
        .until("ending", |objects| {
            objects
                .pods
                .values()
                .all(|pod| pod.metadata.deletion_timestamp.is_some())
        })
        .await;
    bench.pods_move();
    bench.stored(kind::PODS, 0).await;
    bench.stored(kind::DEPLOYMENTS, 0).await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_delays_nothing_and_is_caught_up() {
    let mut bench = Bench::new();
    bench.store.fail("write", kind::PODS);
    bench.store.fail("write", kind::DEPLOYMENTS);
    bench.listed();
    bench.put(deployment(2, "x:1"));
    bench.complete("x:1", 2).await;
    assert!(bench.store.list(kind::PODS).expect("list").is_empty());
    bench.store.heal();
    bench.stored(kind::PODS, 2).await;
    bench.stored(kind::DEPLOYMENTS, 1).await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn damaged_records_are_told_and_replaced() {
    let mut bench = Bench::new();
    bench
        .store
        .put(kind::PODS, "u9", &json!({"metadata": {"name": "web-x"}}))
        .expect("put");
    bench
        .store
        .put(kind::DEPLOYMENTS, "d1", &json!("nonsense"))
        .expect("put");
    let (pods, lost) = restore(&*bench.store);
    assert!(pods.is_empty() && lost[0].contains("u9"), "{lost:?}");
    bench.world.update(|objects| objects.revisions.listed = 1);
    bench.put(deployment(1, "x:1"));
    bench.complete("x:1", 1).await;
    bench.stored(kind::PODS, 1).await;
    let record = bench
        .store
        .get(kind::DEPLOYMENTS, "d1")
        .expect("read")
        .expect("there");
    assert!(record.is_array(), "{record}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_failed_is_replaced_and_stays_to_be_looked_at() {
    let mut bench = Bench::new();
    bench.listed();
    bench.put(deployment(1, "x:1"));
    let before = bench.complete("x:1", 1).await;
    let pod = before.pods.values().next().expect("one");
    let failed = PodStatus {
        phase: Some("Failed".to_owned()),
        ..PodStatus::default()
    };
    bench.world.update(|objects| {
        objects.put_pod(Pod {
            status: Some(failed),
            ..Pod::clone(pod)
        })
    });
    let after = bench.until("another", |objects| objects.pods.len() == 2).await;
    assert!(
        after
            .pods
            .values()
            .all(|pod| pod.metadata.deletion_timestamp.is_none())
    );
    bench.stop().await;
}
