//! Routes: which device leads to an address, and which source address belongs to it.

use aya_ebpf::bindings::{
    BPF_FIB_LOOKUP_OUTPUT, BPF_FIB_LOOKUP_SKIP_NEIGH, BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as Params,
};
use aya_ebpf::helpers::bpf_fib_lookup;
use keelson_abi::{Addr, NodeConfig};

use crate::packet::{Skb, Work, same_addr};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const LO: u32 = 1;

/// The route leads to a device.
const SUCCESS: i64 = 0;
/// The arrival device does not forward.
const FWD_DISABLED: i64 = 5;
/// The packet at hand is too large for it; the device is told nevertheless.
const FRAG_NEEDED: i64 = 8;

/// Looks up the route of a packet to `dst` that arrived on `skb->ifindex` (or leaves by it: `iif`); leaves the device
/// in `work.oif`, the preferred source in `work.route_src`. False: the kernel would not forward it by a device.
#[inline(never)]
pub fn route(skb: Skb, work: &mut Work, dst: &Addr, iif: u32) -> bool {
    work.oif = 0;
    work.route_src = Addr([0; 4]);
    let flags = BPF_FIB_LOOKUP_SKIP_NEIGH as u32;
    let mut code = lookup(skb, work, dst, iif, flags | BPF_FIB_LOOKUP_SRC as u32);
    if code < 0 {
        // A kernel that does not know how to tell the source.
        code = lookup(skb, work, dst, iif, flags);
    }
    if code == FWD_DISABLED {
        // Redirecting asks for no forwarding on the arrival device: look as if it had come by lo.
        code = lookup(skb, work, dst, LO, flags | BPF_FIB_LOOKUP_SRC as u32);
    }
    (code == SUCCESS || code == FRAG_NEEDED) && work.oif != 0
}

/// As [`route`], of a packet that leaves by `oif`: for its preferred source.
#[inline(never)]
pub fn route_out(skb: Skb, work: &mut Work, dst: &Addr, oif: u32) {
    work.route_src = Addr([0; 4]);
    let flags = (BPF_FIB_LOOKUP_SKIP_NEIGH | BPF_FIB_LOOKUP_OUTPUT | BPF_FIB_LOOKUP_SRC) as u32;
    lookup(skb, work, dst, oif, flags);
}

#[inline(always)]
fn lookup(skb: Skb, work: &mut Work, dst: &Addr, iif: u32, flags: u32) -> i64 {
    // SAFETY: the type is made of integers and unions of integers, for which zero is valid.
    let mut params: Params = unsafe { core::mem::zeroed() };
    params.family = if dst.is_v4() { AF_INET } else { AF_INET6 };
    params.ifindex = iif;
    if dst.is_v4() {
        params.__bindgen_anon_4.ipv4_dst = dst.v4_be();
    } else {
        params.__bindgen_anon_4.ipv6_dst = dst.0;
    }
    // SAFETY: context and parameters are valid, the size is that of the parameters.
    let code = unsafe {
        bpf_fib_lookup(
            skb.cast(),
            core::ptr::from_mut(&mut params),
            size_of::<Params>() as i32,
            flags,
        )
    };
    if code == SUCCESS || code == FRAG_NEEDED {
        work.oif = params.ifindex;
        // SAFETY: the lookup of this family wrote this variant (or left the zero).
        work.route_src = unsafe {
            if dst.is_v4() {
                match params.__bindgen_anon_3.ipv4_src {
                    0 => Addr([0; 4]),
                    source => Addr::v4(source),
                }
            } else {
                Addr(params.__bindgen_anon_3.ipv6_src)
            }
        };
    }
    code
}

/// The address under which the last [`route`] leaves the node.
#[inline(always)]
pub fn source(work: &Work, node: &NodeConfig) -> Addr {
    if same_addr(&work.route_src, &Addr([0; 4])) {
        own(node, &work.to.dst)
    } else {
        work.route_src
    }
}

/// The node's own address of the family of `other`.
#[inline(always)]
pub fn own(node: &NodeConfig, other: &Addr) -> Addr {
    if other.is_v4() { node.ipv4 } else { node.ipv6 }
}
