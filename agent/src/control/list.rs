//! Objects of the world → what List and Watch send.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    Metadata,
    apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta},
};
use keelson_core::object::Key;
use keelson_proto::keelson::{ListRequest, WatchEvent, watch_event::Type};
use serde::Serialize;
use serde_json::{Value, json};

use super::{resource::Resource, selector::Selector};
use crate::world::{Objects, Revisions};

/// Which objects are asked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// Their kind.
    pub resource: Resource,
    namespace: String,
    name: String,
    selector: Selector,
}

/// Objects by namespace and name, as JSON.
pub type Listing = BTreeMap<Key, Vec<u8>>;

impl Query {
    /// Understand a request; the error is for the user.
    pub fn parse(request: &ListRequest) -> Result<Self, String> {
        let resource = Resource::named(&request.resource).ok_or_else(|| unknown(&request.resource))?;
        Ok(Self {
            resource,
            namespace: if resource.namespaced() {
                request.namespace.clone()
            } else {
                String::new()
            },
            name: request.name.clone(),
            selector: Selector::parse(&request.label_selector)?,
        })
    }

    fn wants(&self, key: &Key, metadata: &ObjectMeta) -> bool {
        (self.namespace.is_empty() || self.namespace == key.namespace)
            && (self.name.is_empty() || self.name == key.name)
            && self.selector.matches(metadata.labels.as_ref())
    }

    /// What moves when an object of this kind changes.
    pub fn revision(&self, revisions: &Revisions) -> [u64; 2] {
        let one = match self.resource {
            Resource::Pods => revisions.pods,
            Resource::Deployments => revisions.deployments,
            Resource::Services => revisions.services,
            Resource::EndpointSlices => revisions.endpoint_slices,
            Resource::ConfigMaps => revisions.config_maps,
            Resource::Secrets => revisions.secrets,
            Resource::Events => revisions.events,
            Resource::Nodes => revisions.node,
            Resource::Peers => revisions.peers,
            Resource::Manifests => revisions.manifests,
            // Namespaces exist by being named, in files and by objects.
            Resource::Namespaces => return [revisions.manifests, revisions.pods],
        };
        [one, 0]
    }

    /// The objects asked for.
    pub fn list(&self, objects: &Objects) -> serde_json::Result<Listing> {
        match self.resource {
            Resource::Pods => self.of(&objects.pods),
            Resource::Deployments => self.of(&objects.deployments),
            Resource::Services => self.of(&objects.services),
            Resource::EndpointSlices => self.of(&objects.endpoint_slices),
            Resource::ConfigMaps => self.of(&objects.config_maps),
            Resource::Secrets => self.of(&objects.secrets),
            Resource::Events => {
                let events = objects.events.iter();
                self.of(&events
                    .map(|event| (Key::of(&event.metadata), Arc::clone(event)))
                    .collect())
            }
            Resource::Nodes => {
                let key = Key::new("", Key::of(&objects.node.metadata).name.as_str());
                self.of(&BTreeMap::from([(key, Arc::clone(&objects.node))]))
            }
            Resource::Peers => self.of(&objects.peers),
            Resource::Namespaces => self.made(namespaces(objects)),
            Resource::Manifests => self.made(manifests(objects)),
        }
    }

    fn of<T: Metadata<Ty = ObjectMeta> + Serialize>(
        &self,
        objects: &BTreeMap<Key, Arc<T>>,
    ) -> serde_json::Result<Listing> {
        objects
            .iter()
            .filter(|(key, object)| self.wants(key, object.metadata()))
            .map(|(key, object)| Ok((key.clone(), serde_json::to_vec(object.as_ref())?)))
            .collect()
    }

    /// Objects that are made up for the list.
    fn made(&self, objects: BTreeMap<String, Value>) -> serde_json::Result<Listing> {
        objects
            .iter()
            .filter(|(name, _)| self.wants(&Key::new("", name), &ObjectMeta::default()))
            .map(|(name, object)| Ok((Key::new("", name), serde_json::to_vec(object)?)))
            .collect()
    }
}

/// What is said of a kind that nobody knows.
pub fn unknown(name: &str) -> String {
    let known: Vec<&str> = Resource::ALL.into_iter().map(Resource::plural).collect();
    format!(
        "this node has no resource type {name:?}; it has {}",
        known.join(", ")
    )
}

fn namespaces(objects: &Objects) -> BTreeMap<String, Value> {
    let keys = objects
        .pods
        .keys()
        .chain(objects.deployments.keys())
        .chain(objects.services.keys())
        .chain(objects.config_maps.keys())
        .chain(objects.secrets.keys());
    let mut names: BTreeSet<String> = keys.map(|key| key.namespace.clone()).collect();
    names.insert("default".to_owned());
    let named = objects.manifests.values().flat_map(|report| &report.objects);
    // A report names objects as "Kind namespace/name".
    names.extend(named.filter_map(|object| {
        let (_, name) = object.strip_prefix("Namespace ")?.split_once('/')?;
        Some(name.to_owned())
    }));
    let object = |name: String| {
        let value = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name }, "status": { "phase": "Active" },
        });
        (name, value)
    };
    names.into_iter().map(object).collect()
}

fn manifests(objects: &Objects) -> BTreeMap<String, Value> {
    let object = |(path, report): (&std::path::PathBuf, &crate::world::ManifestReport)| {
        let name = path.display().to_string();
        let value = json!({
            "apiVersion": crate::config::API_VERSION,
            "kind": "Manifest",
            "metadata": { "name": name },
            "status": { "objects": report.objects, "errors": report.errors },
        });
        (name, value)
    };
    objects.manifests.iter().map(object).collect()
}

/// What makes `new` of `old`. Objects that came go before those that changed, which go before those that went.
pub fn changes(old: &Listing, new: &Listing) -> Vec<WatchEvent> {
    let event = |kind: Type, object: &Vec<u8>| WatchEvent {
        r#type: kind.into(),
        object: object.clone(),
    };
    let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
    let modified = new
        .iter()
        .filter(|(key, object)| old.get(*key).is_some_and(|before| before != *object));
    let deleted = old.iter().filter(|(key, _)| !new.contains_key(*key));
    added
        .map(|(_, object)| event(Type::Added, object))
        .chain(modified.map(|(_, object)| event(Type::Modified, object)))
        .chain(deleted.map(|(_, object)| event(Type::Deleted, object)))
        .collect()
}

/// The objects as one `List` object, for output.
pub fn as_list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "metadata": ListMeta::default(), "items": items })
}
