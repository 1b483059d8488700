//! The server on a socket of its own, over a world in memory and a folder on disk, with the real manifests loop between them.

mod exec;
mod logs;
mod objects;

use std::{path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use keelson_core::object::Key;
use keelson_proto::keelson::{ApplyRequest, Source, control_client::ControlClient};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::transport::Channel;

use crate::{
    config::Config,
    context::Context,
    doors::{
        cri::{channel, fake::Fake},
        temporary::Folder,
    },
    loops,
    world::{Objects, World},
};

/// Nothing here takes this long unless it is broken.
const LIMIT: Duration = Duration::from_secs(20);

/// A server, all it touches, and a client.
struct Bench {
    folder: Folder,
    ctx: Context,
    runtime: Fake,
    client: ControlClient<Channel>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Bench {
    /// With the manifests loop at work.
    async fn new(name: &str) -> Self {
        let mut bench = Self::bare(name).await;
        bench.tasks.spawn(loops::manifests::run(bench.ctx.clone()));
        bench
            .until("the folder was read", |objects| objects.revisions.listed > 0)
            .await;
        bench
    }

    /// Without any loop: the world is the test's alone.
    async fn bare(name: &str) -> Self {
        let folder = Folder::new(name);
        let (stop, shutdown) = watch::channel(false);
        let config = Config {
            node_name: "n1".to_owned(),
            manifests: folder.path().join("manifests"),
            state: folder.path().join("state"),
            pod_logs: folder.path().join("logs"),
            run: folder.path().join("run"),
            ..Config::default()
        };
        let ctx = Context {
            config: Arc::new(config),
            world: World::new(
                serde_json::from_value(json!({ "metadata": { "name": "n1" } })).expect("a node"),
            ),
            health: Arc::default(),
            proxy: Arc::default(),
            metrics: Arc::default(),
            network: Arc::default(),
            shutdown,
        };
        let runtime = Fake::new(&[]);
        let listener = super::socket::listen(&ctx.config.socket()).expect("listen");
        let mut tasks = JoinSet::new();
        tasks.spawn(super::serve(ctx.clone(), Arc::new(runtime.clone()), listener));
        let channel = channel::connect(&ctx.config.socket()).await.expect("connect");
        Self {
            folder,
            ctx,
            runtime,
            client: ControlClient::new(channel),
            stop,
            tasks,
        }
    }

    /// Wait until the world is as expected.
    async fn until(&self, what: &str, fine: impl Fn(&Objects) -> bool) {
        let mut revisions = self.ctx.world.watch();
        let wait = async {
            loop {
                revisions.borrow_and_update();
                if fine(&self.ctx.world.snapshot()) {
                    return;
                }
                revisions.changed().await.expect("the world is there");
            }
        };
        timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    /// Apply a text; `created pod/p applied/pod-default-p.yaml` for each object.
    async fn apply(&mut self, text: &str, dry_run: bool) -> Result<Vec<String>, String> {
        let request = ApplyRequest {
            sources: vec![Source {
                name: "f.yaml".to_owned(),
                text: text.to_owned(),
                json: false,
            }],
            namespace: String::new(),
            dry_run,
        };
        let response = self
            .client
            .apply(request)
            .await
            .map_err(|status| format!("{:?}: {}", status.code(), status.message()))?
            .into_inner();
        let shown = response.results.into_iter().map(|applied| {
            assert_eq!(applied.warning, "");
            let action = applied.action().as_str_name().to_ascii_lowercase();
            let object = applied.object.unwrap_or_default();
            format!("{action} {}/{} {}", object.resource, object.name, applied.file)
        });
        Ok(shown.collect())
    }

    fn manifests(&self) -> PathBuf {
        self.ctx.config.manifests.clone()
    }

    /// Names of the files that `apply` wrote.
    fn applied(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.manifests().join("applied"))
            .into_iter()
            .flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Put a pod into the world, as the loops would.
    fn put_pod(&self, pod: Value) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.ctx.world.update(|objects| objects.put_pod(pod));
    }

    fn remove_pod(&self, name: &str) {
        self.ctx.world.update(|objects| {
            objects.pods.remove(&Key::new("default", name));
            objects.revisions.pods += 1;
        });
    }

    /// End everything; nothing may have failed.
    async fn end(mut self) {
        drop(self.client);
        self.stop.send_replace(true);
        while let Some(ended) = timeout(LIMIT, self.tasks.join_next())
            .await
            .expect("ends in time")
        {
            ended.expect("no panic").expect("no failure");
        }
        drop(self.folder);
    }
}
