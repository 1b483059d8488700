//! Rows of other nodes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_core::network::peers::object::{KeelsonPeer, KeelsonPeerStatus};

use super::or_none;
use crate::cli::duration::age;

pub(super) fn row(peer: &KeelsonPeer, now: Timestamp) -> Vec<String> {
    let list = |texts: Vec<String>| or_none(texts.join(","));
    vec![
        peer.metadata.name.clone().unwrap_or_default(),
        list(peer.spec.pod_cidrs.iter().map(ToString::to_string).collect()),
        list(peer.spec.addresses.iter().map(ToString::to_string).collect()),
        peer.status
            .as_ref()
            .map_or_else(|| or_none(String::new()), reached),
        age(peer.metadata.creation_timestamp.as_ref(), now),
    ]
}

/// The ways, in one word each; why it is not reached is for the page of the peer.
fn reached(status: &KeelsonPeerStatus) -> String {
    let mut ways: BTreeSet<&str> = status.routes.iter().map(|route| route.way.as_str()).collect();
    if !status.refused.is_empty() {
        ways.insert("Refused");
    }
    or_none(ways.into_iter().collect::<Vec<_>>().join(","))
}
