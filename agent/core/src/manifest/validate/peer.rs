//! Peers: networks of pods and addresses that can be such.

use std::net::IpAddr;

use super::{Faults, item};
use crate::network::peers::object::KeelsonPeer;

pub(super) fn check(peer: &KeelsonPeer, faults: &mut Faults) {
    if peer.spec.pod_cidrs.is_empty() {
        faults.add(
            "spec.podCIDRs",
            "is missing: name the networks of the node's pods",
        );
    }
    for (index, net) in peer.spec.pod_cidrs.iter().enumerate() {
        let path = item("spec.podCIDRs", index);
        if net.addr() != net.network() {
            faults.add(
                &path,
                format!("{net} is not the start of a network; {} is", net.trunc()),
            );
        }
        if net.prefix_len() < 8 {
            faults.add(&path, format!("{net} must have a prefix length of at least 8"));
        }
    }
    for (index, address) in peer.spec.addresses.iter().enumerate() {
        let path = item("spec.addresses", index);
        if let Some(why) = unusable(*address) {
            faults.add(&path, format!("{address} {why}"));
        }
    }
}

fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Some("is nobody's address on a network");
    }
    link_local.then_some("means something on one link only, or is IPv4 in IPv6's form")
}
