//! Uplink, ingress: NodePorts, host ports, external addresses; answers to translated sources; packets for pods.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{Addr, DropReason, NodeConfig, PREFIX_LOCAL_PODS, PREFIX_NODE_ADDRESS, PREFIX_SERVICES};

use crate::packet::{Hook, PASS, Parsed, Skb, Verdict, Work, begin, is_loopback, parse};
use crate::report::{self, drop};
use crate::{ingress, maps, tunnel};

/// Entry.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    match begin() {
        Some((work, node)) => {
            let verdict = run(ctx.skb.skb, work, node);
            report::finish(work, verdict)
        }
        None => PASS,
    }
}

#[inline(always)]
fn run(skb: Skb, work: &mut Work, node: &NodeConfig) -> Verdict {
    match parse(skb, work, node, true) {
        // Later fragments of what only the host is waiting for are its stack's to put together; those of a flow are
        // lost with their first part anyway.
        Parsed::Foreign | Parsed::Orphan => return PASS,
        Parsed::Malformed => return drop(skb, work, DropReason::Malformed),
        Parsed::Yes => {}
    }
    if tunnel::is_outer(work, node) {
        return PASS;
    }
    // A redirect passes by rp_filter: nobody outside has a local pod's address.
    // And 127/8 is a host's own: the stack's check for it comes after this program.
    if is_loopback(&work.key.src) || is_loopback(&work.key.dst) || is_ours(&work.key.src) {
        return drop(skb, work, DropReason::SourceCheck);
    }
    ingress::carry(skb, work, node, Hook::UplinkIngress)
}

/// Whether nobody outside has this address: the node's own, a Service's, or one of this node's pods.
#[inline(always)]
fn is_ours(addr: &Addr) -> bool {
    let kind = maps::prefix_kind(addr);
    kind == PREFIX_LOCAL_PODS
        || kind == PREFIX_SERVICES
        || kind == PREFIX_NODE_ADDRESS
        || maps::endpoint(addr).is_some()
}
