//! Which container of a pod is meant.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use keelson_core::object::Key;
use tonic::Status;

use super::{delete::not_found, resource::Resource};
use crate::world::Objects;

/// Annotation by which a pod names the container that commands mean when they name none.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod of that name.
pub fn pod(objects: &Objects, namespace: &str, name: &str) -> Result<Arc<Pod>, Status> {
    let namespace = if namespace.is_empty() {
        "default"
    } else {
        namespace
    };
    objects
        .pods
        .get(&Key::new(namespace, name))
        .cloned()
        .ok_or_else(|| Status::not_found(not_found(Resource::Pods, name)))
}

/// The container that is meant when none is named: the one the pod names, else the first.
pub fn default_of(pod: &Pod) -> Option<&str> {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(DEFAULT_CONTAINER))
        .map(String::as_str)
        .filter(|name| names(pod).any(|other| other == *name))
        .or_else(|| first(pod))
}

fn first(pod: &Pod) -> Option<&str> {
    Some(pod.spec.as_ref()?.containers.first()?.name.as_str())
}

/// Names of a pod's containers; init containers last.
pub fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten();
        spec.containers
            .iter()
            .chain(init)
            .map(|container| container.name.as_str())
    })
}

/// The name of the container meant by `wanted`, which may be empty.
pub fn resolve(pod: &Pod, wanted: &str) -> Result<String, Status> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let found = if wanted.is_empty() {
        default_of(pod)
    } else {
        names(pod).find(|name| *name == wanted)
    };
    found.map(str::to_owned).ok_or_else(|| {
        let names: Vec<&str> = names(pod).collect();
        Status::invalid_argument(format!(
            "container {wanted} is not valid for pod {pod_name}; it has {}",
            names.join(", ")
        ))
    })
}

/// What is known of a container.
pub fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    status
        .container_statuses
        .iter()
        .flatten()
        .chain(status.init_container_statuses.iter().flatten())
        .find(|status| status.name == name)
}

/// Why a container that has not started has not.
pub fn waiting_reason(pod: &Pod, name: &str) -> String {
    let waiting = status(pod, name)
        .and_then(|status| status.state.as_ref())
        .and_then(|state| state.waiting.as_ref());
    match waiting {
        Some(waiting) => {
            let reason = waiting.reason.as_deref().unwrap_or("no reason given");
            match waiting.message.as_deref().filter(|message| !message.is_empty()) {
                Some(message) => format!("{reason}: {message}"),
                None => reason.to_owned(),
            }
        }
        None => "ContainerCreating".to_owned(),
    }
}
