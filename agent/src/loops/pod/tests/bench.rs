//! A node around the loop: world, fake runtime, folders of its own.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use keelson_core::object::Key;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::super::{dispatcher::Dispatcher, doors::Doors, images::Report, probing::Prober};
use crate::{
    config::Config,
    context::Context,
    doors::{
        cgroups::Cgroups,
        containerd::Event,
        cri::fake::{Fake, clock},
        probes::{Outcome, Target},
        store::FileStore,
        temporary::Folder,
        volumes::Volumes,
    },
    health::{Health, subsystem},
    world::World,
};

/// The image that is there.
pub const IMAGE: &str = "web:1";
/// Longer than anything here takes, in the tests' own time.
const LIMIT: Duration = Duration::from_secs(1000);

/// Answers what the test says.
#[derive(Clone)]
pub struct Answer(pub Arc<AtomicBool>);

#[tonic::async_trait]
impl Prober for Answer {
    async fn probe(&self, _: &Target, _: Duration) -> Outcome {
        match self.0.load(Ordering::SeqCst) {
            true => Outcome::Success(None),
            false => Outcome::Failure("no".into()),
        }
    }
}

/// A node; the agent on it can be started and killed.
pub struct Node {
    pub world: Arc<World>,
    pub fake: Fake,
    pub healthy: Answer,
    pub health: Arc<Health>,
    pub folder: Folder,
    pub events: Option<mpsc::Sender<Event>>,
    pub reports: Option<mpsc::Sender<Report>>,
    agent: Option<JoinHandle<()>>,
    shutdown: watch::Sender<bool>,
    /// Whether the dataplane acknowledges at once.
    acknowledge: Arc<Mutex<bool>>,
}

impl Node {
    /// Without an agent yet; the manifests are listed.
    pub fn new(name: &str) -> Self {
        let world = World::new(Default::default());
        world.update(|objects| objects.revisions.listed = 1);
        let acknowledge = Arc::new(Mutex::new(true));
        tokio::spawn(dataplane(world.clone(), acknowledge.clone()));
        let health = Arc::<Health>::default();
        // The network loop has looked at the node, which has no address here.
        health.set(subsystem::NETWORK, Ok(()));
        Self {
            world,
            fake: Fake::new(&[IMAGE]),
            healthy: Answer(Arc::new(AtomicBool::new(true))),
            health,
            folder: Folder::new(name),
            events: None,
            reports: None,
            agent: None,
            shutdown: watch::channel(false).0,
            acknowledge,
        }
    }

    /// With an agent that runs.
    pub fn started(name: &str) -> Self {
        let mut node = Self::new(name);
        node.start();
        node
    }

    pub fn start(&mut self) {
        let path = self.folder.path();
        let config = Config {
            root: path.join("root"),
            state: path.join("state"),
            ..Config::default()
        };
        let ctx = Context {
            config: Arc::new(config),
            world: self.world.clone(),
            health: self.health.clone(),
            proxy: Arc::default(),
            metrics: Arc::default(),
            network: Arc::default(),
            shutdown: self.shutdown.subscribe(),
        };
        let doors = Doors {
            runtime: Arc::new(self.fake.clone()),
            volumes: Volumes::new(&path.join("root"), &path.join("logs")),
            cgroups: Cgroups::new(vec![], ""),
            prober: Arc::new(self.healthy.clone()),
            store: Arc::new(FileStore::new(&path.join("state"))),
            clock,
            socket: path.join("socket"),
        };
        let (events, happened) = mpsc::channel(64);
        let (reports, reported) = mpsc::channel(4);
        self.fake.lock().events = Some(events.clone());
        self.events = Some(events);
        self.reports = Some(reports);
        let (resume, _) = mpsc::channel(1);
        let dispatcher = Dispatcher::new(ctx, doors);
        self.agent = Some(tokio::spawn(async move {
            dispatcher
                .run(happened, reported, resume)
                .await
                .expect("the loop");
        }));
    }

    /// As by SIGKILL: nothing is said, nothing is cleaned up.
    pub async fn kill(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
            let _ = agent.await;
        }
    }

    /// The world goes with the agent.
    pub fn forget(&mut self) {
        self.world = World::new(Default::default());
        self.world.update(|objects| objects.revisions.listed = 1);
        tokio::spawn(dataplane(self.world.clone(), self.acknowledge.clone()));
    }

    pub fn acknowledge(&self, at_once: bool) {
        *self.acknowledge.lock().expect("lock") = at_once;
        self.world.update(|objects| objects.revisions.events += 1);
    }

    pub fn apply(&self, pod: &Pod) {
        self.world.update(|objects| objects.put_pod(pod.clone()));
    }

    pub fn delete(&self, pod: &Pod, grace: Option<i64>) {
        let uid = pod.metadata.uid.as_deref().expect("uid");
        let key = Key::of(&pod.metadata);
        assert!(
            self.world
                .update(|objects| objects.delete_pod(&key, uid, grace, clock())),
            "there is such a pod"
        );
    }

    pub fn pod(&self) -> Option<Arc<Pod>> {
        self.world.snapshot().pods.values().next().cloned()
    }

    /// The only pod's first container, in its status.
    pub fn status(&self) -> ContainerStatus {
        let pod = self.pod().expect("a pod");
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.clone());
        statuses.into_iter().flatten().next().unwrap_or_default()
    }

    pub fn phase(&self) -> String {
        let pod = self.pod();
        pod.and_then(|pod| pod.status.as_ref()?.phase.clone())
            .unwrap_or_default()
    }

    pub fn ready(&self) -> bool {
        let pod = self.pod();
        let conditions = pod
            .and_then(|pod| pod.status.as_ref()?.conditions.clone())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// Why the first container waits.
    pub fn waiting(&self) -> String {
        let state = self.status().state.and_then(|state| state.waiting);
        state.and_then(|waiting| waiting.reason).unwrap_or_default()
    }

    pub fn told(&self, reason: &str) -> bool {
        self.world
            .snapshot()
            .events
            .iter()
            .any(|event| event.reason.as_deref() == Some(reason))
    }

    /// Wait for a condition, in the tests' own time.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(
                start.elapsed() < LIMIT,
                "never: {what}; the status is {:#?}, the calls were {:#?}",
                self.pod().and_then(|pod| pod.status.clone()),
                self.fake.lock().calls
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Let everybody finish what they are about.
    pub async fn settle(&self) {
        sleep(Duration::from_millis(500)).await;
    }

    /// The id of the only container of the pod that runs.
    pub fn running(&self) -> String {
        let running = self.fake.running("main");
        assert_eq!(running.len(), 1, "{running:?}");
        running[0].clone()
    }
}

/// As the service loop: says that the maps reflect the pods.
async fn dataplane(world: Arc<World>, at_once: Arc<Mutex<bool>>) {
    let mut revisions = world.watch();
    loop {
        let now = revisions.borrow_and_update().pods;
        if *at_once.lock().expect("lock") {
            world.set_programmed(now);
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// A pod with one container called `main`, and what `spec` and `container` add.
pub fn pod_with(spec: Value, container: Value) -> Pod {
    let mut main = json!({ "name": "main", "image": IMAGE });
    merge(&mut main, container);
    let mut whole = json!({ "containers": [main] });
    merge(&mut whole, spec);
    let metadata = json!({ "name": "web", "namespace": "shop", "uid": "u-1" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": whole })).expect("a pod")
}

/// A plain one.
pub fn pod() -> Pod {
    pod_with(json!({}), json!({}))
}

fn merge(into: &mut Value, more: Value) {
    let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) else {
        return;
    };
    into.extend(more);
}
