//! The loop over a folder and a store in memory that fail when told to; once over real ones.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use keelson_core::object::Key;
use tokio::{sync::watch, task::JoinHandle};

use super::*;
use crate::{
    config::Config,
    doors::{manifests::fake::MemoryFolder, store::fake::MemoryStore, store::kind, temporary},
    world::{Objects, World},
};

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: x:1}\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports:\n  - port: 80\n";

/// A running loop and all it touches.
struct Bench {
    folder: Arc<MemoryFolder>,
    store: Arc<MemoryStore>,
    world: Arc<World>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Bench {
    fn new() -> Self {
        let (folder, store) = Default::default();
        let (stop, _) = watch::channel(false);
        Self {
            folder,
            store,
            world: World::new(Default::default()),
            stop,
            task: None,
        }
    }

    /// Start the loop with a world as it is after the agent's start: empty.
    fn start(&mut self) {
        self.start_with(self.folder.clone(), self.store.clone());
    }

    fn start_with(&mut self, folder: Arc<dyn Folder>, store: Arc<dyn Store>) {
        self.world = World::new(Default::default());
        let (stop, shutdown) = watch::channel(false);
        self.stop = stop;
        let config = Config {
            node_name: "n1".to_owned(),
            ..Config::default()
        };
        let ctx = Context {
            config: Arc::new(config),
            world: Arc::clone(&self.world),
            health: Arc::default(),
            proxy: Arc::default(),
            metrics: Arc::default(),
            network: Arc::default(),
            shutdown,
        };
        self.task = Some(tokio::spawn(ManifestsLoop::new(ctx, folder, store).run()));
    }

    async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            task.await.expect("no panic").expect("no error");
        }
    }

    /// Wait until the world is as expected.
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
        match time::timeout(Duration::from_secs(60), wait).await {
            Ok(objects) => objects,
            Err(_) => panic!("{what} did not happen: {:#?}", self.world.snapshot()),
        }
    }

    /// Let the loop do all it has to do for now: it has, once a file written afterwards was seen.
    async fn settled(&self) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("marker{}.yaml", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.folder.write(&name, "");
        self.until("the marker", |objects| {
            objects.manifests.contains_key(Path::new(&name))
        })
        .await;
    }

    async fn until_saved(&self, id: &str, fine: impl Fn(&str) -> bool) {
        for _ in 0..2000 {
            let value = self.store.get(kind::MANIFESTS, id).ok().flatten();
            if fine(&value.map(|value| value.to_string()).unwrap_or_default()) {
                return;
            }
            time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} was not saved as expected");
    }
}

fn pod<'a>(objects: &'a Objects, name: &str) -> Option<&'a Pod> {
    objects.pods.get(&Key::new("default", name)).map(Arc::as_ref)
}

fn uid(objects: &Objects, name: &str) -> Option<String> {
    pod(objects, name).and_then(|pod| pod.metadata.uid.clone())
}

fn ending(objects: &Objects, name: &str) -> bool {
    pod(objects, name).is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
}

fn errors(objects: &Objects, file: &str) -> String {
    objects
        .manifests
        .get(Path::new(file))
        .map(|report| report.errors.join("\n"))
        .unwrap_or_default()
}

/// What the pod loop does in the end.
fn remove_pod(world: &World, name: &str) {
    world.update(|objects| {
        objects.pods.remove(&Key::new("default", name));
        objects.revisions.pods += 1;
    });
}

#[tokio::test(start_paused = true)]
async fn all_files_are_in_the_world_before_listed_is_told() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.folder.place(
        "sub/b.yaml",
        &format!("{SERVICE}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m, namespace: n}}\n"),
    );
    bench.start();
    let objects = bench
        .until("listed", |objects| objects.revisions.listed == 1)
        .await;
    let found = pod(&objects, "p").expect("placed");
    let spec = found.spec.as_ref().expect("spec");
    assert_eq!(
        (spec.node_name.as_deref(), spec.restart_policy.as_deref()),
        (Some("n1"), Some("Always"))
    );
    assert!(found.metadata.uid.is_some() && found.metadata.creation_timestamp.is_some());
    assert!(objects.services.contains_key(&Key::new("default", "s")));
    assert!(objects.config_maps.contains_key(&Key::new("n", "m")));
    let report = bench
        .until("report", |objects| objects.manifests.len() == 2)
        .await;
    assert_eq!(
        report.manifests[Path::new("sub/b.yaml")].objects,
        ["Service default/s", "ConfigMap n/m"]
    );
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_leaves_the_last_good_state_running_and_says_where_it_is_bad() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.start();
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    let bad = format!(
        "{POD}---\n{}",
        SERVICE.replace("port: 80", "port: 80\n  seltor: {}")
    );
    bench.folder.write("a.yaml", &bad);
    let objects = bench
        .until("refused", |objects| !errors(objects, "a.yaml").is_empty())
        .await;
    assert_eq!(
        errors(&objects, "a.yaml"),
        "document 2, line 14, spec.seltor: unknown field"
    );
    assert_eq!(objects.pods, before.pods, "nothing else happened");
    assert!(objects.services.is_empty());
    assert_eq!(objects.manifests[Path::new("a.yaml")].objects, ["Pod default/p"]);
    let event = bench
        .until("event", |objects| !objects.events.is_empty())
        .await
        .events[0]
        .clone();
    assert_eq!(event.reason.as_deref(), Some("ManifestRefused"));
    assert!(
        event
            .message
            .as_deref()
            .is_some_and(|message| message.contains("line 14, spec.seltor")),
        "{event:?}"
    );
    bench.folder.write("a.yaml", &format!("{POD}---\n{SERVICE}"));
    let healed = bench
        .until("healed", |objects| errors(objects, "a.yaml").is_empty())
        .await;
    assert_eq!((uid(&healed, "p"), healed.services.len()), (uid(&before, "p"), 1));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_file_ends_its_pods_with_grace_and_removes_the_rest_at_once() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", &format!("{POD}---\n{SERVICE}"));
    bench.folder.place("b.yaml", &POD.replace("name: p", "name: q"));
    bench.start();
    bench.until("placed", |objects| objects.pods.len() == 2).await;
    bench.folder.remove("a.yaml");
    let objects = bench.until("ending", |objects| ending(objects, "p")).await;
    assert_eq!(
        pod(&objects, "p").and_then(|pod| pod.metadata.deletion_grace_period_seconds),
        Some(30)
    );
    assert!(objects.services.is_empty() && !ending(&objects, "q"));
    remove_pod(&bench.world, "p");
    bench.settled().await;
    assert_eq!(bench.world.snapshot().pods.len(), 1, "it stays away");
    bench.until_saved("a.yaml", str::is_empty).await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_editor_that_removes_before_it_writes_ends_nothing() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.start();
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    bench.folder.remove("a.yaml");
    time::sleep(GONE_PATIENCE / 2).await;
    bench.folder.place("a.yaml", "");
    bench.folder.tell(Change::Writing("a.yaml".into()));
    time::sleep(WRITER_PATIENCE / 2).await;
    bench.folder.write("a.yaml", &POD.replace("x:1", "x:2"));
    let after = bench.until("the new image", |objects| {
        pod(objects, "p")
            .and_then(|pod| pod.spec.as_ref())
            .is_some_and(|spec| spec.containers[0].image.as_deref() == Some("x:2"))
    });
    let after = after.await;
    assert_eq!(
        uid(&after, "p"),
        uid(&before, "p"),
        "a new image changes the pod in place"
    );
    assert!(!ending(&after, "p"));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_is_not_read_while_it_is_written() {
    let mut bench = Bench::new();
    bench.start();
    bench
        .until("listed", |objects| objects.revisions.listed == 1)
        .await;
    for length in 1..POD.len() {
        bench.folder.place("a.yaml", &POD[..length]);
        bench.folder.tell(Change::Writing("a.yaml".into()));
        time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        bench.world.snapshot().manifests.is_empty(),
        "half a file is no manifest"
    );
    bench.folder.write("a.yaml", POD);
    let objects = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    assert!(objects.events.is_empty());
    // A writer whose end is never told is waited for, but not for ever.
    bench.folder.place("a.yaml", &POD.replace("x:1", "x:3"));
    bench.folder.tell(Change::Writing("a.yaml".into()));
    bench
        .until("the new image", |objects| {
            format!("{:?}", pod(objects, "p")).contains("x:3")
        })
        .await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn any_other_change_replaces_the_pod_after_the_old_one_is_gone() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.start();
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    bench
        .folder
        .write("a.yaml", &POD.replace("x:1}", "x:1, command: [sh]}"));
    let objects = bench.until("ending", |objects| ending(objects, "p")).await;
    assert_eq!(
        uid(&objects, "p"),
        uid(&before, "p"),
        "the old one is still there"
    );
    bench.settled().await;
    remove_pod(&bench.world, "p");
    let after = bench
        .until("the new one", |objects| pod(objects, "p").is_some())
        .await;
    assert_ne!(uid(&after, "p"), uid(&before, "p"));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn uids_and_last_good_states_survive_a_restart() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.folder.place("b.yaml", &POD.replace("name: p", "name: q"));
    bench.folder.place("c.yaml", SERVICE);
    bench.start();
    let before = bench
        .until("placed", |objects| {
            objects.pods.len() == 2 && !objects.services.is_empty()
        })
        .await;
    bench.until_saved("c.yaml", |text| text.contains("uid")).await;
    bench.until_saved("b.yaml", |text| text.contains("uid")).await;
    bench.stop().await;

    bench.folder.place("b.yaml", "kind: [");
    bench.start();
    let after = bench
        .until("listed", |objects| objects.revisions.listed == 1)
        .await;
    assert_eq!(
        (after.pods, after.services),
        (before.pods.clone(), before.services)
    );
    bench
        .until("told", |objects| !errors(objects, "b.yaml").is_empty())
        .await;
    bench.stop().await;

    // What changed meanwhile is replaced: the old pod is an orphan now, which the pod loop ends.
    bench
        .folder
        .place("a.yaml", &POD.replace("x:1}", "x:1, command: [sh]}"));
    bench.folder.remove("b.yaml");
    bench.start();
    let after = bench
        .until("listed", |objects| objects.revisions.listed == 1)
        .await;
    assert!(pod(&after, "q").is_none());
    assert!(
        pod(&after, "p").is_some()
            && uid(&after, "p")
                != before
                    .pods
                    .values()
                    .next()
                    .and_then(|pod| pod.metadata.uid.clone())
    );
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_deployments_are_back_before_listed_is_told() {
    let mut bench = Bench::new();
    let record = serde_json::json!({"metadata": {"name": "web-1", "namespace": "default", "uid": "u1",
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d1", "controller": true}]},
        "spec": {"containers": []}});
    bench.store.put(kind::PODS, "u1", &record).expect("put");
    bench.start();
    let objects = bench
        .until("listed", |objects| objects.revisions.listed == 1)
        .await;
    assert_eq!(uid(&objects, "web-1").as_deref(), Some("u1"));
    remove_pod(&bench.world, "web-1");
    bench.settled().await;
    assert!(bench.world.snapshot().pods.is_empty(), "once only");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_somebody_ended_comes_again_as_another_one() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.start();
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    // A status is not an end.
    bench.world.update(|objects| {
        let mut ended = pod(objects, "p").expect("there").clone();
        ended.status = Some(PodStatus {
            phase: Some("Succeeded".to_owned()),
            ..PodStatus::default()
        });
        objects.put_pod(ended);
    });
    bench.settled().await;
    assert_eq!(uid(&bench.world.snapshot(), "p"), uid(&before, "p"));
    remove_pod(&bench.world, "p");
    let after = bench
        .until("a new one", |objects| pod(objects, "p").is_some())
        .await;
    let new = uid(&after, "p").expect("has one");
    assert_ne!(Some(&new), uid(&before, "p").as_ref());
    bench.until_saved("a.yaml", |text| text.contains(&new)).await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_listed_changes_nothing_and_is_tried_again() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.folder.fail("");
    bench.start();
    let objects = bench
        .until("trouble", |objects| !errors(objects, ".").is_empty())
        .await;
    assert_eq!(
        (objects.revisions.listed, objects.pods.len()),
        (0, 0),
        "nothing is known yet"
    );
    bench.folder.heal();
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    bench
        .until("healed", |objects| errors(objects, ".").is_empty())
        .await;

    bench.folder.fail("");
    bench.folder.tell(Change::Gone(PathBuf::new()));
    let objects = bench
        .until("trouble", |objects| !errors(objects, ".").is_empty())
        .await;
    assert_eq!(objects.pods, before.pods);
    bench.folder.heal();
    bench
        .until("healed", |objects| errors(objects, ".").is_empty())
        .await;
    // The watch is a new one, and works.
    bench.folder.write("b.yaml", SERVICE);
    bench
        .until("the service", |objects| !objects.services.is_empty())
        .await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_watched_is_read_all_the_same() {
    use crate::doors::manifests::fake::WATCH;

    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.folder.fail(WATCH);
    bench.start();
    bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    bench
        .until("told", |objects| errors(objects, ".").contains("told to fail"))
        .await;
    bench.folder.place("b.yaml", SERVICE);
    bench
        .until("found by reading again", |objects| !objects.services.is_empty())
        .await;
    bench.folder.heal();
    bench
        .until("healed", |objects| errors(objects, ".").is_empty())
        .await;
    // A watch that ends is replaced; meanwhile the loop does not spin.
    bench.folder.fail(WATCH);
    bench.folder.end_watch();
    bench
        .until("told again", |objects| !errors(objects, ".").is_empty())
        .await;
    let before = time::Instant::now();
    bench.folder.heal();
    bench
        .until("healed again", |objects| errors(objects, ".").is_empty())
        .await;
    assert!(
        before.elapsed() > Duration::ZERO,
        "it waited before it tried again"
    );
    bench
        .folder
        .write("c.yaml", &SERVICE.replace("name: s", "name: t"));
    bench
        .until("the second", |objects| objects.services.len() == 2)
        .await;
    bench.stop().await;
}

#[test]
fn the_demo_is_a_manifest_that_is_accepted() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/web.yaml");
    let text = std::fs::read_to_string(path).expect("the demo is there");
    let rules = Rules {
        node_name: "n1".to_owned(),
        service_cidr: Config::default().service_cidr,
        service_cidr_v6: None,
        node_port_range: Config::default().node_port_range,
        runs_pods: true,
    };
    let documents = yaml::documents(&text, yaml::Format::Yaml);
    assert!(!documents.is_empty());
    for document in documents {
        decode(&document.expect("parses"), &rules).expect("accepted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_keeps_its_last_good_state() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", POD);
    bench.start();
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    bench.folder.fail("a.yaml");
    bench.folder.tell(Change::Rescan);
    let objects = bench
        .until("told", |objects| {
            errors(objects, "a.yaml").contains("told to fail")
        })
        .await;
    assert_eq!(objects.pods, before.pods);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_two_files_define_is_refused_with_both_names() {
    let mut bench = Bench::new();
    bench.folder.place("b.yaml", POD);
    bench.start();
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    bench.folder.write("a.yaml", &POD.replace("x:1", "x:2"));
    let objects = bench
        .until("refused", |objects| !errors(objects, "a.yaml").is_empty())
        .await;
    assert!(
        errors(&objects, "a.yaml").contains("Pod default/p is defined in b.yaml already; a.yaml is refused")
    );
    assert_eq!(objects.pods, before.pods);
    bench.folder.remove("b.yaml");
    let objects = bench
        .until("taken over", |objects| errors(objects, "a.yaml").is_empty())
        .await;
    assert_eq!(
        uid(&objects, "p"),
        uid(&before, "p"),
        "the object moved to another file"
    );
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn allocations_of_a_service_outlive_changes_of_its_manifest() {
    let mut bench = Bench::new();
    bench.folder.place("a.yaml", SERVICE);
    bench.start();
    let key = Key::new("default", "s");
    bench
        .until("placed", |objects| objects.services.contains_key(&key))
        .await;
    bench.world.update(|objects| {
        let service = Arc::make_mut(objects.services.get_mut(&key).expect("there"));
        service.spec.as_mut().expect("spec").cluster_ip = Some("10.96.0.7".to_owned());
        objects.revisions.services += 1;
    });
    bench
        .folder
        .write("a.yaml", &SERVICE.replace("port: 80", "port: 81"));
    let port = |objects: &Objects| {
        objects.services[&key]
            .spec
            .as_ref()
            .and_then(|spec| spec.ports.as_ref().map(|ports| ports[0].port))
    };
    let objects = bench.until("changed", |objects| port(objects) == Some(81)).await;
    let spec = objects.services[&key].spec.clone().expect("spec");
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.7"));
    assert_eq!(objects.services[&key].metadata.generation, Some(2));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_delays_nothing_and_is_caught_up() {
    let mut bench = Bench::new();
    bench.store.fail("write", kind::MANIFESTS);
    bench.store.fail("list", kind::MANIFESTS);
    bench.folder.place("a.yaml", POD);
    bench.start();
    let objects = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    assert!(
        objects
            .events
            .iter()
            .any(|event| event.reason.as_deref() == Some("StateLost"))
    );
    bench.store.heal();
    let uid = uid(&objects, "p").expect("has one");
    bench.until_saved("a.yaml", |text| text.contains(&uid)).await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_costs_only_that_file_its_last_good_state() {
    let mut bench = Bench::new();
    bench
        .store
        .put(
            kind::MANIFESTS,
            "a.yaml",
            &serde_json::json!({"objects": [{"kind": "Nonsense"}]}),
        )
        .expect("put");
    bench.folder.place("a.yaml", POD);
    bench.start();
    let objects = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    let message = objects.events[0].message.clone().expect("a message");
    assert!(
        message.contains("a.yaml") && message.contains("Nonsense"),
        "{message}"
    );
    bench.until_saved("a.yaml", |text| text.contains("\"p\"")).await;
    bench.stop().await;
}

#[tokio::test]
async fn over_a_real_folder_and_store_a_node_follows_its_files_and_survives_restarts() {
    let temporary = temporary::Folder::new("manifests-loop");
    let root = temporary.path().join("manifests");
    let folder = Arc::new(DiskFolder::new(&root));
    let store = Arc::new(FileStore::new(temporary.path()));
    let mut bench = Bench::new();
    bench.start_with(folder.clone(), store.clone());
    bench
        .until("listed", |objects| objects.revisions.listed == 1)
        .await;
    std::fs::write(root.join("a.yaml"), POD).expect("write");
    let before = bench.until("placed", |objects| pod(objects, "p").is_some()).await;
    std::fs::create_dir(root.join("applied")).expect("create");
    std::fs::write(
        root.join("applied/early.yaml"),
        SERVICE.replace("name: s", "name: early"),
    )
    .expect("write");
    bench
        .until("what came with its folder", |objects| {
            !objects.services.is_empty()
        })
        .await;
    std::fs::remove_file(root.join("applied/early.yaml")).expect("remove");
    bench
        .until("no service", |objects| objects.services.is_empty())
        .await;
    std::fs::write(root.join("applied/.new"), SERVICE).expect("write");
    std::fs::rename(root.join("applied/.new"), root.join("applied/s.yaml")).expect("rename");
    bench
        .until("the service", |objects| !objects.services.is_empty())
        .await;
    std::fs::write(root.join("a.yaml"), "kind: Pod\nspec: [").expect("write");
    bench
        .until("refused", |objects| !errors(objects, "a.yaml").is_empty())
        .await;
    for _ in 0..1000 {
        if store.list(kind::MANIFESTS).expect("list").len() == 2 {
            break;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    // Killed rather than stopped: nothing is written at the end.
    bench.task.take().expect("runs").abort();
    bench.start_with(folder, store);
    let after = bench
        .until("listed", |objects| objects.revisions.listed == 1)
        .await;
    assert_eq!(after.pods, before.pods);
    assert_eq!(after.services.len(), 1);
    std::fs::remove_dir_all(root.join("applied")).expect("remove");
    bench
        .until("no service", |objects| objects.services.is_empty())
        .await;
    std::fs::remove_file(root.join("a.yaml")).expect("remove");
    bench.until("ending", |objects| ending(objects, "p")).await;
    bench.stop().await;
}
