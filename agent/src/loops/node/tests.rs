//! The loop over a fake machine and a fake runtime.

use std::{path::Path, sync::Mutex};

use keelson_core::node::Usage;
use tokio::{sync::watch, task::JoinHandle};

use super::*;
use crate::{
    config::Config,
    doors::{cri::fake::Fake, machine::Error, store::fake::MemoryStore},
    world::{Objects, World},
};

struct FakeHost {
    boot_id: &'static str,
    usage: Mutex<Option<Usage>>,
}

const FINE: Usage = Usage {
    memory_available: 1 << 30,
    disk: 100 << 30,
    disk_available: 50 << 30,
    pids: 10,
    pids_most: 1000,
};

impl Host for FakeHost {
    fn machine(&self) -> Result<Machine, Error> {
        Ok(Machine {
            cpus: 4,
            memory: 8 << 30,
            boot_id: self.boot_id.to_owned(),
            ..Machine::default()
        })
    }

    fn usage(&self, _disk: &Path) -> Result<Usage, Error> {
        let content = || Error::Content {
            path: "/proc/meminfo".into(),
            what: "MemAvailable",
        };
        self.usage.lock().expect("whole").ok_or_else(content)
    }
}

struct Bench {
    ctx: Context,
    host: Arc<FakeHost>,
    store: Arc<MemoryStore>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Bench {
    fn start(store: Arc<MemoryStore>, boot_id: &'static str) -> Self {
        let (stop, shutdown) = watch::channel(false);
        let ctx = Context {
            config: Arc::new(Config {
                node_name: "n1".to_owned(),
                ..Config::default()
            }),
            world: World::new(Default::default()),
            health: Arc::default(),
            proxy: Arc::default(),
            metrics: Arc::default(),
            network: Arc::default(),
            shutdown,
        };
        let host = Arc::new(FakeHost {
            boot_id,
            usage: Mutex::new(Some(FINE)),
        });
        let runtime = Arc::new(Fake::new(&[]));
        let node = NodeLoop::new(ctx.clone(), runtime, host.clone(), store.clone());
        Self {
            ctx,
            host,
            store,
            stop,
            task: Some(tokio::spawn(node.run())),
        }
    }

    async fn until(&self, what: &str, fine: impl Fn(&Objects) -> bool) -> Objects {
        let mut revisions = self.ctx.world.watch();
        let wait = async {
            loop {
                revisions.borrow_and_update();
                let objects = self.ctx.world.snapshot();
                if fine(&objects) {
                    return objects;
                }
                revisions.changed().await.expect("the world is there");
            }
        };
        match time::timeout(Duration::from_secs(60), wait).await {
            Ok(objects) => objects,
            Err(_) => panic!("{what} did not happen: {:#?}", self.ctx.world.snapshot()),
        }
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            task.await.expect("no panic").expect("no error");
        }
    }
}

fn says(objects: &Objects, type_: &str) -> (String, String) {
    let conditions = objects
        .node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|one| one.type_ == type_)
        .map(|one| (one.status.clone(), one.message.clone().unwrap_or_default()))
        .next()
        .unwrap_or_default()
}

fn reasons(objects: &Objects) -> Vec<&str> {
    objects
        .events
        .iter()
        .filter_map(|event| event.reason.as_deref())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_node_becomes_ready_with_its_subsystems_and_says_why_it_is_not() {
    let bench = Bench::start(Arc::default(), "b1");
    let objects = bench
        .until("a first word", |objects| !says(objects, "Ready").0.is_empty())
        .await;
    assert_eq!(says(&objects, "Ready").0, "False");
    assert!(
        says(&objects, "Ready")
            .1
            .contains("network: has not reported yet"),
        "{:?}",
        says(&objects, "Ready")
    );
    for name in NEEDED {
        bench.ctx.health.set(name, Ok(()));
    }
    bench
        .ctx
        .network
        .publish_addresses(vec!["192.0.2.7".parse().expect("address")]);
    let objects = bench
        .until("ready", |objects| {
            says(objects, "Ready").0 == "True" && format!("{:?}", objects.node).contains("192.0.2.7")
        })
        .await;
    let info = objects
        .node
        .status
        .as_ref()
        .and_then(|status| status.node_info.clone())
        .expect("info");
    assert!(info.container_runtime_version.contains("://"), "{info:?}");
    bench
        .ctx
        .health
        .set(subsystem::RUNTIME, Err("containerd does not answer".to_owned()));
    let objects = bench
        .until("not ready", |objects| says(objects, "Ready").0 == "False")
        .await;
    assert_eq!(says(&objects, "Ready").1, "runtime: containerd does not answer");
    let objects = bench
        .until("told", |objects| {
            objects.events.len() == 3 && objects.node.metadata.name.is_some()
        })
        .await;
    assert_eq!(reasons(&objects), ["Starting", "NodeReady", "NodeNotReady"]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shortage_is_noticed_by_itself_and_an_unreadable_machine_ends_nothing() {
    let bench = Bench::start(Arc::default(), "b1");
    bench
        .until("a first word", |objects| {
            says(objects, "DiskPressure").0 == "False"
        })
        .await;
    *bench.host.usage.lock().expect("whole") = Some(Usage {
        disk_available: 1,
        ..FINE
    });
    bench
        .until("pressure", |objects| says(objects, "DiskPressure").0 == "True")
        .await;
    *bench.host.usage.lock().expect("whole") = None;
    bench
        .until("unknown", |objects| says(objects, "DiskPressure").0 == "Unknown")
        .await;
    *bench.host.usage.lock().expect("whole") = Some(FINE);
    bench
        .until("relief", |objects| says(objects, "DiskPressure").0 == "False")
        .await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_nodes_uid_survives_a_restart_and_a_reboot_is_told() {
    let bench = Bench::start(Arc::default(), "b1");
    let first = bench
        .until("a node", |objects| objects.node.metadata.uid.is_some())
        .await;
    let store = bench.store.clone();
    bench.stop().await;
    let bench = Bench::start(store.clone(), "b1");
    let second = bench
        .until("a node", |objects| objects.node.metadata.uid.is_some())
        .await;
    assert_eq!(second.node.metadata.uid, first.node.metadata.uid);
    assert_eq!(
        second.node.metadata.creation_timestamp,
        first.node.metadata.creation_timestamp
    );
    assert_eq!(reasons(&second), ["Starting"]);
    bench.stop().await;
    let bench = Bench::start(store, "b2");
    let third = bench
        .until("told", |objects| {
            objects.events.len() == 2 && objects.node.metadata.uid.is_some()
        })
        .await;
    assert_eq!(third.node.metadata.uid, first.node.metadata.uid);
    assert_eq!(reasons(&third), ["Rebooted", "Starting"]);
    bench.stop().await;
}
