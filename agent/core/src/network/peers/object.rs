//! `KeelsonPeer`: another node, as a manifest names it.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::{ClusterResourceScope, Metadata, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

use super::{Peer, Plan, Way};

/// Another node whose pods are reached from this one. Its name is the node's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct KeelsonPeer {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What is known of the node.
    #[serde(default)]
    pub spec: KeelsonPeerSpec,
    /// How its pods are reached.
    #[serde(default)]
    pub status: Option<KeelsonPeerStatus>,
}

/// What is known of another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeelsonPeerSpec {
    /// The networks of its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// The node's own addresses, its main ones first.
    pub addresses: Vec<IpAddr>,
}

/// How a node's pods are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeelsonPeerStatus {
    /// One for each network that is reached.
    pub routes: Vec<KeelsonPeerRoute>,
    /// Networks that are not reached, and why.
    pub refused: Vec<String>,
}

/// How a network of pods is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeelsonPeerRoute {
    /// The pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: IpNet,
    /// `Direct`, `Tunnel` or `Foreign`.
    pub way: String,
    /// The address that their packets are sent to, where this node chooses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

impl Serialize for KeelsonPeer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct(Self::KIND, 5)?;
        object.serialize_field("apiVersion", Self::API_VERSION)?;
        object.serialize_field("kind", Self::KIND)?;
        object.serialize_field("metadata", &self.metadata)?;
        object.serialize_field("spec", &self.spec)?;
        match &self.status {
            Some(status) => object.serialize_field("status", status)?,
            None => object.skip_field("status")?,
        }
        object.end()
    }
}

impl Resource for KeelsonPeer {
    const API_VERSION: &'static str = "keelson.dev/v1";
    const GROUP: &'static str = "keelson.dev";
    const KIND: &'static str = "KeelsonPeer";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "keelsonpeers";
    type Scope = ClusterResourceScope;
}

impl Metadata for KeelsonPeer {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl KeelsonPeer {
    /// The peer as the plan knows it.
    pub fn peer(&self) -> Peer {
        Peer {
            name: self.metadata.name.clone().unwrap_or_default(),
            pods: self.spec.pod_cidrs.clone(),
            addresses: self.spec.addresses.clone(),
        }
    }
}

/// What a plan says of one peer.
pub fn status(plan: &Plan, peer: &str) -> KeelsonPeerStatus {
    let networks = plan.networks.iter().filter(|network| network.peer == peer);
    let routes = networks.map(|network| {
        let (way, via) = match network.way {
            Way::Direct { gateway, .. } => ("Direct", Some(gateway)),
            Way::Tunnel => ("Tunnel", network.endpoint),
            Way::Foreign => ("Foreign", None),
        };
        KeelsonPeerRoute {
            pod_cidr: network.pods,
            way: way.to_owned(),
            via,
        }
    });
    let refused = plan.refused.iter().filter(|refusal| refusal.peer == peer);
    KeelsonPeerStatus {
        routes: routes.collect(),
        refused: refused.map(ToString::to_string).collect(),
    }
}
