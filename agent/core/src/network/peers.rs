//! Pods of other nodes: how packets for them leave this node.
//!
//! `plan(own, peers, mode)` says for each pod network of a peer by which way it is reached, whether there is to be a tunnel and with
//! which MTU, and what cannot be, by name. What is refused of one peer changes nothing for another.

pub mod object;
mod refusal;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::refusal::{Cause, Refusal};

/// How packets between pods of different nodes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// As they are, by the peer's address on a network that both nodes are attached to.
    #[default]
    Native,
    /// In VXLAN, whatever lies between.
    Vxlan,
    /// As they are where both nodes are attached to the same network, in VXLAN elsewhere.
    CrossSubnet,
    /// As they are, by routes that somebody else keeps: the cloud, or a routing daemon.
    Cloud,
}

impl Mode {
    /// Whether there is a tunnel, even if no peer needs it yet.
    pub fn tunnels(self) -> bool {
        matches!(self, Self::Vxlan | Self::CrossSubnet)
    }
}

/// A device of this node that leads outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// MTU.
    pub mtu: u32,
    /// Its addresses, with the networks they are in.
    pub addresses: Vec<IpNet>,
}

/// This node.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Its name: a peer of that name is the node itself.
    pub name: &'a str,
    /// Its pods' networks.
    pub pods: &'a [IpNet],
    /// Its Services' networks.
    pub services: &'a [IpNet],
    /// Its uplinks, best first.
    pub uplinks: &'a [Uplink],
    /// Its own addresses, one of each family at most: those that peers know it by.
    pub addresses: &'a [IpAddr],
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its pods' networks.
    pub pods: Vec<IpNet>,
    /// Its addresses, the preferred ones first.
    pub addresses: Vec<IpAddr>,
}

/// How a network of pods is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the peer's address, which is on the network of this device.
    Direct {
        /// Next hop.
        gateway: IpAddr,
        /// Device.
        ifindex: u32,
    },
    /// In the tunnel.
    Tunnel,
    /// As the routes of somebody else say.
    Foreign,
}

/// Pods of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Whose.
    pub peer: String,
    /// Their addresses.
    pub pods: IpNet,
    /// How they are reached.
    pub way: Way,
    /// Where the tunnel's packets for them go, and come from: the peer's address. Also told where the way is direct, since the peer
    /// may see it otherwise. None = no tunnel leads there.
    pub endpoint: Option<IpAddr>,
}

/// The device that packets in VXLAN leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its MTU: what fits the uplink with the tunnel's headers around it.
    pub mtu: u32,
    /// The node's own addresses among the pods': sources of the host's traffic to pods of other nodes.
    pub addresses: Vec<IpAddr>,
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pods of other nodes, by address.
    pub networks: Vec<Network>,
    /// The tunnel, if the mode has one.
    pub tunnel: Option<Tunnel>,
    /// MTU of pods' links; none = that of the uplink.
    pub pod_mtu: Option<u32>,
    /// What cannot be, and why.
    pub refused: Vec<Refusal>,
}

/// Ethernet, IPv4, UDP and VXLAN headers around an Ethernet frame's payload.
const OVERHEAD_V4: u32 = 50;
/// The same with an IPv6 header outside.
const OVERHEAD_V6: u32 = 70;
/// What every link of IPv6 must carry; also the least of a tunnel.
const LEAST_MTU: u32 = 1280;

/// What is to be for these peers.
pub fn plan(own: &Own<'_>, peers: &[Peer], mode: Mode) -> Plan {
    let mut plan = Plan::default();
    // By name, so that whoever reads the files in another order decides alike.
    let others: BTreeMap<&str, &Peer> = peers
        .iter()
        .filter(|peer| peer.name != own.name)
        .map(|peer| (peer.name.as_str(), peer))
        .collect();
    for peer in others.into_values() {
        for pods in &peer.pods {
            let pods = pods.trunc();
            let found = conflict(own, &plan.networks, pods, mode)
                .map_or_else(|| way(own, peer, pods, mode), Err)
                .map(|(way, endpoint)| Network {
                    peer: peer.name.clone(),
                    pods,
                    way,
                    endpoint,
                });
            match found {
                Ok(network) => plan.networks.push(network),
                Err(cause) => plan.refused.push(Refusal {
                    peer: peer.name.clone(),
                    pods,
                    cause,
                }),
            }
        }
    }
    plan.networks.sort_by_key(|network| network.pods);
    if mode.tunnels() {
        let tunnel = tunnel(own, &plan.networks);
        plan.pod_mtu = Some(
            own.uplinks
                .first()
                .map_or(tunnel.mtu, |first| first.mtu.min(tunnel.mtu)),
        );
        plan.tunnel = Some(tunnel);
    }
    plan
}

/// Why this network of a peer cannot be one: its addresses are somebody else's already.
fn conflict(own: &Own<'_>, taken: &[Network], pods: IpNet, mode: Mode) -> Option<Cause> {
    let meets = |other: &IpNet| other.contains(&pods) || pods.contains(other);
    if let Some(other) = own.pods.iter().find(|net| meets(net)) {
        return Some(Cause::OwnPods(*other));
    }
    if let Some(other) = own.services.iter().find(|net| meets(net)) {
        return Some(Cause::Services(*other));
    }
    if let Some(other) = taken.iter().find(|network| meets(&network.pods)) {
        return Some(Cause::Peer(other.peer.clone(), other.pods));
    }
    if mode == Mode::Cloud {
        // There pods have addresses of the nodes' own network.
        return None;
    }
    own.uplinks.iter().find_map(|uplink| {
        let attached = uplink.addresses.iter().map(IpNet::trunc).find(meets)?;
        Some(Cause::Uplink(uplink.name.clone(), attached))
    })
}

fn way(own: &Own<'_>, peer: &Peer, pods: IpNet, mode: Mode) -> Result<(Way, Option<IpAddr>), Cause> {
    if mode == Mode::Cloud {
        return Ok((Way::Foreign, None));
    }
    let direct = (mode != Mode::Vxlan).then(|| direct(own, peer, pods)).flatten();
    let endpoint = mode.tunnels().then(|| endpoint(own, peer)).flatten();
    match (direct, endpoint, mode) {
        (Some(way), endpoint, _) => Ok((way, endpoint)),
        (None, Some(endpoint), _) => Ok((Way::Tunnel, Some(endpoint))),
        (None, None, Mode::Native) => Err(Cause::NotOnLink(peer.addresses.clone())),
        (None, None, _) => Err(Cause::NoEndpoint(peer.addresses.clone())),
    }
}

/// By an address of the peer of the pods' family, on a network that this node is attached to.
fn direct(own: &Own<'_>, peer: &Peer, pods: IpNet) -> Option<Way> {
    let of_family = peer
        .addresses
        .iter()
        .filter(|address| address.is_ipv6() == pods.addr().is_ipv6());
    of_family
        .filter_map(|gateway| Some((*gateway, attached(own, *gateway)?.ifindex)))
        .map(|(gateway, ifindex)| Way::Direct { gateway, ifindex })
        .next()
}

/// The uplink on whose network the address is; not where it is the node's own.
fn attached<'a>(own: &Own<'a>, address: IpAddr) -> Option<&'a Uplink> {
    own.uplinks.iter().find(|uplink| {
        uplink
            .addresses
            .iter()
            .any(|net| net.contains(&address) && net.addr() != address)
    })
}

/// The peer's first address of a family that this node has an address of, too.
fn endpoint(own: &Own<'_>, peer: &Peer) -> Option<IpAddr> {
    let speaks = |address: &IpAddr| {
        own.addresses
            .iter()
            .any(|ours| ours.is_ipv6() == address.is_ipv6())
    };
    let is_ours = |address: &IpAddr| own.addresses.contains(address);
    // The smaller header first; both nodes then choose alike.
    let mut addresses: Vec<&IpAddr> = peer
        .addresses
        .iter()
        .filter(|address| !is_ours(address))
        .collect();
    addresses.sort_by_key(|address| address.is_ipv6());
    addresses.into_iter().find(|address| speaks(address)).copied()
}

fn tunnel(own: &Own<'_>, networks: &[Network]) -> Tunnel {
    let overhead = |v6: bool| if v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
    let best = own.uplinks.first();
    let through = |endpoint: IpAddr| {
        let uplink = attached(own, endpoint).or(best)?;
        Some(uplink.mtu.saturating_sub(overhead(endpoint.is_ipv6())))
    };
    let needed = networks
        .iter()
        .filter(|network| network.way == Way::Tunnel)
        .filter_map(|network| through(network.endpoint?));
    // What a peer that comes next will most likely have.
    let only_v6 = own.addresses.iter().all(IpAddr::is_ipv6) && !own.addresses.is_empty();
    let usual = best
        .map_or(1500, |uplink| uplink.mtu)
        .saturating_sub(overhead(only_v6));
    let addresses = own.pods.iter().filter_map(|pods| first(*pods)).collect();
    Tunnel {
        mtu: needed.fold(usual, u32::min).max(LEAST_MTU),
        addresses,
    }
}

/// The first address of a network that a host may have.
pub fn first(pods: IpNet) -> Option<IpAddr> {
    match pods {
        IpNet::V4(net) if net.prefix_len() <= 30 => {
            Some(IpAddr::from((u32::from(net.network()) + 1).to_be_bytes()))
        }
        IpNet::V6(net) if net.prefix_len() <= 126 => {
            Some(IpAddr::from((u128::from(net.network()) + 1).to_be_bytes()))
        }
        _ => None,
    }
}
