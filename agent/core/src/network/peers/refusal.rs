//! What cannot be of a peer, in words.

use std::net::IpAddr;

use ipnet::IpNet;

/// A network of a peer that is not reached, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pods {pods} of node {peer:?} are not reached: {cause}")]
pub struct Refusal {
    /// Whose.
    pub peer: String,
    /// Their addresses.
    pub pods: IpNet,
    /// Why.
    pub cause: Cause,
}

/// Why a network of a peer is not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// This node's pods have these addresses.
    #[error("this node's own pods are in {0}; give every node a network of its own")]
    OwnPods(IpNet),
    /// Services have these addresses.
    #[error("Services are in {0}")]
    Services(IpNet),
    /// Another peer's pods have these addresses.
    #[error("node {0:?} has {1}, which overlaps")]
    Peer(String, IpNet),
    /// A network that this node is attached to has these addresses.
    #[error("device {0} is attached to {1}, which overlaps")]
    Uplink(String, IpNet),
    /// No address of the peer is on a network of this node.
    #[error(
        "{} on a network that this node is attached to, of the family of its pods; `podRouting: crossSubnet` or `vxlan` crosses routers",
        none_of(.0)
    )]
    NotOnLink(Vec<IpAddr>),
    /// No address of the peer is of a family of this node.
    #[error("{} of a family that this node has an address of", none_of(.0))]
    NoEndpoint(Vec<IpAddr>),
}

fn none_of(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "it names no address, so there is none".to_owned();
    }
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("none of its addresses ({}) is", list.join(", "))
}
