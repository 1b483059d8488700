//! Values of the configuration that have a written form of their own.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Whose pod network the node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PodNetwork {
    /// Keelson's: its plugin makes the pods' links, its programs carry all of their traffic.
    #[default]
    Own,
    /// Another plugin's: only Services are translated, packets go the other's ways.
    Other,
}

/// The tunnel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Vxlan {
    /// UDP port.
    pub port: u16,
    /// Number of the network, below 2^24.
    pub id: u32,
}

impl Default for Vxlan {
    fn default() -> Self {
        Self {
            port: 4789,
            id: 0x6b65,
        }
    }
}

/// How an endpoint is chosen among those that may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancing {
    /// Each new connection anew.
    #[default]
    Random,
    /// By a table that every node computes alike: whichever node a connection comes to, its endpoint is the same.
    Maglev,
}

/// Which clients are pods of the cluster: their source stays as it is when they ask a Service address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum LocalDetector {
    /// Sources in this node's own pod networks, and what comes by the devices of its pods.
    #[default]
    #[serde(rename = "nodeCIDR")]
    NodeCidr,
    /// Sources in these networks: the pods of all nodes.
    #[serde(rename = "clusterCIDR")]
    ClusterCidr(Vec<IpNet>),
    /// What comes by a device whose name starts so.
    #[serde(rename = "interfacePrefix")]
    InterfacePrefix(String),
}

/// Serialised as `first-last`.
pub(super) mod port_range {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(range: &(u16, u16), serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}-{}", range.0, range.1))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(u16, u16), D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = text
            .split_once('-')
            .map(|(first, last)| (first.trim().parse(), last.trim().parse()));
        match parts {
            Some((Ok(first), Ok(last))) if 0 < first && first <= last => Ok((first, last)),
            _ => Err(D::Error::custom(format!(
                "{text:?} is no range of ports such as \"30000-32767\""
            ))),
        }
    }
}

/// An address to listen at; the empty text is none.
pub(super) mod listen {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&address.map(|address| address.to_string()).unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is no address and port such as \"0.0.0.0:10256\"; \"\" turns it off"
            ))
        })
    }
}

/// A span of time, as `30s`.
pub(super) mod span {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::cli::duration;

    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}ms", span.as_millis()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        duration::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A list of values that have a text.
pub(super) mod texts {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| text.parse().map_err(D::Error::custom))
            .collect()
    }
}
