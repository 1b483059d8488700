//! Delete: which files go and which pods end, decided for all objects before the first is touched.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_core::{
    manifest::{
        merge::Readings,
        object::{Id, Kind},
    },
    object::Key,
};
use keelson_proto::keelson::ObjectRef;

use super::{apply, list, resource::Resource};
use crate::world::{ManifestReport, Objects};

/// Label of EndpointSlices that tells which Service they were made for.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is to be done about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The object.
    pub resource: Resource,
    /// Its name.
    pub key: Key,
    /// UID of the one that runs; empty if none does.
    pub uid: String,
    /// File that goes.
    pub file: Option<PathBuf>,
}

/// Why nothing is deleted.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// It is not there.
    NotFound(String),
    /// The request makes no sense.
    Invalid(String),
    /// It is not this API's to delete.
    NotOurs(String),
}

/// What is known when a plan is made.
pub struct Observed<'a> {
    /// All files as they are now.
    pub readings: &'a Readings,
    /// What runs from them.
    pub reports: &'a BTreeMap<PathBuf, ManifestReport>,
    /// What runs.
    pub objects: &'a Objects,
}

/// The step for one object; `None` if it is not there and that is fine.
pub fn plan(
    wanted: &ObjectRef,
    ignore_not_found: bool,
    observed: &Observed<'_>,
) -> Result<Option<Step>, Refusal> {
    let resource =
        Resource::named(&wanted.resource).ok_or_else(|| Refusal::Invalid(list::unknown(&wanted.resource)))?;
    let kind = kind_of(resource)?;
    let namespace = if wanted.namespace.is_empty() {
        "default"
    } else {
        &wanted.namespace
    };
    let id = Id {
        kind,
        key: Key::new(namespace, &wanted.name),
    };
    let there = metadata(observed.objects, resource, &id.key);
    let step = |file| Step {
        resource,
        key: id.key.clone(),
        uid: there.and_then(|there| there.uid.clone()).unwrap_or_default(),
        file,
    };
    if let Some(there) = there {
        let made_for = there.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let owned = there
            .owner_references
            .as_ref()
            .is_some_and(|owners| !owners.is_empty());
        // Its owner makes another one: that is what deleting such a pod is for.
        if resource == Resource::Pods && owned {
            return Ok(Some(step(None)));
        }
        if let (Resource::EndpointSlices, true, Some(service)) = (resource, owned, made_for) {
            return Err(Refusal::NotOurs(format!(
                "{} {} is made from the pods of Service {service}; delete the Service instead",
                resource.names()[1],
                id.key.name
            )));
        }
    }
    let owners = apply::owners(&id, observed.readings, observed.reports);
    match owners
        .iter()
        .find(|file| !apply::is_own_file(file, &id, observed.readings))
    {
        Some(file) => Err(Refusal::NotOurs(format!(
            "{id} is defined in the file {} of the folder of manifests, which was not written by apply; remove it there",
            file.display()
        ))),
        None if owners.is_empty() && there.is_none() => {
            if ignore_not_found {
                return Ok(None);
            }
            Err(Refusal::NotFound(not_found(resource, &wanted.name)))
        }
        None => Ok(Some(step(owners.first().map(|file| (*file).to_owned())))),
    }
}

/// The kind that manifests call it; only what manifests hold can be deleted.
fn kind_of(resource: Resource) -> Result<Kind, Refusal> {
    let why = match resource {
        Resource::Manifests => "remove the file from the folder of manifests",
        _ => "they are the node's own",
    };
    resource
        .kind()
        .ok_or_else(|| Refusal::Invalid(format!("{resource} cannot be deleted: {why}")))
}

/// What is said of an object that is not there.
pub fn not_found(resource: Resource, name: &str) -> String {
    format!("{} {name:?} not found", resource.qualified_plural())
}

/// Metadata of an object that runs.
pub fn metadata<'a>(objects: &'a Objects, resource: Resource, key: &Key) -> Option<&'a ObjectMeta> {
    match resource {
        Resource::Pods => objects.pods.get(key).map(|one| &one.metadata),
        Resource::Deployments => objects.deployments.get(key).map(|one| &one.metadata),
        Resource::Services => objects.services.get(key).map(|one| &one.metadata),
        Resource::EndpointSlices => objects.endpoint_slices.get(key).map(|one| &one.metadata),
        Resource::ConfigMaps => objects.config_maps.get(key).map(|one| &one.metadata),
        Resource::Secrets => objects.secrets.get(key).map(|one| &one.metadata),
        Resource::Peers => objects.peers.get(key).map(|one| &one.metadata),
        Resource::Nodes => {
            let given = objects.given_node.as_ref();
            given
                .map(|node| &node.metadata)
                .filter(|metadata| metadata.name.as_deref() == Some(&key.name))
        }
        Resource::Events | Resource::Namespaces | Resource::Manifests => None,
    }
}
