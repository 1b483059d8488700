//! The tunnel to other nodes: VXLAN on one device, which is told with every packet where to send it.
//!
//! Inside there are only packets between pods of different nodes and from nodes to pods, each node with an address of its own
//! pods' network. So whoever sends what is in the tunnel is known by the source: it must be the node that the pods are on.

use aya_ebpf::bindings::{
    BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key as Key, bpf_tunnel_key__bindgen_ty_1 as Remote,
    bpf_tunnel_key__bindgen_ty_3 as Local,
};
use aya_ebpf::helpers::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use keelson_abi::{Addr, NodeConfig};

use crate::fib;
use crate::packet::{KIND_FLOW, Skb, UDP, Work, same_addr};

/// Hops that the outer packet may take.
const TTL: u8 = 64;

/// Whether the packet is the tunnel's own, on an uplink: what is inside passes the tunnel's programs.
#[inline(always)]
pub fn is_outer(work: &Work, node: &NodeConfig) -> bool {
    node.tunnel_ifindex != 0
        && work.key.dport_be == node.tunnel_port_be
        && work.key.proto == UDP
        && work.kind == KIND_FLOW
        && (is_own(work, node, &work.key.dst) || is_own(work, node, &work.key.src))
}

#[inline(always)]
fn is_own(work: &Work, node: &NodeConfig, addr: &Addr) -> bool {
    same_addr(addr, &fib::own(node, &work.key.dst))
}

/// The node's address among the pods', of the family of `other`; all zero = none.
#[inline(always)]
pub fn own(node: &NodeConfig, other: &Addr) -> Addr {
    if other.is_v4() {
        node.tunnel_ipv4
    } else {
        node.tunnel_ipv6
    }
}

/// Whether the packet of a process of the host leaves by the tunnel with a source that the other end does not know.
#[inline(always)]
pub fn is_foreign_source(work: &Work, node: &NodeConfig, ifindex: u32) -> bool {
    ifindex != 0 && ifindex == node.tunnel_ifindex && !same_addr(&work.key.src, &own(node, &work.key.src))
}

/// Has the device send the packet to a node. False: it cannot.
#[inline(never)]
pub fn aim(skb: Skb, node: &NodeConfig, to: &Addr) -> bool {
    // SAFETY: the type is made of integers and unions of integers, for which zero is valid.
    let mut key: Key = unsafe { core::mem::zeroed() };
    key.tunnel_id = node.tunnel_vni;
    key.tunnel_ttl = TTL;
    let from = fib::own(node, to);
    let flags = if to.is_v4() {
        // The kernel's own byte order here. The packet inside has its checksums, and IPv4 one of its header.
        key.__bindgen_anon_1 = Remote {
            remote_ipv4: u32::from_be(to.v4_be()),
        };
        key.__bindgen_anon_3 = Local {
            local_ipv4: u32::from_be(from.v4_be()),
        };
        BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1 = Remote { remote_ipv6: to.0 };
        key.__bindgen_anon_3 = Local { local_ipv6: from.0 };
        BPF_F_TUNINFO_IPV6
    };
    // SAFETY: context and key are valid, the size is that of the key.
    unsafe { bpf_skb_set_tunnel_key(skb, &mut key, size_of::<Key>() as u32, u64::from(flags)) == 0 }
}

/// Whether the packet came from this node, in our network.
#[inline(never)]
pub fn is_from(skb: Skb, node: &NodeConfig, from: &Addr) -> bool {
    // SAFETY: as in `aim`.
    let mut key: Key = unsafe { core::mem::zeroed() };
    let flags = if from.is_v4() { 0 } else { BPF_F_TUNINFO_IPV6 };
    // SAFETY: as in `aim`.
    let code = unsafe { bpf_skb_get_tunnel_key(skb, &mut key, size_of::<Key>() as u32, u64::from(flags)) };
    if code != 0 || key.tunnel_id != node.tunnel_vni {
        return false;
    }
    // SAFETY: the helper wrote the variant of the family asked for.
    unsafe {
        if from.is_v4() {
            key.__bindgen_anon_1.remote_ipv4.to_be() == from.v4_be()
        } else {
            same_addr(&Addr(key.__bindgen_anon_1.remote_ipv6), from)
        }
    }
}
