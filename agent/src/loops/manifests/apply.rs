//! What shall run → the world.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    Metadata,
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use keelson_core::{
    manifest::{
        merge::Accepted,
        object::{Id, Kind, Object},
        plan::{PodStep, Running, RunningSet, pod_step, renew, with_allocations},
    },
    network::peers::object::KeelsonPeer,
    object::Key,
};
use uuid::Uuid;

use crate::world::Objects;

/// What ran when the agent stopped, from its last good states.
pub(super) fn running_of(accepted: &Accepted) -> RunningSet {
    let objects = accepted.values().flatten().cloned();
    objects
        .map(|object| {
            (
                object.id(),
                Running {
                    object,
                    placed: false,
                },
            )
        })
        .collect()
}

/// The same files with the objects as they run: with UID and generation.
pub(super) fn with_uids(accepted: &Accepted, running: &RunningSet) -> Accepted {
    let file = |objects: &Vec<Object>| {
        objects
            .iter()
            .filter_map(|object| running.get(&object.id()))
            .map(|running| running.object.clone())
            .collect()
    };
    accepted
        .iter()
        .map(|(path, objects)| (path.clone(), file(objects)))
        .collect()
}

/// Put pods of Deployments back into the world, as they were before the agent was started.
pub(super) fn put_back(objects: &mut Objects, pods: Vec<Pod>) {
    for pod in pods {
        if !objects.pods.contains_key(&Key::of(&pod.metadata)) {
            objects.put_pod(pod);
        }
    }
}

/// Bring the world to what shall run; doing it twice changes nothing. `gone` ran and shall not any more.
/// Whether a pod that somebody ended got a new life.
pub(super) fn apply(
    objects: &mut Objects,
    running: &mut RunningSet,
    gone: &RunningSet,
    now: Timestamp,
) -> bool {
    for (id, old) in gone {
        remove(objects, id, old.object.metadata(), now);
    }
    let mut renewed = false;
    for (id, one) in running {
        renewed |= place(objects, &id.key, one, now);
    }
    renewed
}

fn place(objects: &mut Objects, key: &Key, running: &mut Running, now: Timestamp) -> bool {
    let revisions = &mut objects.revisions;
    match &running.object {
        Object::Pod(_) => return place_pod(objects, key, running, now),
        Object::Deployment(wanted) => {
            let status = objects
                .deployments
                .get(key)
                .and_then(|there| there.status.clone());
            put(
                &mut objects.deployments,
                key,
                Deployment {
                    status,
                    ..wanted.clone()
                },
                &mut revisions.deployments,
            );
        }
        Object::Service(wanted) => {
            let service = with_allocations(wanted, objects.services.get(key).map(Arc::as_ref));
            put(&mut objects.services, key, service, &mut revisions.services);
        }
        Object::ConfigMap(wanted) => {
            put(
                &mut objects.config_maps,
                key,
                wanted.clone(),
                &mut revisions.config_maps,
            );
        }
        Object::Secret(wanted) => put(&mut objects.secrets, key, wanted.clone(), &mut revisions.secrets),
        Object::EndpointSlice(wanted) => {
            put(
                &mut objects.endpoint_slices,
                key,
                wanted.clone(),
                &mut revisions.endpoint_slices,
            );
        }
        Object::KeelsonPeer(wanted) => {
            let status = objects.peers.get(key).and_then(|there| there.status.clone());
            let peer = KeelsonPeer {
                status,
                ..wanted.clone()
            };
            put(&mut objects.peers, key, peer, &mut revisions.peers);
        }
        Object::Namespace(_) => {}
        // Of other nodes nothing is kept.
        Object::Node(wanted) if wanted.metadata.name == objects.node.metadata.name => {
            if objects.given_node.as_deref() != Some(wanted) {
                objects.given_node = Some(Arc::new(wanted.clone()));
                revisions.given_node += 1;
            }
        }
        Object::Node(_) => {}
    }
    false
}

/// Write an object if it differs.
fn put<T: PartialEq>(map: &mut BTreeMap<Key, Arc<T>>, key: &Key, object: T, revision: &mut u64) {
    if map.get(key).is_none_or(|there| **there != object) {
        map.insert(key.clone(), Arc::new(object));
        *revision += 1;
    }
}

fn place_pod(objects: &mut Objects, key: &Key, running: &mut Running, now: Timestamp) -> bool {
    let mut step = pod_step(running, objects.pods.get(key).map(Arc::as_ref));
    let renewed = step == PodStep::Renew;
    if renewed {
        renew(running, now, Uuid::new_v4().to_string());
        step = PodStep::Create;
    }
    match step {
        PodStep::Create => {
            if let Object::Pod(pod) = &running.object {
                objects.put_pod(pod.clone());
                running.placed = true;
            }
        }
        PodStep::Change(pod) => objects.put_pod(*pod),
        PodStep::End(uid) => drop(objects.delete_pod(key, &uid, None, now)),
        PodStep::Wait | PodStep::Renew => {}
    }
    renewed
}

/// Take an object out of the world, unless another of its name took its place.
fn remove(objects: &mut Objects, id: &Id, metadata: &ObjectMeta, now: Timestamp) {
    let revisions = &mut objects.revisions;
    let (key, uid) = (&id.key, metadata.uid.as_deref());
    match id.kind {
        Kind::Pod => drop(objects.delete_pod(key, uid.unwrap_or_default(), None, now)),
        Kind::Deployment => take(&mut objects.deployments, key, uid, &mut revisions.deployments),
        Kind::Service => take(&mut objects.services, key, uid, &mut revisions.services),
        Kind::ConfigMap => take(&mut objects.config_maps, key, uid, &mut revisions.config_maps),
        Kind::Secret => take(&mut objects.secrets, key, uid, &mut revisions.secrets),
        Kind::EndpointSlice => take(
            &mut objects.endpoint_slices,
            key,
            uid,
            &mut revisions.endpoint_slices,
        ),
        Kind::KeelsonPeer => take(&mut objects.peers, key, uid, &mut revisions.peers),
        Kind::Namespace => {}
        Kind::Node => {
            let given = objects.given_node.as_ref();
            if given.is_some_and(|given| given.metadata.uid.as_deref() == uid) {
                objects.given_node = None;
                revisions.given_node += 1;
            }
        }
    }
}

fn take<T: Metadata<Ty = ObjectMeta>>(
    map: &mut BTreeMap<Key, Arc<T>>,
    key: &Key,
    uid: Option<&str>,
    revision: &mut u64,
) {
    if map
        .get(key)
        .is_some_and(|there| there.metadata().uid.as_deref() == uid)
    {
        map.remove(key);
        *revision += 1;
    }
}
