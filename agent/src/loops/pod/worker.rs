//! One pod's worker: observe, plan, apply, and again until the plan is empty; then sleep until poked or until time
//! itself changes the plan.
//!
//! What is seen of the runtime is kept between rounds and brought up to date by the outcomes of the worker's own steps;
//! it is read anew after every poke and every failure. Long things (ending a container, fetching an image, hooks) run
//! beside the rounds, and the observation says that they do.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_core::{
    object::Key,
    pod::{self as core, Observed, State, backoff::Backoffs, observed::Prepared},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    acknowledge::Deletion,
    dispatcher::Shared,
    keep::{self, Keep},
    observe::{Known, Seen},
    orphan,
    probing::Probes,
    report,
    roster::{Poke, Poked},
};
use crate::{
    doors::cri::Error,
    world::{Objects, Revisions},
};

/// A list that failed is tried again after this; an outage ends with a poke.
const RETRY: Duration = Duration::from_secs(1);
/// CRI takes in containerd's exits by itself; until then it shows the container as running.
const LAG_FIRST: Duration = Duration::from_millis(2);
const LAG_STEP: Duration = Duration::from_millis(100);
const LAG_LONGEST: Duration = Duration::from_secs(5);

/// Run until the pod is gone from world and machine.
pub async fn run(shared: Shared, key: Key, uid: String, poke: Poke, poked: Poked) {
    let span = info_span!("pod", pod = %key, uid);
    Worker::new(shared, key, uid, poke, poked)
        .run()
        .instrument(span)
        .await;
}

/// What the worker does after a round.
pub(super) enum Next {
    /// Plan again at once.
    Again,
    /// Wait for a poke, or until then.
    Wait(Option<Instant>),
    /// The pod is gone.
    End,
}

/// Processes that ended, and that the runtime still shows as running.
struct Ended {
    ids: Vec<String>,
    since: Instant,
    wait: Duration,
}

/// A worker's state; the steps are in `apply`.
pub struct Worker {
    pub(super) shared: Shared,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) poke: Poke,
    poked: Poked,
    pub(super) known: Known,
    /// What the runtime shows; `stale` = it must be read.
    pub(super) seen: Seen,
    pub(super) stale: bool,
    /// The parts of an observation that the worker knows by itself.
    pub(super) memory: Observed,
    pub(super) backoffs: Backoffs,
    /// Failures in a row by what failed: decides the next wait.
    pub(super) failures: BTreeMap<String, u32>,
    pub(super) keep: Keep,
    pub(super) probes: Probes,
    /// Long steps.
    pub(super) beside: JoinSet<super::apply::Done>,
    /// After a failure that the plan does not know of.
    pub(super) pause_until: Option<Instant>,
    ended: Option<Ended>,
    pub(super) deletion: Option<Deletion>,
    revisions: Revisions,
}

impl Worker {
    fn new(shared: Shared, key: Key, uid: String, poke: Poke, poked: Poked) -> Self {
        let doors = &shared.doors;
        let keep = Keep::open(doors.store.clone(), &uid);
        let probes = Probes::new(
            doors.runtime.clone(),
            doors.prober.clone(),
            poke.clone(),
            report::teller(shared.clone(), key.clone(), uid.clone()),
        );
        keep::restore(keep.record(), &probes.board);
        let memory = Observed {
            terminated: keep.record().terminated,
            rejected: keep.record().rejected.clone(),
            ..Observed::default()
        };
        Self {
            shared,
            key,
            uid,
            poke,
            poked,
            known: Known::default(),
            seen: Seen::default(),
            stale: true,
            memory,
            backoffs: Backoffs::default(),
            failures: BTreeMap::new(),
            keep,
            probes,
            beside: JoinSet::new(),
            pause_until: None,
            ended: None,
            deletion: None,
            revisions: Revisions::default(),
        }
    }

    async fn run(mut self) {
        let mut programmed = self.shared.ctx.world.programmed();
        loop {
            // What they announced is looked at in this round.
            let (poked, ended) = self.poked.take();
            self.stale |= poked;
            self.expect(ended);
            let until = match self.round().await {
                Next::Again => continue,
                Next::End => return,
                Next::Wait(until) => until,
            };
            let waits_for_dataplane = self.deletion.is_some() && !self.memory.endpoints_acknowledged;
            tokio::select! {
                () = self.poked.wait() => {}
                Some(done) = self.beside.join_next() => self.done(done),
                _ = programmed.changed(), if waits_for_dataplane => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    /// Observe, plan, report, apply: once.
    async fn round(&mut self) -> Next {
        let objects = self.shared.ctx.world.snapshot();
        let pod = objects
            .pods
            .get(&self.key)
            .filter(|pod| pod.metadata.uid.as_ref() == Some(&self.uid))
            .cloned();
        let Some(pod) = pod.map(|pod| self.remembered(pod)) else {
            return self.vanished(&objects).await;
        };
        self.objects_moved(&pod, objects.revisions);
        if self.stale
            && let Err(error) = self.look().await
        {
            let outage = self.shared.ready.borrow().runtime.is_err();
            debug!(%error, outage, "the runtime was not read");
            return Next::Wait(Some(Instant::now() + RETRY));
        }
        if let Some(soon) = self.lagging() {
            return Next::Wait(Some(soon));
        }
        if let Err(error) = self.images(&pod).await {
            // Unknown is not absent: what is there must not be fetched.
            debug!(%error, "the images are asked for again");
            return Next::Wait(Some(Instant::now() + RETRY));
        }
        self.acknowledge(&pod, objects.revisions.pods);
        let observed = self.observed();
        let now = (self.shared.doors.clock)();
        let plan = core::plan(&pod, &observed, &self.backoffs, now);
        self.report(&pod, &observed, now);
        self.probe(&pod, &observed);
        self.write_down();
        if plan.steps.is_empty() {
            return Next::Wait(self.wake(plan.wake_at, now));
        }
        if let Some(pause) = self.pause_until.take_if(|until| *until > Instant::now()) {
            // Nothing else may happen meanwhile that is worth a call: the same steps would fail the same way.
            self.pause_until = Some(pause);
            return Next::Wait(Some(pause));
        }
        debug!(steps = ?plan.steps, "plan");
        self.apply(&pod, &objects, observed, plan.steps).await
    }

    async fn look(&mut self) -> Result<(), Error> {
        self.seen = self.known.observe(&self.shared, &self.uid).await?;
        self.stale = false;
        if self.seen.sandboxes.iter().any(|sandbox| sandbox.ready) {
            // It was made although the call failed.
            self.memory.sandbox_error = None;
        }
        for id in self.ids() {
            self.shared.roster.add(&id, &self.poke);
        }
        let alive = |id: &String| {
            self.seen
                .containers
                .iter()
                .any(|container| container.id == *id && container.state != State::Exited)
        };
        self.memory.killing.retain(|id, _| alive(id));
        Ok(())
    }

    /// containerd told that these ended; CRI shows it a little later.
    fn expect(&mut self, ended: Vec<String>) {
        if !ended.is_empty() {
            self.ended = Some(Ended {
                ids: ended,
                since: Instant::now(),
                wait: LAG_FIRST,
            });
        }
    }

    /// When to look again because the runtime does not show yet what its event said. It gives up in the end: an event of
    /// a container that was started again meanwhile, or one that is not true, must not keep the worker busy.
    fn lagging(&mut self) -> Option<Instant> {
        let ended = self.ended.as_mut()?;
        let alive = |id: &str| {
            let containers = self
                .seen
                .containers
                .iter()
                .any(|one| one.id == id && one.state == State::Running);
            containers || self.seen.sandboxes.iter().any(|one| one.id == id && one.ready)
        };
        ended.ids.retain(|id| alive(id));
        if ended.ids.is_empty() || ended.since.elapsed() > LAG_LONGEST {
            self.ended = None;
            return None;
        }
        let soon = Instant::now() + ended.wait;
        ended.wait = (ended.wait * 2).min(LAG_STEP);
        self.stale = true;
        Some(soon)
    }

    fn ids(&self) -> Vec<String> {
        let sandboxes = self.seen.sandboxes.iter().map(|sandbox| sandbox.id.clone());
        sandboxes
            .chain(self.seen.containers.iter().map(|container| container.id.clone()))
            .collect()
    }

    /// ConfigMaps or Secrets changed: volumes follow, and what waited for them is tried again.
    fn objects_moved(&mut self, pod: &Pod, now: Revisions) {
        let before = std::mem::replace(&mut self.revisions, now);
        if before.config_maps == now.config_maps && before.secrets == now.secrets {
            return;
        }
        self.memory.config_errors.clear();
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        let follows = volumes
            .into_iter()
            .flatten()
            .any(|one| one.config_map.is_some() || one.secret.is_some());
        if follows {
            self.memory.volumes = Prepared::No;
        }
    }

    /// Whether the images are there that containers are about to need.
    async fn images(&mut self, pod: &Pod) -> Result<(), Error> {
        let ends = pod.metadata.deletion_timestamp.is_some() || self.memory.terminated;
        let Some(spec) = pod.spec.as_ref().filter(|_| !ends) else {
            return Ok(());
        };
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        for container in all {
            let image = container.image.clone().unwrap_or_default();
            let latest = self
                .seen
                .containers
                .iter()
                .filter(|seen| seen.name == container.name);
            let runs = latest
                .max_by_key(|seen| seen.attempt)
                .is_some_and(|seen| seen.state == State::Running);
            if runs || self.memory.images.get(&image).is_some_and(|state| state.present) {
                continue;
            }
            let found = self.shared.doors.runtime.image(&image).await?;
            self.memory.images.entry(image).or_default().present = found.is_some();
        }
        Ok(())
    }

    fn wake(&self, at: Option<Timestamp>, now: Timestamp) -> Option<Instant> {
        let planned = at.map(|at| {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            // A whole millisecond later: the plan must find the time to have come.
            Instant::now() + wait + Duration::from_millis(1)
        });
        let unacknowledged = !self.memory.endpoints_acknowledged;
        let confirm = self
            .deletion
            .as_ref()
            .filter(|_| unacknowledged)
            .map(|deletion| deletion.since + deletion.limit);
        planned.into_iter().chain(confirm).min()
    }

    /// The world lost the pod without asking for its end, or another took its name: nothing of it may stay.
    async fn vanished(&mut self, objects: &Objects) -> Next {
        if objects.revisions.listed == 0 {
            // Not known yet, as long as the manifests were not read.
            return Next::Wait(None);
        }
        info!("the pod is not asked for any more");
        self.leave_roster();
        orphan::remove(&self.shared, &self.uid, Some(&self.key)).await;
        Next::End
    }

    /// Everything of the deleted pod has ended: remove what is left, then the object.
    pub(super) async fn finish(&mut self) -> Finished {
        if let Err(error) = orphan::clean(&self.shared, &self.uid, Some(&self.key)).await {
            warn!(
                error = format!("{error:#}"),
                "the pod's remains cannot be removed yet"
            );
            return Finished::NotYet;
        }
        self.leave_roster();
        self.shared.ctx.world.update(|objects| {
            let ours = objects
                .pods
                .get(&self.key)
                .is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&self.uid));
            if ours {
                objects.pods.remove(&self.key);
                objects.revisions.pods += 1;
            }
        });
        info!("the pod is gone");
        Finished::Gone
    }

    fn leave_roster(&self) {
        for id in self.ids() {
            self.shared.roster.remove(&id);
        }
    }
}

/// What came of the last step.
pub(super) enum Finished {
    /// All gone.
    Gone,
    /// Not yet.
    NotYet,
}
