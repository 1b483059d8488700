//! What the hooks at the way out have in common: restoring answers that came through the stack, and processes of the
//! host whose direct packets collide with a flow of a Service.

use keelson_abi::{FLOW_CLIENT_EGRESS, Flow, NodeConfig};

use crate::deliver;
use crate::direct::{self, Way};
use crate::flow::{self, Ports};
use crate::ingress::failed;
use crate::packet::{Hook, KIND_ERROR, KIND_OTHER, PASS, Skb, Verdict, Work};
use crate::{answer, icmp, maps, ring};

/// Carries one packet that leaves for a pod or for outside, and is not a pod's own to translate.
#[inline(always)]
pub fn carry(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook) -> Verdict {
    work.flow.service = 0;
    work.flow.generation = 0;
    work.to = work.key;
    if work.kind == KIND_OTHER {
        return PASS;
    }
    if work.kind == KIND_ERROR {
        return match icmp::leave(skb, work, hook) {
            Some(verdict) => verdict,
            None => PASS,
        };
    }
    if let Some(found) = flow::find(&work.key) {
        if flow::is_stub(found) {
            return match restore(skb, work, hook, found) {
                Some(verdict) => verdict,
                None => PASS,
            };
        }
        if !flow::is_of(found, FLOW_CLIENT_EGRESS) || found.client_epoch != 0 {
            return PASS;
        }
        if !(work.is_syn() && ring::is_closed(found.flags)) {
            flow::touch(work, found, true);
            work.to = found.other;
            return deliver::pass(skb, work, false);
        }
        flow::replace(work, found);
    }
    host(skb, work, node, hook)
}

/// An answer whose client is behind this device. None: it is not one.
#[inline(always)]
pub fn restore(skb: Skb, work: &mut Work, hook: Hook, stub: &Flow) -> Option<Verdict> {
    let entry = answer::entry_of(work, stub)?;
    if !flow::is_of(entry, hook.edge_of()) || (work.is_syn() && answer::reopens(work, entry)) {
        return None;
    }
    flow::touch(work, entry, false);
    work.to = work.entry_key.reverse();
    Some(deliver::pass(skb, work, false))
}

/// An ICMP error that leaves for outside.
#[inline(always)]
pub fn error(skb: Skb, work: &mut Work) -> Option<Verdict> {
    icmp::leave(skb, work, Hook::UplinkEgress)
}

/// A packet of the host's own, without a flow.
#[inline(always)]
fn host(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook) -> Verdict {
    if direct::collision(work, hook, 0) == Way::Clear {
        return PASS;
    }
    if let Some(server) = maps::endpoint(&work.key.dst) {
        work.flow.epoch = server.epoch;
    }
    if !flow::create(work, node, Ports::Range) {
        return failed(skb, work);
    }
    deliver::pass(skb, work, false)
}
