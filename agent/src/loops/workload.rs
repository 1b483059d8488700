//! Workload loop: Deployments become pods.
//!
//! Observe: Deployments and their pods in the world, generations in the store. Plan: `keelson_core::workload`. Apply: pods are
//! put into the world or told to end, the Deployments' statuses are written. Then the store: pods keep their names and UIDs
//! over a restart, since the manifests loop puts them back before it says that all is listed ([`restore`]).

mod saved;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use keelson_core::{
    object::Key,
    workload::{self, Generation, Plan, template},
};
use tokio::{sync::watch, time};
use tracing::{error, info};
use uuid::Uuid;

use self::saved::Saved;
pub use self::saved::restore;
use crate::{
    context::Context,
    doors::store::{FileStore, Store},
    events::{self, Subject},
    world::{Objects, Revisions},
};

/// A store that failed is tried again this soon.
const RETRY: Duration = Duration::from_secs(5);
/// No plan is older than this: the clock may have been set meanwhile.
const RELIST: Duration = Duration::from_secs(300);
/// Names of pods end in five random characters; one that is taken is drawn again.
const DRAWS: usize = 8;

/// Pods are given this long to be looked at after the agent's start.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// Run until shutdown. What fails is reported and tried again.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let store = Arc::new(FileStore::new(&ctx.config.state));
    WorkloadLoop::new(ctx, store).run().await
}

struct WorkloadLoop {
    ctx: Context,
    /// Generations of each Deployment, by its UID.
    generations: BTreeMap<String, Vec<Generation>>,
    saved: Saved,
}

/// What is to be done for one Deployment.
struct Work {
    deployment: Arc<Deployment>,
    before: Vec<Generation>,
    plan: Plan,
}

impl WorkloadLoop {
    fn new(ctx: Context, store: Arc<dyn Store>) -> Self {
        Self {
            ctx,
            generations: BTreeMap::new(),
            saved: Saved::new(store),
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut shutdown = self.ctx.shutdown.clone();
        let mut revisions = self.ctx.world.watch();
        // Before the manifests were read, "no Deployment" means "not known yet".
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            listed = revisions.wait_for(|now| now.listed > 0) => drop(listed?),
        }
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
            // A runtime that is away longer than this must not keep Deployments from being told of.
            _ = time::timeout(FIRST_LOOK, self.first_look()) => {}
        }
        self.generations = self.saved.load();
        loop {
            let seen = *revisions.borrow_and_update();
            let again = self.round(Timestamp::now());
            let saved = self
                .saved
                .save(&self.ctx.world.snapshot(), &self.generations)
                .await;
            if let Err(error) = &saved {
                error!("Deployments' state is not on disk, a restart now would replace pods: {error}");
            }
            let longest = if saved.is_ok() { RELIST } else { RETRY };
            let wait = again.map_or(longest, |again| until(again).min(longest));
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
                () = concerned(&mut revisions, seen) => {}
                () = time::sleep(wait) => {}
            }
        }
    }

    /// Wait until every pod was looked at: before that a pod that serves looks like one that does not, and might be the one to go.
    async fn first_look(&self) {
        let mut revisions = self.ctx.world.watch();
        while !self.ctx.world.snapshot().pods_are_known() && revisions.changed().await.is_ok() {}
    }

    /// Observe, plan, apply: once. When time alone calls for the next round.
    fn round(&mut self, now: Timestamp) -> Option<Timestamp> {
        let snapshot = self.ctx.world.snapshot();
        let mut owned: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in snapshot.pods.values() {
            if let Some(owner) = template::owner(pod) {
                owned.entry(owner).or_default().push(pod);
            }
        }
        let mut works = Vec::new();
        for deployment in snapshot.deployments.values() {
            let Some(uid) = deployment.metadata.uid.as_deref() else {
                continue;
            };
            let pods = owned.remove(uid).unwrap_or_default();
            let before = self.generations.get(uid).cloned().unwrap_or_default();
            let plan = workload::plan(deployment, &pods, &before, now);
            self.generations.insert(uid.to_owned(), plan.generations.clone());
            works.push(Work {
                deployment: Arc::clone(deployment),
                before,
                plan,
            });
        }
        // What is left belongs to Deployments that are gone.
        let orphans: Vec<(Key, String)> = owned
            .into_values()
            .flatten()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(|pod| {
                (
                    Key::of(&pod.metadata),
                    pod.metadata.uid.clone().unwrap_or_default(),
                )
            })
            .collect();
        self.generations.retain(|uid, _| {
            works
                .iter()
                .any(|work| work.deployment.metadata.uid.as_ref() == Some(uid))
        });
        let again = works.iter().filter_map(|work| work.plan.again).min();
        let node = &self.ctx.config.node_name;
        self.ctx.world.update(|objects| {
            for (key, uid) in &orphans {
                info!("pod {key}: its Deployment is gone, it ends");
                objects.delete_pod(key, uid, None, now);
            }
            works.iter().for_each(|work| work.apply(objects, node, now));
        });
        again
    }
}

impl Work {
    fn apply(&self, objects: &mut Objects, node: &str, now: Timestamp) {
        self.tell_scaling(objects, now);
        for hash in &self.plan.create {
            self.create(objects, hash, node, now);
        }
        for (key, uid) in &self.plan.delete {
            let ending = objects
                .pods
                .get(key)
                .is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
            if !ending && objects.delete_pod(key, uid, None, now) {
                self.tell(
                    objects,
                    "SuccessfulDelete",
                    &format!("pod {} is told to end", key.name),
                    now,
                );
            }
        }
        let key = Key::of(&self.deployment.metadata);
        let there = objects.deployments.get_mut(&key);
        let Some(there) = there.filter(|there| there.metadata.uid == self.deployment.metadata.uid) else {
            return;
        };
        if there.status.as_ref() != Some(&self.plan.status) {
            Arc::make_mut(there).status = Some(self.plan.status.clone());
            objects.revisions.deployments += 1;
        }
    }

    fn create(&self, objects: &mut Objects, hash: &str, node: &str, now: Timestamp) {
        let Some(generation) = self.plan.generations.iter().find(|one| one.hash == hash) else {
            return;
        };
        let pod = (0..DRAWS).find_map(|_| {
            let (uid, random) = (Uuid::new_v4().to_string(), Uuid::new_v4().into_bytes());
            // Its first five bytes hold no version bits.
            let tail = template::tail([random[0], random[1], random[2], random[3], random[4]]);
            template::pod(&self.deployment, generation, node, &tail, &uid, now)
                .filter(|pod| !objects.pods.contains_key(&Key::of(&pod.metadata)))
        });
        // Without a free name nothing is made now; the next round draws again.
        if let Some(pod) = pod {
            let name = pod.metadata.name.clone().unwrap_or_default();
            objects.put_pod(pod);
            self.tell(
                objects,
                "SuccessfulCreate",
                &format!("pod {name} is created"),
                now,
            );
        }
    }

    fn tell_scaling(&self, objects: &mut Objects, now: Timestamp) {
        for one in &self.plan.generations {
            let before = self
                .before
                .iter()
                .find(|before| before.hash == one.hash)
                .map_or(0, |before| before.replicas);
            if before != one.replicas {
                let message = format!("template {}: from {before} to {} pods", one.hash, one.replicas);
                info!("Deployment {}: {message}", Key::of(&self.deployment.metadata));
                self.tell(objects, "ScalingReplicaSet", &message, now);
            }
        }
    }

    fn tell(&self, objects: &mut Objects, reason: &str, message: &str, now: Timestamp) {
        let metadata = &self.deployment.metadata;
        let (key, uid) = (Key::of(metadata), metadata.uid.clone());
        let subject = Subject {
            kind: "Deployment",
            key,
            uid,
            field: None,
        };
        objects.record(events::event(subject, events::NORMAL, reason, message, now));
    }
}

/// Until something moved that this loop follows.
async fn concerned(revisions: &mut watch::Receiver<Revisions>, seen: Revisions) {
    let moved = |now: &Revisions| now.pods != seen.pods || now.deployments != seen.deployments;
    if revisions.wait_for(moved).await.is_err() {
        // The world is gone, and with it the reason to wake.
        std::future::pending::<()>().await;
    }
}

/// How long until `then`; a little more, so that it has come indeed.
fn until(then: Timestamp) -> Duration {
    let left = then.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or_default() + Duration::from_millis(5)
}
