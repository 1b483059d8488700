//! What runs → what shall run: which objects are made, changed and removed, with the bookkeeping of UIDs and generations.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec, Service, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::object::{Id, Object};

/// An object that runs from a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// As the manifest says, with UID, generation and creation time.
    pub object: Object,
    /// Whether it was put into the world since the agent started. A pod that is there no more was ended by
    /// somebody and comes again under a new UID; before it was put there, its UID is the one it always had.
    pub placed: bool,
}

/// All of them.
pub type RunningSet = BTreeMap<Id, Running>;

/// Carry over what runs to what shall run. `uid` gives fresh UIDs.
pub fn advance(
    running: &RunningSet,
    desired: impl IntoIterator<Item = Object>,
    now: Timestamp,
    mut uid: impl FnMut() -> String,
) -> RunningSet {
    let mut next = RunningSet::new();
    for mut object in desired {
        let id = object.id();
        let old = running.get(&id);
        match old {
            // The same thing, or one that changes under its name.
            Some(old) if !must_be_replaced(&old.object, &object) => {
                let differs = spec_differs(&old.object, &object);
                keep(old.object.metadata(), &mut object, differs);
                next.insert(
                    id,
                    Running {
                        object,
                        placed: old.placed,
                    },
                );
            }
            _ => {
                fresh(object.metadata_mut(), now, uid());
                next.insert(
                    id,
                    Running {
                        object,
                        placed: false,
                    },
                );
            }
        }
    }
    next
}

/// A new life under the same name: for a pod that somebody ended.
pub fn renew(running: &mut Running, now: Timestamp, uid: String) {
    fresh(running.object.metadata_mut(), now, uid);
    running.placed = false;
}

fn fresh(metadata: &mut ObjectMeta, now: Timestamp, uid: String) {
    metadata.uid = Some(uid);
    // Kubernetes writes whole seconds; with a fraction the object would differ from itself once it was stored.
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    metadata.creation_timestamp = Some(Time(second));
    metadata.generation = Some(1);
    metadata.resource_version = Some("1".to_owned());
}

fn keep(old: &ObjectMeta, object: &mut Object, spec_differs: bool) {
    let metadata = object.metadata_mut();
    metadata.uid.clone_from(&old.uid);
    metadata.creation_timestamp.clone_from(&old.creation_timestamp);
    metadata.generation = Some(old.generation.unwrap_or(1) + i64::from(spec_differs));
    metadata.resource_version.clone_from(&old.resource_version);
    if spec_differs || metadata.labels != old.labels || metadata.annotations != old.annotations {
        let version = old
            .resource_version
            .as_deref()
            .and_then(|text| text.parse::<u64>().ok());
        metadata.resource_version = Some((version.unwrap_or(1) + 1).to_string());
    }
}

/// Whether anything but names and labels differs.
fn spec_differs(old: &Object, new: &Object) -> bool {
    let (mut old, mut new) = (old.clone(), new.clone());
    *old.metadata_mut() = ObjectMeta::default();
    *new.metadata_mut() = ObjectMeta::default();
    old != new
}

/// Only a pod is ever replaced: what its containers are made of cannot change under them, except for their images.
fn must_be_replaced(old: &Object, new: &Object) -> bool {
    match (old, new) {
        (Object::Pod(old), Object::Pod(new)) => match (&old.spec, &new.spec) {
            (Some(old), Some(new)) => !changes_in_place(old, new),
            _ => false,
        },
        _ => false,
    }
}

/// Whether the pod may go on with the new specification: only images and the deadline differ.
pub fn changes_in_place(old: &PodSpec, new: &PodSpec) -> bool {
    let mut old = old.clone();
    old.active_deadline_seconds = new.active_deadline_seconds;
    let pairs = old.containers.iter_mut().zip(&new.containers);
    let init = old
        .init_containers
        .iter_mut()
        .flatten()
        .zip(new.init_containers.iter().flatten());
    for (old, new) in pairs.chain(init) {
        if old.name == new.name {
            old.image.clone_from(&new.image);
            // The default depends on the tag, hence it moves with it.
            old.image_pull_policy.clone_from(&new.image_pull_policy);
        }
    }
    old == *new
}

/// What is to be done about one pod of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum PodStep {
    /// It is there as it shall be, or nothing can be done before another pod of its name is gone.
    Wait,
    /// Put it into the world.
    Create,
    /// Another life of it is there: end that one, by UID.
    End(String),
    /// It is there with an older specification: give it this one, keeping its status.
    Change(Box<Pod>),
    /// It was there and somebody ended it: give it a new life first.
    Renew,
}

/// The next step for a pod that shall run, given the pod of that name in the world.
pub fn pod_step(running: &Running, there: Option<&Pod>) -> PodStep {
    let Object::Pod(wanted) = &running.object else {
        return PodStep::Wait;
    };
    let Some(there) = there else {
        return if running.placed {
            PodStep::Renew
        } else {
            PodStep::Create
        };
    };
    let ending = there.metadata.deletion_timestamp.is_some();
    if there.metadata.uid != wanted.metadata.uid {
        let owned = there
            .metadata
            .owner_references
            .as_ref()
            .is_some_and(|owners| !owners.is_empty());
        return match &there.metadata.uid {
            // A pod of a Deployment that has this very name is not ours to end.
            Some(uid) if !ending && !owned => PodStep::End(uid.clone()),
            _ => PodStep::Wait,
        };
    }
    let same = there.spec == wanted.spec
        && there.metadata.labels == wanted.metadata.labels
        && there.metadata.annotations == wanted.metadata.annotations;
    if ending || same {
        return PodStep::Wait;
    }
    let metadata = ObjectMeta {
        labels: wanted.metadata.labels.clone(),
        annotations: wanted.metadata.annotations.clone(),
        generation: wanted.metadata.generation,
        resource_version: wanted.metadata.resource_version.clone(),
        ..there.metadata.clone()
    };
    PodStep::Change(Box::new(Pod {
        metadata,
        spec: wanted.spec.clone(),
        status: there.status.clone(),
    }))
}

/// A Service as it is put into the world: what the node allocated stays where the manifest leaves it open.
pub fn with_allocations(wanted: &Service, there: Option<&Service>) -> Service {
    let mut service = wanted.clone();
    let Some(there) = there.filter(|there| there.metadata.uid == wanted.metadata.uid) else {
        return service;
    };
    if let (Some(spec), Some(old)) = (&mut service.spec, &there.spec) {
        keep_allocated(spec, old);
    }
    service
}

/// Take over the address and the node ports of `old` that `spec` leaves open and may have.
pub fn keep_allocated(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if spec.cluster_ip.is_none() && old.cluster_ip.as_deref() != Some("None") {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        spec.cluster_ips.clone_from(&old.cluster_ips);
    }
    if !matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        return;
    }
    let ports = spec.ports.get_or_insert_default();
    let mut used: BTreeSet<_> = ports
        .iter()
        .filter_map(|port| Some((port.node_port?, port.protocol.clone())))
        .collect();
    for port in ports.iter_mut().filter(|port| port.node_port.is_none()) {
        let same = old
            .ports
            .iter()
            .flatten()
            .filter(|old| old.protocol == port.protocol)
            .find(|old| {
                let named = old.name.is_some() && old.name == port.name;
                (named || old.port == port.port)
                    && !used.contains(&(old.node_port.unwrap_or(0), old.protocol.clone()))
            });
        port.node_port = same.and_then(|old| old.node_port);
        used.extend(port.node_port.map(|number| (number, port.protocol.clone())));
    }
}
