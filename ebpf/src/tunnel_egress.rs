//! Tunnel, egress: every packet is told which node to go to. What the host sends with an address that the other node does not
//! know gets the node's own among the pods'.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{
    Addr, DropReason, FLOW_CLIENT_EGRESS, FLOW_SNAT, NodeConfig, PREFIX_PEER_PODS, TUNNEL_MAC,
    TUNNEL_SENDER_MAC,
};

use crate::flow::{self, Ports};
use crate::packet::{DROP, Hook, KIND_ERROR, PASS, Parsed, Skb, Verdict, Work, begin, parse, same_addr};
use crate::report::{self, drop, drop_for};
use crate::rewrite::set_macs;
use crate::{deliver, egress, ingress, maps, tunnel};

/// Entry.
#[classifier]
pub fn tunnel_egress(ctx: TcContext) -> i32 {
    match begin() {
        Some((work, node)) => {
            let verdict = run(ctx.skb.skb, work, node);
            report::finish(work, verdict)
        }
        None => DROP,
    }
}

#[inline(always)]
fn run(skb: Skb, work: &mut Work, node: &NodeConfig) -> Verdict {
    let done = deliver::is_done(skb);
    let parsed = parse(skb, work, node, false);
    match parsed {
        Parsed::Yes | Parsed::Orphan => {}
        // Neighbours have nothing to ask each other here.
        Parsed::Foreign => return DROP,
        Parsed::Malformed => return drop(skb, work, DropReason::Malformed),
    }
    let to = match maps::prefix(&work.key.dst) {
        Some(prefix) if prefix.kind == PREFIX_PEER_PODS && !same_addr(&prefix.node, &Addr([0; 4])) => {
            prefix.node
        }
        _ => return drop(skb, work, DropReason::UnknownAddress),
    };
    if !done && matches!(parsed, Parsed::Yes) && maps::endpoint(&work.key.src).is_none() {
        let verdict = of_host(skb, work, node);
        if verdict != PASS {
            return verdict;
        }
    }
    if work.dry != 0 {
        return PASS;
    }
    if !set_macs(skb, TUNNEL_MAC, TUNNEL_SENDER_MAC) || !tunnel::aim(skb, node, &to) {
        return drop(skb, work, DropReason::Rewrite);
    }
    PASS
}

/// A packet of the host's own, or one that it forwards.
#[inline(always)]
fn of_host(skb: Skb, work: &mut Work, node: &NodeConfig) -> Verdict {
    let foreign = tunnel::is_foreign_source(work, node, node.tunnel_ifindex);
    if !foreign || work.kind == KIND_ERROR || has_flow(work) {
        return egress::carry(skb, work, node, Hook::UplinkEgress);
    }
    if !work.may_open() {
        return drop(skb, work, DropReason::NoConnection);
    }
    ingress::prepare(work, Hook::UplinkEgress);
    work.flow.service = 0;
    work.flow.generation = 0;
    work.flow.flags = FLOW_CLIENT_EGRESS | FLOW_SNAT;
    work.to = work.key;
    work.to.src = tunnel::own(node, &work.key.src);
    if !flow::create(work, node, Ports::Range) {
        return drop_for(skb, work, work.reason);
    }
    deliver::pass(skb, work, false)
}

/// Whether the packet's tuple is that of a flow that may go on with it.
#[inline(always)]
fn has_flow(work: &Work) -> bool {
    match flow::find(&work.key) {
        Some(found) => flow::is_stub(found) || !(work.is_syn() && crate::ring::is_closed(found.flags)),
        None => false,
    }
}
