//! ICMP errors, in both directions: an error about a translated packet must show the side that gets it what that side
//! has sent.
//!
//! The packet quoted went from one end to the other, so the flow is found under the tuple of its answer: a stub there
//! means that the quote is a client's packet as the server's side saw it, an entry means that it is an answer as the
//! client saw it.

use keelson_abi::{
    DropReason, FLOW_CLIENT_EGRESS, FLOW_CLIENT_HOST, FLOW_TO_NODE, Flow, NodeConfig, PREFIX_SERVICES,
};

use crate::deliver::{self, Fallback};
use crate::packet::{Hook, Skb, Verdict, Work, same_addr};
use crate::report::drop;
use crate::{answer, direct, fib, flow, ingress, maps};

/// Carries an ICMP error that entered by an ingress hook.
#[inline(never)]
pub fn carry(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook) -> Verdict {
    work.to = work.key;
    work.flow.service = 0;
    // A pod can only complain about packets that were sent to it.
    let plausible = hook != Hook::PodIngress || same_addr(&work.quote.dst, &work.key.src);
    work.reverse = work.quote.reverse();
    if plausible && let Some(found) = flow::find(&work.reverse) {
        if flow::is_stub(found) {
            if let Some(entry) = answer::entry_of(work, found) {
                to_client(work, entry);
                return answer::deliver(skb, work, node, hook, entry);
            }
        } else if flow::is_of(found, hook.client()) {
            to_server(work, found);
            let to_node = found.flags & FLOW_TO_NODE != 0;
            let server = if to_node {
                None
            } else {
                maps::endpoint(&work.to.dst)
            };
            return ingress::serve(skb, work, node, hook, server);
        }
    }
    unmatched(skb, work, node, hook)
}

/// An ICMP error at a hook of the way out. None: no flow, it stays as it is.
#[inline(always)]
pub fn leave(skb: Skb, work: &mut Work, hook: Hook) -> Option<Verdict> {
    work.reverse = work.quote.reverse();
    let found = flow::find(&work.reverse)?;
    if flow::is_stub(found) {
        let entry = answer::entry_of(work, found)?;
        if !flow::is_of(entry, hook.edge_of()) {
            return None;
        }
        to_client(work, entry);
    } else if flow::is_of(found, FLOW_CLIENT_EGRESS) {
        to_server(work, found);
    } else {
        return None;
    }
    Some(deliver::pass(skb, work, false))
}

/// The error goes back to the client of the entry under `work.entry_key`.
#[inline(always)]
fn to_client(work: &mut Work, entry: &Flow) {
    work.quote_to = work.entry_key;
    work.to.src = work.key.src;
    work.to.dst = work.entry_key.src;
    // A router on the way keeps its address; what came from the endpoint itself comes from the Service. A process of
    // the host gets every error from the Service: from elsewhere the stack would not take it.
    if same_addr(&work.key.src, &entry.other.dst) || flow::is_of(entry, FLOW_CLIENT_HOST) {
        work.to.src = work.entry_key.dst;
    }
    plain(work);
}

/// The error goes on to the server: the client did not want its answer.
#[inline(always)]
fn to_server(work: &mut Work, entry: &Flow) {
    work.quote_to = entry.other.reverse();
    work.to.src = work.key.src;
    work.to.dst = entry.other.dst;
    // `work.reverse` is the entry's key.
    if same_addr(&work.key.src, &work.reverse.src) {
        work.to.src = entry.other.src;
    }
    work.flags = entry.flags;
    work.server_ifindex = entry.server_ifindex;
    plain(work);
}

/// The outer tuple has no ports.
#[inline(always)]
fn plain(work: &mut Work) {
    work.to.sport_be = 0;
    work.to.dport_be = 0;
    work.to.proto = work.key.proto;
    work.to.reserved = [0; 3];
}

/// About a packet of no flow.
#[inline(always)]
fn unmatched(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook) -> Verdict {
    work.quote_to = work.quote;
    work.to = work.key;
    if let Some(pod) = maps::endpoint(&work.key.dst) {
        return deliver::to_pod(skb, work, pod, Fallback::Plain);
    }
    let kind = maps::prefix_kind(&work.key.dst);
    if hook == Hook::HostIngress || kind == PREFIX_SERVICES {
        return drop(skb, work, DropReason::NoConnection);
    }
    if hook == Hook::UplinkIngress || kind == keelson_abi::PREFIX_NODE_ADDRESS {
        return deliver::pass_plain(work);
    }
    let (dst, iif) = (work.key.dst, direct::arrival(skb, hook));
    if !fib::route(skb, work, &dst, iif) || work.oif == node.keelson0_ifindex {
        return deliver::pass_plain(work);
    }
    let oif = work.oif;
    // The hook at the way out translates what is about a packet that it has translated.
    deliver::out(skb, work, oif, Fallback::Plain, false)
}
