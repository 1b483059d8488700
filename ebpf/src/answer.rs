//! The way back: what a stub found becomes the answer that the client expects.

use keelson_abi::{
    CHOICE_ANSWER, DropReason, Endpoint, FLOW_BY_LO, FLOW_CHAINED, FLOW_CLIENT, FLOW_CLIENT_HOST,
    FLOW_CLIENT_OUTSIDE, FLOW_CLIENT_POD, FLOW_RESET_GONE, FLOW_RST, FLOW_TO_LOCAL, FLOW_TO_NODE, Flow,
    NodeConfig,
};

use crate::atomic::set_flags;
use crate::deliver::{self, Fallback, can_redirect};
use crate::flow;
use crate::maps;
use crate::packet::{Hook, KIND_ERROR, Skb, Verdict, Work};
use crate::refuse;
use crate::report::drop;
use crate::ring;
use crate::service::{self, Current};

/// The entry behind a stub, its key left in `work.entry_key`. A stub that lost its entry is removed.
#[inline(always)]
pub fn entry_of(work: &mut Work, stub: &Flow) -> Option<&'static mut Flow> {
    work.entry_key = stub.other;
    let entry = flow::find(&work.entry_key);
    match entry {
        Some(entry) if !flow::is_stub(entry) => Some(entry),
        _ => None,
    }
}

/// Handles a packet whose tuple is a stub's. None: it is not an answer of that flow, go on.
#[inline(always)]
pub fn answer(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, stub: &Flow) -> Option<Verdict> {
    let entry = entry_of(work, stub)?;
    if hook == Hook::UplinkIngress && entry.flags & (FLOW_TO_NODE | FLOW_TO_LOCAL) != 0 {
        // The server is this node, or a pod of it: its answers do not come from outside.
        return Some(drop(skb, work, DropReason::SourceCheck));
    }
    if work.is_syn() && reopens(work, entry) {
        return None;
    }
    if work.pod_epoch != 0 && work.pod_epoch != entry.epoch {
        // The address had another owner when the flow began.
        flow::remove_scratch(work, entry);
        return None;
    }
    if entry.flags & FLOW_RESET_GONE != 0 {
        let key = work.entry_key;
        // A datagram's client has moved on already, or will with its next one.
        if service::current(work, node, &key, entry, false) != Current::Yes {
            return Some(gone(skb, work, node, hook, entry));
        }
    }
    flow::touch(work, entry, false);
    work.why.choice = CHOICE_ANSWER;
    work.to = work.entry_key.reverse();
    Some(deliver(skb, work, node, hook, entry))
}

/// Whether a SYN with the tuple of a flow's answers begins a connection of its own: the flow has ended, and was removed.
#[inline(always)]
pub fn reopens(work: &mut Work, entry: &Flow) -> bool {
    let ended = ring::is_closed(entry.flags) || ring::is_expired(work.key.proto, entry, work.now);
    ended && flow::remove_scratch(work, entry)
}

/// A packet of a connection whose endpoint is gone: whoever sent it is told. The flow stays, closed, until it ages, so that
/// the other end is told as well.
#[inline(never)]
pub fn gone(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, entry: &mut Flow) -> Verdict {
    if work.dry == 0 && entry.flags & FLOW_RST == 0 {
        set_flags(entry, FLOW_RST);
    }
    refuse::refuse(skb, work, node, hook, DropReason::EndpointGone as u32)
}

/// Sends what `work.to` (and `work.quote_to`) describes to the client of the entry under `work.entry_key`.
#[inline(never)]
pub fn deliver(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, entry: &Flow) -> Verdict {
    work.flow.service = entry.service;
    match entry.flags & FLOW_CLIENT {
        FLOW_CLIENT_POD => match client_pod(work, entry) {
            Some(pod) => deliver::to_pod(skb, work, pod, Fallback::Plain),
            None => drop(skb, work, DropReason::NoConnection),
        },
        FLOW_CLIENT_OUTSIDE => {
            // A masqueraded answer is for the node itself: untranslated it would end here.
            let fallback = if hook == Hook::UplinkIngress {
                Fallback::ByLo
            } else {
                Fallback::Plain
            };
            deliver::out(skb, work, entry.client_ifindex, fallback, true)
        }
        FLOW_CLIENT_HOST => deliver::inject(skb, work, node, entry.flags & FLOW_BY_LO != 0),
        _ => to_leaver(skb, work, entry),
    }
}

/// The pod that is the entry's client, unless its address has another owner by now.
#[inline(always)]
fn client_pod(work: &mut Work, entry: &Flow) -> Option<&'static Endpoint> {
    match maps::endpoint(&work.entry_key.src) {
        Some(pod) if pod.epoch == entry.client_epoch => Some(pod),
        _ => {
            flow::remove_scratch(work, entry);
            None
        }
    }
}

/// To a client whose packets are translated where they leave the node.
#[inline(always)]
fn to_leaver(skb: Skb, work: &mut Work, entry: &Flow) -> Verdict {
    if entry.client_epoch == 0 {
        // A process of the host: only its port was translated, so the stack expects the answer where it came.
        return deliver::pass(skb, work, false);
    }
    let Some(pod) = client_pod(work, entry) else {
        return drop(skb, work, DropReason::NoConnection);
    };
    if entry.flags & FLOW_CHAINED == 0 {
        return deliver::to_pod(skb, work, pod, Fallback::Translated);
    }
    // The pod asked a Service whose endpoint is outside: what is restored now is the answer of that flow.
    if work.kind == KIND_ERROR || !can_redirect(skb, work, pod.ifindex) {
        return deliver::pass(skb, work, false);
    }
    work.reverse = work.to;
    if let Some(stub) = flow::find(&work.reverse)
        && flow::is_stub(stub)
        && let Some(service) = entry_of(work, stub)
    {
        flow::touch(work, service, false);
        work.to = work.entry_key.reverse();
    }
    deliver::to_pod(skb, work, pod, Fallback::Plain)
}
