//! What the three hooks that packets enter by have in common: find the flow, else begin one.

use keelson_abi::{
    DropReason, Endpoint, FLOW_BY_LO, FLOW_CLIENT_EGRESS, FLOW_RESET_GONE, FLOW_TO_LOCAL, FLOW_TO_NODE, Flow,
    NodeConfig, PREFIX_LOCAL_PODS,
};

use crate::deliver::{self, Fallback};
use crate::flow;
use crate::packet::{Hook, KIND_ERROR, KIND_OTHER, Skb, Verdict, Work, is_connected, same, same_addr};
use crate::report::{drop, drop_for};
use crate::service::{self, Asked, Current};
use crate::{answer, direct, fib, icmp, maps, refuse};

/// Carries one packet.
#[inline(always)]
pub fn carry(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook) -> Verdict {
    if work.kind == KIND_ERROR {
        return icmp::carry(skb, work, node, hook);
    }
    if work.kind != KIND_OTHER
        && let Some(found) = flow::find(&work.key)
    {
        let verdict = if flow::is_stub(found) {
            answer::answer(skb, work, node, hook, found)
        } else if flow::is_of(found, hook.client()) {
            forward(skb, work, node, hook, found)
        } else if hook == Hook::PodIngress && flow::is_of(found, FLOW_CLIENT_EGRESS) {
            direct::leave(skb, work, found)
        } else {
            None
        };
        if let Some(verdict) = verdict {
            return verdict;
        }
    }
    fresh(skb, work, node, hook)
}

/// A packet of a client with a flow. None: the flow is no longer valid and was removed.
#[inline(always)]
fn forward(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, entry: &mut Flow) -> Option<Verdict> {
    work.to = entry.other;
    work.flags = entry.flags;
    work.server_ifindex = entry.server_ifindex;
    work.flow.service = entry.service;
    let server = if entry.flags & FLOW_TO_NODE != 0 {
        None
    } else {
        maps::endpoint(&work.to.dst)
    };
    let epoch = server.map_or(0, |server| server.epoch);
    if work.pod_epoch != entry.client_epoch {
        flow::replace(work, entry);
        return None;
    }
    let opens = work.is_syn();
    let key = work.key;
    let current = if epoch == entry.epoch {
        service::current(work, node, &key, entry, opens)
    } else if is_connected(work.key.proto) && !opens && entry.flags & FLOW_RESET_GONE != 0 {
        Current::Gone
    } else {
        Current::No
    };
    match current {
        Current::Yes => {}
        Current::No => {
            flow::replace(work, entry);
            return None;
        }
        Current::Gone => return Some(answer::gone(skb, work, node, hook, entry)),
    }
    if work.dry != 0 {
        service::tell_flow(work, node, hook);
    }
    flow::touch(work, entry, true);
    Some(serve(skb, work, node, hook, server))
}

/// Sends what `work.to` describes to the server. `server`: the local pod that it is.
#[inline(never)]
pub fn serve(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, server: Option<&Endpoint>) -> Verdict {
    // Where the source is one of the node's own addresses, the stack forwards only from lo.
    // A pod that reaches itself comes from the gateway's address, which is nobody's.
    let masqueraded = !same_addr(&work.key.src, &work.to.src) && !same_addr(&work.key.src, &work.to.dst);
    let own_source = hook == Hook::HostIngress || masqueraded;
    let fallback = if own_source {
        Fallback::ByLo
    } else {
        Fallback::Translated
    };
    work.by_lo = work.flags & FLOW_BY_LO;
    if work.flags & FLOW_TO_NODE != 0 {
        return if hook == Hook::HostIngress {
            deliver::inject(skb, work, node, false)
        } else {
            deliver::pass(skb, work, false)
        };
    }
    match server {
        Some(server) => deliver::to_pod(skb, work, server, fallback),
        None => deliver::out(skb, work, work.server_ifindex, fallback, true),
    }
}

/// A packet without a flow.
#[inline(always)]
fn fresh(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook) -> Verdict {
    work.flow.service = 0;
    work.flow.generation = 0;
    work.to = work.key;
    // Pods' addresses first: packets between pods without a Service need no more than this.
    if let Some(server) = maps::endpoint(&work.key.dst) {
        return direct::to_pod(skb, work, node, hook, server);
    }
    let kind = maps::prefix_kind(&work.key.dst);
    if work.kind == KIND_OTHER {
        return direct::elsewhere(skb, work, node, hook, kind);
    }
    let open = work.may_open();
    service::begin(work, hook);
    match service::ask(work, node, kind, open) {
        Asked::Nobody => direct::elsewhere(skb, work, node, hook, kind),
        Asked::Silent => drop_for(skb, work, work.reason),
        _ if !open => drop(skb, work, DropReason::NoConnection),
        Asked::Endpoint => connect(skb, work, node, hook, kind),
        Asked::Refused => refuse::refuse(skb, work, node, hook, work.reason),
    }
}

/// Begins the flow of a client to the endpoint chosen.
#[inline(never)]
fn connect(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, kind: u32) -> Verdict {
    prepare(work, hook);
    work.flow.flags |= work.extra_flags;
    let server = if service::is_node(work) {
        None
    } else {
        maps::endpoint(&work.to.dst)
    };
    if service::is_node(work) {
        work.flow.flags |= FLOW_TO_NODE;
    } else if let Some(server) = server {
        work.flow.flags |= FLOW_TO_LOCAL;
        work.flow.epoch = server.epoch;
    } else if maps::prefix_kind(&work.to.dst) == PREFIX_LOCAL_PODS {
        // A pod of this node that is gone, or not there yet: nobody else has its address.
        return refuse::refuse(skb, work, node, hook, DropReason::NoEndpoint as u32);
    } else {
        let dst = work.to.dst;
        let iif = direct::arrival(skb, hook);
        if !fib::route(skb, work, &dst, iif) {
            return refuse::refuse(skb, work, node, hook, DropReason::NoEndpoint as u32);
        }
        work.flow.server_ifindex = work.oif;
    }
    let ports = service::translate_source(skb, work, node, hook, kind);
    if same(&work.key, &work.to) {
        // The frontend is the endpoint's own address and port: nothing to translate either way.
        return deliver::pass_plain(work);
    }
    if !flow::create(work, node, ports) {
        return refuse::refuse(skb, work, node, hook, work.reason);
    }
    work.flags = work.flow.flags;
    work.server_ifindex = work.flow.server_ifindex;
    if work.adopted == 0 {
        return serve(skb, work, node, hook, server);
    }
    let server = if work.flags & FLOW_TO_NODE != 0 {
        None
    } else {
        maps::endpoint(&work.to.dst)
    };
    serve(skb, work, node, hook, server)
}

/// Resets `work.flow` for a flow of a client at this hook.
#[inline(always)]
pub fn prepare(work: &mut Work, hook: Hook) {
    work.flow.flags = hook.client();
    work.flow.epoch = 0;
    work.flow.client_epoch = work.pod_epoch;
    work.flow.client_ifindex = 0;
    work.flow.server_ifindex = 0;
    work.flow.claim = 0;
}

/// Why a flow could not be made, as a verdict.
#[inline(always)]
pub fn failed(skb: Skb, work: &Work) -> Verdict {
    drop_for(skb, work, work.reason)
}
