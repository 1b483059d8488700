//! Manifests loop: what the folder says becomes the objects of the world.
//!
//! Observe: the files that changed are read, once their writer is done. Plan: `keelson_core::manifest` puts all
//! files together and carries over UIDs. Apply: the world, at once; then the store, so that UIDs and last good states survive
//! a restart. Report: what runs from each file and what is wrong with it. A folder that cannot be listed changes nothing.

mod apply;
mod report;
mod saved;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_core::manifest::{
    decode::decode,
    merge::{self, Merged, Reading, Readings},
    plan::{RunningSet, advance},
    validate::Rules,
};
use tokio::time::{self, Instant};
use tracing::error;
use uuid::Uuid;

use self::saved::Saved;
use crate::{
    config::{Config, Part},
    context::Context,
    doors::{
        manifests::{self as door, Change, DiskFolder, Folder, Watch},
        store::{FileStore, Store},
    },
    events,
    loops::workload,
    world::Revisions,
    yaml,
};

/// A file that somebody writes to is read after this long without a word from the writer, should its end never be told.
const WRITER_PATIENCE: Duration = Duration::from_secs(1);
/// A file that is gone may be about to come back: editors remove the old one before they put the new one in place.
const GONE_PATIENCE: Duration = Duration::from_millis(100);
/// The folder is read in full this often, in case a notice was lost.
const RELIST: Duration = Duration::from_secs(300);
/// A new folder is watched only a moment after it was noticed; what is put there in between shows in a later listing.
const FOLLOW_UPS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// After a failure the loop tries again this soon, then ever more slowly.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Run until shutdown. What fails is reported and tried again.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let folder = Arc::new(DiskFolder::new(&ctx.config.manifests));
    let store = Arc::new(FileStore::new(&ctx.config.state));
    ManifestsLoop::new(ctx, folder, store).run().await
}

struct ManifestsLoop {
    ctx: Context,
    folder: Arc<dyn Folder>,
    rules: Rules,
    /// What was read from each file last.
    readings: Readings,
    /// Files to read, and when.
    due: BTreeMap<PathBuf, Instant>,
    /// Whether the folder is to be listed.
    rescan: bool,
    /// When it is to be listed again.
    again: VecDeque<Instant>,
    /// Whether the folder is to be watched anew, since the old watch lost it.
    rewatch: bool,
    /// Whether the folder was read in full since the start.
    listed: bool,
    /// What is wrong with the folder itself.
    trouble: Option<String>,
    /// What runs from each file.
    merged: Merged,
    running: RunningSet,
    saved: Saved,
    store: Arc<dyn Store>,
    /// Pods of Deployments from before the start, until they are in the world.
    restored: Vec<Pod>,
    /// Whether the store lags behind what runs.
    unsaved: bool,
}

impl ManifestsLoop {
    fn new(ctx: Context, folder: Arc<dyn Folder>, store: Arc<dyn Store>) -> Self {
        let rules = rules(&ctx.config);
        Self {
            ctx,
            folder,
            rules,
            readings: Readings::new(),
            due: BTreeMap::new(),
            rescan: true,
            again: VecDeque::new(),
            rewatch: true,
            listed: false,
            trouble: None,
            merged: Merged::default(),
            running: RunningSet::new(),
            saved: Saved::new(Arc::clone(&store)),
            store,
            restored: Vec::new(),
            unsaved: true,
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let (accepted, damaged) = self.saved.load(&self.rules.node_name);
        for message in damaged {
            self.event("store", events::WARNING, "StateLost", &message);
        }
        let (pods, damaged) = workload::restore(&*self.store);
        for message in damaged {
            self.event("store", events::WARNING, "StateLost", &message);
        }
        self.restored = pods;
        self.running = apply::running_of(&accepted);
        self.merged.accepted = accepted;
        if let Err(error) = self.folder.create() {
            // Listing fails as well then, and is tried again until it works.
            error!("folder of manifests: {error}");
        }
        let mut shutdown = self.ctx.shutdown.clone();
        let mut revisions = self.ctx.world.watch();
        let mut watch: Option<Watch> = None;
        let mut retry = RETRY_FIRST;
        loop {
            let seen = *revisions.borrow_and_update();
            let fine = self.round(&mut watch, seen).await;
            let wait = if fine { RELIST } else { retry };
            retry = if fine {
                RETRY_FIRST
            } else {
                (retry * 2).min(RETRY_LAST)
            };
            let relist = self
                .again
                .front()
                .copied()
                .unwrap_or_else(|| Instant::now() + wait);
            let alarm = self.due.values().min().map_or(relist, |due| relist.min(*due));
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
                change = next_change(&mut watch) => match change {
                    Some(change) => self.note(change, &mut watch),
                    None => (watch, self.rewatch) = (None, true),
                },
                () = concerned(&mut revisions, seen) => {}
                () = time::sleep_until(alarm) => {
                    self.rescan |= alarm == relist;
                    self.again.retain(|at| *at > alarm);
                }
            }
        }
    }

    /// Remember what happened, with all that happened since.
    fn note(&mut self, first: Change, watch: &mut Option<Watch>) {
        let mut next = Some(first);
        while let Some(change) = next {
            match change {
                Change::Settled(path) => drop(self.due.insert(path, Instant::now())),
                Change::Writing(path) => drop(self.due.insert(path, Instant::now() + WRITER_PATIENCE)),
                // The folder itself: not the same as its files being gone.
                Change::Gone(path) if path.as_os_str().is_empty() => self.rewatch = true,
                Change::Gone(path) => self.gone(&path),
                Change::Rescan => {
                    let now = Instant::now();
                    self.rescan = true;
                    self.again = FOLLOW_UPS.into_iter().map(|after| now + after).collect();
                }
            }
            next = watch.as_mut().and_then(|watch| watch.changes.try_recv().ok());
        }
    }

    fn gone(&mut self, path: &Path) {
        let at = Instant::now() + GONE_PATIENCE;
        let known: Vec<PathBuf> = self
            .readings
            .keys()
            .chain(self.due.keys())
            .filter(|known| known.starts_with(path))
            .cloned()
            .collect();
        for path in known {
            self.due.insert(path, at);
        }
    }

    /// Observe, plan, apply, report: once. False = something failed and is to be tried again soon.
    async fn round(&mut self, watch: &mut Option<Watch>, seen: Revisions) -> bool {
        self.observe(watch);
        let fine = self.trouble.is_none();
        let mut changed = self.read_due();
        if !self.listed && self.rescan {
            // Nothing is known yet.
            self.report_trouble();
            return false;
        }
        // A port that the node gave or took back may settle what was refused.
        changed |= !self.listed || (!self.merged.problems.is_empty() && seen.services > 0);
        let now = Timestamp::now();
        let mut gone = RunningSet::new();
        if changed {
            gone = self.plan(now);
        }
        let renewed = self.ctx.world.update(|objects| {
            // Before anybody takes the pods to be all there are.
            apply::put_back(objects, std::mem::take(&mut self.restored));
            objects.revisions.listed = 1;
            apply::apply(objects, &mut self.running, &gone, now)
        });
        self.listed = true;
        self.unsaved |= changed || renewed;
        if changed {
            self.report();
        }
        self.report_trouble();
        self.save().await && fine
    }

    /// Bring the store up to date. False = it was not possible.
    async fn save(&mut self) -> bool {
        if !self.unsaved {
            return true;
        }
        self.merged.accepted = apply::with_uids(&self.merged.accepted, &self.running);
        match self.saved.save(&self.merged.accepted).await {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                error!("manifests' state is not on disk, a restart now would lose what changed: {error}");
            }
        }
        !self.unsaved
    }

    /// List the folder if that is due; every file found or known is then due to be read.
    fn observe(&mut self, watch: &mut Option<Watch>) {
        let mut unwatched = None;
        if self.rewatch {
            // Watch first, list then: nothing falls between.
            match self.folder.watch() {
                Ok(new) => {
                    *watch = Some(new);
                    self.rewatch = false;
                }
                // Without a watch the folder is still read, as often as watching it is tried again.
                Err(error) => unwatched = Some(error.to_string()),
            }
            self.rescan = true;
        }
        if !self.rescan {
            return;
        }
        match self.folder.list() {
            Ok(paths) => {
                let now = Instant::now();
                for path in paths.into_iter().chain(self.readings.keys().cloned()) {
                    self.due.entry(path).or_insert(now);
                }
                self.rescan = false;
                self.trouble = unwatched;
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// Read the files whose time has come; whether any says something else than before.
    fn read_due(&mut self) -> bool {
        let now = Instant::now();
        let ready: Vec<PathBuf> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(path, _)| path.clone())
            .collect();
        let mut changed = false;
        for path in ready {
            self.due.remove(&path);
            let reading = match self.folder.read(&path) {
                Ok(None) => {
                    changed |= self.readings.remove(&path).is_some();
                    continue;
                }
                Ok(Some(text)) => read_text(&path, &text, &self.rules),
                Err(error) => Err(vec![error.to_string()]),
            };
            changed |= self.readings.get(&path) != Some(&reading);
            self.readings.insert(path, reading);
        }
        changed
    }

    /// What shall run from now on; what ran and shall not any more is returned.
    fn plan(&mut self, now: Timestamp) -> RunningSet {
        let services = self.ctx.world.snapshot().services;
        self.merged = merge::merge(&self.readings, &self.merged.accepted, &services);
        let desired = self.merged.accepted.values().flatten().cloned();
        let next = advance(&self.running, desired, now, || Uuid::new_v4().to_string());
        let mut gone = std::mem::replace(&mut self.running, next);
        gone.retain(|id, _| !self.running.contains_key(id));
        gone
    }
}

/// What a file of this name and text holds, or all that is wrong with it.
pub(crate) fn read_text(path: &Path, text: &str, rules: &Rules) -> Reading {
    let format = door::format(path).unwrap_or(yaml::Format::Yaml);
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    for document in yaml::documents(text, format) {
        match document {
            Ok(document) => match decode(&document, rules) {
                Ok(found) => objects.extend(found),
                Err(found) => problems.extend(found.iter().map(ToString::to_string)),
            },
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() {
        Ok(objects)
    } else {
        Err(problems)
    }
}

/// What this node's configuration asks of objects.
pub(crate) fn rules(config: &Config) -> Rules {
    Rules {
        node_name: config.node_name.clone(),
        service_cidr: config.service_cidr,
        service_cidr_v6: config.service_cidr_v6(),
        node_port_range: config.node_port_range,
        runs_pods: config.part == Part::Node,
    }
}

/// The next change; never, where nothing is watched.
async fn next_change(watch: &mut Option<Watch>) -> Option<Change> {
    match watch {
        Some(watch) => watch.changes.recv().await,
        None => std::future::pending().await,
    }
}

/// Until something moved that this loop follows: pods that somebody ended, allocations of Services.
async fn concerned(revisions: &mut tokio::sync::watch::Receiver<Revisions>, seen: Revisions) {
    let moved = |now: &Revisions| now.pods != seen.pods || now.services != seen.services;
    if revisions.wait_for(moved).await.is_err() {
        // The world is gone, and with it the reason to wake.
        std::future::pending::<()>().await;
    }
}
