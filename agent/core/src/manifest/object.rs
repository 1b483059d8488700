//! The objects that manifests may hold.

use std::fmt;

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Node, Pod, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use crate::{network::peers::object::KeelsonPeer, object::Key};

/// Kinds that this version runs from manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 ConfigMap`
    ConfigMap,
    /// `apps/v1 Deployment`
    Deployment,
    /// `discovery.k8s.io/v1 EndpointSlice`
    EndpointSlice,
    /// `keelson.dev/v1 KeelsonPeer`: another node.
    KeelsonPeer,
    /// `v1 Namespace`: accepted, since manifests often lead with one; a namespace exists by being named.
    Namespace,
    /// `v1 Node`: labels and taints of this node; of others nothing is taken.
    Node,
    /// `v1 Pod`
    Pod,
    /// `v1 Secret`
    Secret,
    /// `v1 Service`
    Service,
}

impl Kind {
    /// All of them, by name.
    pub const ALL: [Self; 9] = [
        Self::ConfigMap,
        Self::Deployment,
        Self::EndpointSlice,
        Self::KeelsonPeer,
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Secret,
        Self::Service,
    ];

    /// As written in `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Deployment => "Deployment",
            Self::EndpointSlice => "EndpointSlice",
            Self::KeelsonPeer => "KeelsonPeer",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Secret => "Secret",
            Self::Service => "Service",
        }
    }

    /// As written in `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Deployment => "apps/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::KeelsonPeer => KeelsonPeer::API_VERSION,
            _ => "v1",
        }
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::KeelsonPeer | Self::Namespace | Self::Node)
    }

    /// Whether it is of use to an agent that runs no pods.
    pub fn concerns_services(self) -> bool {
        matches!(
            self,
            Self::EndpointSlice | Self::Namespace | Self::Node | Self::Service
        )
    }

    /// The kind of that name, whatever its version.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What tells one object from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: Key,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// An object of a manifest, defaulted and validated.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// Values for pods.
    ConfigMap(ConfigMap),
    /// Replicas of a pod.
    Deployment(Deployment),
    /// Endpoints written by hand.
    EndpointSlice(EndpointSlice),
    /// Another node.
    KeelsonPeer(KeelsonPeer),
    /// A name for names; nothing more is kept of it.
    Namespace(ObjectMeta),
    /// What a user says of this node.
    Node(Node),
    /// Containers.
    Pod(Pod),
    /// Values for pods that are not shown.
    Secret(Secret),
    /// A name and an address for pods.
    Service(Service),
}

/// The same expression for the object within, whatever its kind.
macro_rules! each {
    ($self:expr, $object:ident => $expression:expr, $meta:ident => $namespace:expr) => {
        match $self {
            Object::ConfigMap($object) => $expression,
            Object::Deployment($object) => $expression,
            Object::EndpointSlice($object) => $expression,
            Object::KeelsonPeer($object) => $expression,
            Object::Namespace($meta) => $namespace,
            Object::Node($object) => $expression,
            Object::Pod($object) => $expression,
            Object::Secret($object) => $expression,
            Object::Service($object) => $expression,
        }
    };
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Deployment(_) => Kind::Deployment,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::KeelsonPeer(_) => Kind::KeelsonPeer,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Secret(_) => Kind::Secret,
            Self::Service(_) => Kind::Service,
        }
    }

    /// Its kind and name.
    pub fn id(&self) -> Id {
        Id {
            kind: self.kind(),
            key: Key::of(self.metadata()),
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        each!(self, object => &object.metadata, meta => meta)
    }

    /// Its metadata, to change.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        each!(self, object => &mut object.metadata, meta => meta)
    }

    /// As JSON, with `kind` and `apiVersion`.
    pub fn to_value(&self) -> serde_json::Result<Value> {
        each!(self, object => serde_json::to_value(object), meta => {
            Ok(serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": meta }))
        })
    }

    /// From JSON as [`Object::to_value`] made it; the value is believed.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let name = value.get("kind").and_then(Value::as_str).unwrap_or_default();
        let kind = Kind::named(name).ok_or_else(|| format!("kind {name:?} is not known"))?;
        typed(kind, value).map_err(|error| error.to_string())
    }
}

/// A value as an object of its kind; an error knows the field.
pub(super) fn typed(
    kind: Kind,
    value: Value,
) -> Result<Object, serde_path_to_error::Error<serde_json::Error>> {
    use serde_path_to_error::deserialize;
    Ok(match kind {
        Kind::ConfigMap => Object::ConfigMap(deserialize(value)?),
        Kind::Deployment => Object::Deployment(deserialize(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(deserialize(value)?),
        Kind::KeelsonPeer => Object::KeelsonPeer(deserialize(value)?),
        Kind::Namespace => {
            Object::Namespace(deserialize::<_, k8s_openapi::api::core::v1::Namespace>(value)?.metadata)
        }
        Kind::Node => Object::Node(deserialize(value)?),
        Kind::Pod => Object::Pod(deserialize(value)?),
        Kind::Secret => Object::Secret(deserialize(value)?),
        Kind::Service => Object::Service(deserialize(value)?),
    })
}
