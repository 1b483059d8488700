//! What every loop reads and reports to: the objects as Kubernetes types, and one revision per kind.
//!
//! | objects | created and deleted by | status or allocated fields by |
//! |---|---|---|
//! | pods | manifests loop, workload loop (owned by a Deployment); removed by the pod loop | pod loop |
//! | deployments | manifests loop | workload loop |
//! | services | manifests loop | service loop (`clusterIP`, `nodePort`) |
//! | endpoint slices | manifests loop (written by hand), service loop (from pods) | – |
//! | peers | manifests loop | network loop |
//! | config maps, secrets | manifests loop | – |
//! | node | node loop, with what a manifest says of it | node loop |
//! | events, manifest reports | whoever saw it | – |
//!
//! Loops are level-triggered: they wait until a revision they care about moved, take a snapshot and plan afresh.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Event, Node, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_core::{network::peers::object::KeelsonPeer, object::Key};
use tokio::sync::watch;

/// Events kept for `keelson get events`.
const EVENTS_KEPT: usize = 1000;

/// One revision per kind; it moves with every change of an object of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// Pods, spec or status.
    pub pods: u64,
    /// Deployments.
    pub deployments: u64,
    /// Services.
    pub services: u64,
    /// EndpointSlices.
    pub endpoint_slices: u64,
    /// Other nodes.
    pub peers: u64,
    /// ConfigMaps.
    pub config_maps: u64,
    /// Secrets.
    pub secrets: u64,
    /// The node.
    pub node: u64,
    /// What a manifest says of this node.
    pub given_node: u64,
    /// Events.
    pub events: u64,
    /// Reports about manifest files.
    pub manifests: u64,
    /// Moves once, when the manifest folder was read for the first time: nothing is deleted before.
    pub listed: u64,
}

/// What a manifest file gave: its objects, or what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestReport {
    /// Objects that run from this file (its last good state).
    pub objects: Vec<String>,
    /// What is wrong, one line each: document, line, field, cause. Empty = good.
    pub errors: Vec<String>,
}

/// A snapshot is this by value: the maps hold `Arc`s, so cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Pods by namespace and name.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    /// Deployments.
    pub deployments: BTreeMap<Key, Arc<Deployment>>,
    /// Services.
    pub services: BTreeMap<Key, Arc<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<Key, Arc<EndpointSlice>>,
    /// Other nodes, by name.
    pub peers: BTreeMap<Key, Arc<KeelsonPeer>>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<Key, Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: BTreeMap<Key, Arc<Secret>>,
    /// This node; its name is set from the start.
    pub node: Arc<Node>,
    /// What a manifest says of this node: labels, annotations, taints. The node loop puts it into the Node.
    pub given_node: Option<Arc<Node>>,
    /// Oldest first; repeated ones are counted, not repeated.
    pub events: VecDeque<Arc<Event>>,
    /// By path relative to the manifests folder.
    pub manifests: BTreeMap<PathBuf, ManifestReport>,
    /// Revisions at the time of the snapshot.
    pub revisions: Revisions,
}

/// The shared state. Cheap to clone by `Arc`.
pub struct World {
    objects: Mutex<Objects>,
    revisions: watch::Sender<Revisions>,
    programmed: watch::Sender<u64>,
}

impl World {
    /// A world with the node's object in it and nothing else.
    pub fn new(node: Node) -> Arc<Self> {
        let objects = Objects {
            node: Arc::new(node),
            ..Objects::default()
        };
        Arc::new(Self {
            objects: Mutex::new(objects),
            revisions: watch::Sender::new(Revisions::default()),
            programmed: watch::Sender::new(0),
        })
    }

    /// The objects as they are now.
    pub fn snapshot(&self) -> Objects {
        self.lock().clone()
    }

    /// Look at objects under the lock, without a copy of all; `look` must not block.
    pub fn read<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.lock())
    }

    /// Change objects under the lock. `change` raises the revisions of the kinds it touched through
    /// [`Objects::revisions`]; it must not block. Receivers wake only if a revision moved.
    pub fn update<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let mut objects = self.lock();
        let result = change(&mut objects);
        let revisions = objects.revisions;
        self.revisions
            .send_if_modified(|current| std::mem::replace(current, revisions) != revisions);
        result
    }

    /// Wait on revisions: `receiver.wait_for(|r| r.pods != seen.pods)`.
    pub fn watch(&self) -> watch::Receiver<Revisions> {
        self.revisions.subscribe()
    }

    /// The service loop says that the dataplane's maps reflect the pods of this revision.
    pub fn set_programmed(&self, pods_revision: u64) {
        self.programmed
            .send_if_modified(|current| std::mem::replace(current, pods_revision) != pods_revision);
    }

    /// The pods revision the dataplane reflects: a pod is told to stop only after its endpoints left the maps.
    pub fn programmed(&self) -> watch::Receiver<u64> {
        self.programmed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        // A panicking loop ends the process; until then the objects are whole, since updates replace values.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects {
    /// Insert or replace a pod.
    pub fn put_pod(&mut self, pod: Pod) {
        self.pods.insert(Key::of(&pod.metadata), Arc::new(pod));
        self.revisions.pods += 1;
    }

    /// Ask for a pod's end: sets `deletionTimestamp` and the grace period (its own where `None`). The pod loop removes it.
    /// Grace can only be shortened once it runs. Returns whether there was such a pod with that UID.
    pub fn delete_pod(
        &mut self,
        key: &Key,
        uid: &str,
        grace_seconds: Option<i64>,
        now: jiff::Timestamp,
    ) -> bool {
        let Some(pod) = self
            .pods
            .get_mut(key)
            .filter(|pod| pod.metadata.uid.as_deref() == Some(uid))
        else {
            return false;
        };
        let own = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        let grace = grace_seconds.unwrap_or(own);
        let metadata = &pod.metadata;
        if metadata.deletion_timestamp.is_some()
            && metadata
                .deletion_grace_period_seconds
                .is_some_and(|current| current <= grace)
        {
            return true;
        }
        let metadata = &mut Arc::make_mut(pod).metadata;
        metadata.deletion_timestamp.get_or_insert(Time(now));
        metadata.deletion_grace_period_seconds = Some(grace);
        self.revisions.pods += 1;
        true
    }

    /// Whether every pod has been looked at in the runtime. After a restart of the agent a pod without a status is not known
    /// yet, which is something else than not running: nobody may act on it, or tell of it.
    pub fn pods_are_known(&self) -> bool {
        self.revisions.listed > 0 && self.pods.values().all(|pod| pod.status.is_some())
    }

    /// Record an event; the same event again only raises its count and time.
    pub fn record(&mut self, event: Event) {
        let same = |other: &Arc<Event>| {
            other.involved_object == event.involved_object
                && other.reason == event.reason
                && other.message == event.message
                && other.type_ == event.type_
        };
        match self.events.iter().position(same) {
            Some(at) => {
                if let Some(mut old) = self.events.remove(at) {
                    let merged = Arc::make_mut(&mut old);
                    merged.count = Some(merged.count.unwrap_or(1) + 1);
                    merged.last_timestamp = event.last_timestamp;
                    self.events.push_back(old);
                }
            }
            None => self.events.push_back(Arc::new(event)),
        }
        while self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
        self.revisions.events += 1;
    }
}
