//! One worker per pod, and everything that wakes them.
//!
//! The world says which pods there are, containerd's events and the runtime's state say when to look. What is in the
//! runtime and belongs to nobody is given a worker of its own that removes it, but only after the manifests were read
//! once: before that, "nobody's" means "not known yet".

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_core::object::Key;
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{
    doors::Doors,
    images::{Images, Report},
    orphan,
    roster::{self, Poke, Roster},
    worker,
};
use crate::{
    context::Context,
    doors::containerd::{self, Event},
    events::{self, Subject},
    health::subsystem,
    world::Revisions,
};

/// Lists are the truth: everything is looked at this often even if no event says so.
const RELIST: Duration = Duration::from_secs(60);
/// The runtime's own state is asked for this often, and more often while it is not good.
const STATUS: Duration = Duration::from_secs(30);
const STATUS_BAD: Duration = Duration::from_secs(1);

/// What every worker is handed.
#[derive(Clone)]
pub struct Shared {
    /// The loops' context.
    pub ctx: Context,
    /// The doors.
    pub doors: Doors,
    /// Whose container is this.
    pub roster: Roster,
    /// Whether the runtime, and its network, can be used: `Err` says why not.
    pub ready: watch::Receiver<Readiness>,
}

/// What new pods wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The runtime answers.
    pub runtime: Result<(), String>,
    /// Its network is configured; pods in the node's network do not need it.
    pub network: Result<(), String>,
}

struct Worker {
    pod: Arc<Pod>,
    poke: Poke,
}

/// The pod loop itself.
pub struct Dispatcher {
    shared: Shared,
    ready: watch::Sender<Readiness>,
    /// By pod UID.
    workers: HashMap<String, Worker>,
    tasks: JoinSet<()>,
    /// Whose task it is.
    owners: HashMap<task::Id, String>,
    /// UIDs that are being removed though no pod has them.
    orphans: HashSet<String>,
    seen: Revisions,
    status_at: Instant,
    relist_at: Instant,
}

impl Dispatcher {
    /// With given doors.
    pub fn new(ctx: Context, doors: Doors) -> Self {
        let unknown = Err("the container runtime was not asked yet".to_owned());
        let (ready, receiver) = watch::channel(Readiness {
            runtime: unknown.clone(),
            network: unknown,
        });
        let now = Instant::now();
        Self {
            shared: Shared {
                ctx,
                doors,
                roster: Roster::default(),
                ready: receiver,
            },
            ready,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            owners: HashMap::new(),
            orphans: HashSet::new(),
            seen: Revisions::default(),
            status_at: now,
            relist_at: now + RELIST,
        }
    }

    /// Follow containerd's events and the folder of images, and run.
    pub async fn run_with_containerd(self) -> anyhow::Result<()> {
        let (events, happened) = mpsc::channel(64);
        let (reports, reported) = mpsc::channel(16);
        let (resume, resumed) = mpsc::channel(1);
        let doors = &self.shared.doors;
        let folder = &self.shared.ctx.config.images;
        let mut background = JoinSet::new();
        background.spawn(containerd::events(Arc::from(doors.socket.as_path()), events));
        let images = Images::new(doors.runtime.clone(), &doors.socket, folder, reports);
        background.spawn(images.run(resumed));
        self.run(happened, reported, resume).await
    }

    /// Until shutdown.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut reports: mpsc::Receiver<Report>,
        resume: mpsc::Sender<()>,
    ) -> anyhow::Result<()> {
        let mut revisions = self.shared.ctx.world.watch();
        let mut shutdown = self.shared.ctx.shutdown.clone();
        let mut addresses = self.shared.ctx.network.addresses();
        loop {
            let now = *revisions.borrow_and_update();
            self.sync(now).await;
            tokio::select! {
                () = stopped(&mut shutdown) => return Ok(()),
                changed = revisions.changed() => changed?,
                // They are part of every status, and the addresses of pods on the host's network.
                changed = addresses.changed() => {
                    changed?;
                    self.workers.values().for_each(|worker| worker.poke.poke());
                }
                Some(event) = events.recv() => self.happened(event, &resume).await,
                Some(report) = reports.recv() => self.image(report),
                Some(done) = self.tasks.join_next_with_id() => self.ended(done),
                () = sleep_until(self.status_at) => self.status().await,
                () = sleep_until(self.relist_at) => self.relist().await,
            }
        }
    }

    /// Give each pod its worker, and tell those whose pod or whose objects changed.
    async fn sync(&mut self, now: Revisions) {
        let moved = |one: fn(&Revisions) -> u64| one(&now) != one(&self.seen);
        let objects_moved = moved(|r| r.config_maps) || moved(|r| r.secrets);
        let first_list = moved(|r| r.listed);
        if moved(|r| r.pods) || objects_moved {
            let pods = self.shared.ctx.world.snapshot().pods;
            for (key, pod) in pods {
                self.assign(key, pod, objects_moved);
            }
        }
        self.seen = now;
        if first_list {
            self.relist().await;
        }
    }

    fn assign(&mut self, key: Key, pod: Arc<Pod>, objects_moved: bool) {
        let Some(uid) = pod.metadata.uid.clone() else {
            debug!(%key, "a pod without UID is not run");
            return;
        };
        if let Some(worker) = self.workers.get_mut(&uid) {
            let same = worker.pod.metadata == pod.metadata && worker.pod.spec == pod.spec;
            worker.pod = pod;
            if !same || objects_moved {
                worker.poke.poke();
            }
            return;
        }
        let (poke, poked) = roster::poke();
        let task = worker::run(self.shared.clone(), key, uid.clone(), poke.clone(), poked);
        self.owners.insert(self.tasks.spawn(task).id(), uid.clone());
        self.workers.insert(uid, Worker { pod, poke });
    }

    fn ended(&mut self, done: Result<(task::Id, ()), task::JoinError>) {
        let id = match &done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.owners.remove(&id) else {
            return;
        };
        if let Err(error) = done {
            error!(uid, %error, "a pod's worker broke off; it is started anew");
        }
        self.workers.remove(&uid);
        self.orphans.remove(&uid);
        // A pod that still stands in the world gets a new worker.
        self.seen.pods = 0;
    }

    async fn happened(&mut self, event: Event, resume: &mpsc::Sender<()>) {
        match event {
            Event::Exit { container } => {
                if !self.shared.roster.ended(&container) {
                    debug!(container, "an event of a container that no pod knows");
                }
            }
            // Perhaps only a child was killed: the container's own end is told by its exit.
            Event::OutOfMemory { container } => {
                self.shared.roster.touched(&container);
            }
            Event::Resumed => {
                // A full mailbox has the same message in it already.
                let _ = resume.try_send(());
                self.status().await;
                self.relist().await;
            }
            Event::Lost(message) => {
                self.set_ready(Err(format!("containerd: {message}")), None);
                self.status_at = Instant::now() + STATUS_BAD;
            }
        }
    }

    /// Ask the runtime how it is, and tell those who wait for it.
    async fn status(&mut self) {
        match self.shared.doors.runtime.status().await {
            Ok(state) => {
                let problem = |text: Option<String>| text.map_or(Ok(()), Err);
                self.set_ready(problem(state.runtime), Some(problem(state.network)));
            }
            Err(error) => self.set_ready(Err(error.to_string()), None),
        }
        let good = {
            let ready = self.ready.borrow();
            ready.runtime.is_ok() && ready.network.is_ok()
        };
        self.status_at = Instant::now() + if good { STATUS } else { STATUS_BAD };
    }

    fn set_ready(&mut self, runtime: Result<(), String>, network: Option<Result<(), String>>) {
        let before = self.ready.borrow().clone();
        let after = Readiness {
            network: network.unwrap_or_else(|| before.network.clone()),
            runtime,
        };
        if before == after {
            return;
        }
        match &after.runtime {
            Ok(()) if before.runtime.is_err() => info!("the container runtime is ready"),
            Err(error) => warn!(
                error,
                "the container runtime cannot be used; pods go on as they are"
            ),
            Ok(()) => {}
        }
        let health = after.runtime.clone().and_then(|()| {
            after
                .network
                .clone()
                .map_err(|error| format!("container runtime network not ready: {error}"))
        });
        self.shared.ctx.health.set(subsystem::RUNTIME, health);
        self.ready.send_replace(after);
        self.poke_all();
    }

    fn poke_all(&self) {
        for worker in self.workers.values() {
            worker.poke.poke();
        }
    }

    /// Everybody looks again, and what belongs to nobody is removed.
    async fn relist(&mut self) {
        self.relist_at = Instant::now() + RELIST;
        self.poke_all();
        if self.seen.listed == 0 {
            return;
        }
        let found = match orphan::find(&self.shared).await {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "orphans are looked for with the next list");
                return;
            }
        };
        for (uid, name) in found {
            if self.workers.contains_key(&uid) || self.orphans.contains(&uid) {
                continue;
            }
            let shared = self.shared.clone();
            let owner = uid.clone();
            let task = self
                .tasks
                .spawn(async move { orphan::remove(&shared, &uid, name.as_ref()).await });
            self.owners.insert(task.id(), owner.clone());
            self.orphans.insert(owner);
        }
    }

    /// An archive was imported, or could not be.
    fn image(&mut self, report: Report) {
        match report {
            Report::Imported { .. } => self.poke_all(),
            Report::Failed { from, message } => {
                let config = &self.shared.ctx.config;
                let subject = Subject {
                    kind: "Node",
                    key: Key::new("default", &config.node_name),
                    uid: None,
                    field: Some(from.display().to_string()),
                };
                let event = events::event(
                    subject,
                    events::WARNING,
                    "ImageImportFailed",
                    &message,
                    Timestamp::now(),
                );
                self.shared.ctx.world.update(|objects| objects.record(event));
            }
        }
    }
}

/// Shutdown was asked for, or nobody is left who could ask. What is waited for must not be held beyond.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Pods by UID, from a snapshot.
pub fn by_uid(pods: &BTreeMap<Key, Arc<Pod>>) -> HashMap<&str, &Arc<Pod>> {
    pods.values()
        .filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod)))
        .collect()
}
