//! Uplink, egress: the source of pods that leave for outside; answers of the host's own sockets to NodePort clients;
//! processes of the host that ask another node's pod directly.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{
    DropReason, Endpoint, FLOW_CHAINED, FLOW_CLIENT_EGRESS, FLOW_SNAT, Flow, NODE_SNAT_PODS, NodeConfig,
};

use crate::flow::{self, Ports};
use crate::packet::{
    Hook, KIND_ERROR, KIND_FLOW, KIND_OTHER, PASS, Parsed, Skb, Verdict, Work, begin, is_connected, parse,
};
use crate::report::{self, drop, drop_for};
use crate::{deliver, egress, fib, ingress, maps, ring, tunnel};

/// Entry.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
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
    let done = deliver::is_done(skb);
    let parsed = parse(skb, work, node, false);
    if matches!(parsed, Parsed::Foreign) || tunnel::is_outer(work, node) {
        return PASS;
    }
    if let Parsed::Yes | Parsed::Orphan = parsed
        && let Some(pod) = maps::endpoint(&work.key.src)
        && is_translated(work, node)
    {
        if matches!(parsed, Parsed::Orphan) {
            return drop(skb, work, DropReason::Fragment);
        }
        return leave(skb, work, node, pod);
    }
    if done || !matches!(parsed, Parsed::Yes) {
        return PASS;
    }
    egress::carry(skb, work, node, Hook::UplinkEgress)
}

/// Whether a pod's packet to this destination is to have the node's address: everything but the cluster's own networks
/// and those that are excepted.
#[inline(always)]
fn is_translated(work: &Work, node: &NodeConfig) -> bool {
    node.flags & NODE_SNAT_PODS != 0 && maps::prefix_kind(&work.key.dst) == 0
}

/// A pod's packet leaves for outside.
#[inline(always)]
fn leave(skb: Skb, work: &mut Work, node: &NodeConfig, pod: &Endpoint) -> Verdict {
    work.flow.service = 0;
    work.to = work.key;
    if work.kind == KIND_ERROR {
        // About a packet of an outside client, or an answer to a translated source; of anything else nobody outside
        // knows.
        return match egress::error(skb, work) {
            Some(verdict) => verdict,
            None => drop(skb, work, DropReason::NoConnection),
        };
    }
    if work.kind == KIND_OTHER {
        return drop(skb, work, DropReason::Protocol);
    }
    if let Some(found) = flow::find(&work.key) {
        if flow::is_stub(found) {
            if let Some(verdict) = egress::restore(skb, work, Hook::UplinkEgress, found) {
                return verdict;
            }
        } else if is_usable(skb, work, found, pod) {
            flow::touch(work, found, true);
            work.to = found.other;
            return deliver::pass(skb, work, false);
        } else {
            flow::replace(work, found);
        }
    }
    begin_flow(skb, work, node, pod)
}

/// Whether the flow may go on with this packet.
#[inline(always)]
fn is_usable(skb: Skb, work: &Work, entry: &Flow, pod: &Endpoint) -> bool {
    // SAFETY: the context is valid.
    let moved = entry.server_ifindex != unsafe { (*skb).ifindex };
    let opens = work.is_syn();
    let stale = (opens && ring::is_closed(entry.flags)) || entry.client_epoch != pod.epoch;
    // On another uplink the address is another; an established connection cannot follow it.
    let follows = work.kind == KIND_FLOW && (!is_connected(work.key.proto) || opens);
    flow::is_of(entry, FLOW_CLIENT_EGRESS) && !stale && !(moved && follows)
}

/// The first packet of a pod to somebody outside.
#[inline(always)]
fn begin_flow(skb: Skb, work: &mut Work, node: &NodeConfig, pod: &Endpoint) -> Verdict {
    if !work.may_open() {
        return drop(skb, work, DropReason::NoConnection);
    }
    ingress::prepare(work, Hook::UplinkEgress);
    work.flow.generation = 0;
    work.flow.client_epoch = pod.epoch;
    work.flow.flags = FLOW_CLIENT_EGRESS | FLOW_SNAT;
    // SAFETY: the context is valid.
    work.flow.server_ifindex = unsafe { (*skb).ifindex };
    work.reverse = work.key.reverse();
    if let Some(stub) = flow::find(&work.reverse)
        && flow::is_stub(stub)
    {
        // The packet is already a translated one: its answers need both translations undone.
        work.flow.flags |= FLOW_CHAINED;
    }
    let (dst, ifindex) = (work.key.dst, work.flow.server_ifindex);
    fib::route_out(skb, work, &dst, ifindex);
    work.to = work.key;
    work.to.src = fib::source(work, node);
    if !flow::create(work, node, Ports::Range) {
        return drop_for(skb, work, work.reason);
    }
    deliver::pass(skb, work, false)
}
