//! Tunnel, ingress: packets of other nodes' pods, and of the nodes themselves, for pods of this one. Answers to what this node
//! sent for a client of a Service.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{DropReason, NodeConfig, PREFIX_PEER_PODS};

use crate::packet::{DROP, Hook, PASS, Parsed, Skb, Verdict, Work, begin, parse};
use crate::report::{self, drop};
use crate::{ingress, maps, tunnel};

/// Entry.
#[classifier]
pub fn tunnel_ingress(ctx: TcContext) -> i32 {
    match begin() {
        Some((work, node)) => {
            let verdict = run(ctx.skb.skb, work, node);
            report::finish(work, verdict)
        }
        // Whoever the sender is, nobody has looked.
        None => DROP,
    }
}

#[inline(always)]
fn run(skb: Skb, work: &mut Work, node: &NodeConfig) -> Verdict {
    let parsed = parse(skb, work, node, true);
    match parsed {
        Parsed::Yes | Parsed::Orphan => {}
        // Nothing but IP is sent by this way.
        Parsed::Foreign => return DROP,
        Parsed::Malformed => return drop(skb, work, DropReason::Malformed),
    }
    if !is_known(skb, work, node) {
        return drop(skb, work, DropReason::SourceCheck);
    }
    if matches!(parsed, Parsed::Orphan) {
        return PASS;
    }
    ingress::carry(skb, work, node, Hook::UplinkIngress)
}

/// Whether the node that sent the packet is the one that has its source. Dry runs come by no tunnel.
#[inline(always)]
fn is_known(skb: Skb, work: &Work, node: &NodeConfig) -> bool {
    match maps::prefix(&work.key.src) {
        Some(prefix) if prefix.kind == PREFIX_PEER_PODS => {
            work.dry != 0 || tunnel::is_from(skb, node, &prefix.node)
        }
        _ => false,
    }
}
