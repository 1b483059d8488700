//! What the three hooks that packets enter by have in common: find the flow, else begin one.

use keelson_abi::{
    DropReason, Endpoint, FLOW_BY_LO, FLOW_CLIENT_EGRESS, FLOW_SNAT, FLOW_TO_LOCAL, FLOW_TO_NODE, Flow,
    GATEWAY_V4, HOST_LOOP_V4, NodeConfig, PREFIX_NODE_ADDRESS,
};

use crate::deliver::{self, Fallback};
use crate::flow::{self, Ports};
use crate::packet::{
    Hook, KIND_ERROR, KIND_OTHER, Skb, TCP, UDP, Verdict, Work, is_loopback, same, same_addr,
};
use crate::report::{drop, drop_for};
use crate::service::{self, Asked};
use crate::socket::{self, Found};
use crate::{answer, direct, fib, icmp, maps, refuse, ring};
use keelson_abi::Addr;

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
    if epoch != entry.epoch || work.pod_epoch != entry.client_epoch || !is_current(work, node, entry) {
        flow::replace(work, entry);
        return None;
    }
    flow::touch(work, entry, true);
    Some(serve(skb, work, node, hook, server))
}

/// Whether the flow may go on with this packet: TCP is asked when it opens, UDP always.
#[inline(always)]
fn is_current(work: &Work, node: &NodeConfig, entry: &Flow) -> bool {
    let opens = work.is_syn();
    if opens && ring::is_closed(entry.flags) {
        return false;
    }
    if entry.service == 0 || !(opens || work.key.proto == UDP) {
        return true;
    }
    match service::frontend(&work.key, node) {
        Some(frontend) => frontend.service == entry.service && frontend.generation == entry.generation,
        None => false,
    }
}

/// Sends what `work.to` describes to the server. `server`: the local pod that it is.
#[inline(never)]
pub fn serve(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, server: Option<&Endpoint>) -> Verdict {
    // Where the source is one of the node's own addresses, the stack forwards only from lo.
    let own_source =
        hook == Hook::HostIngress || (hook == Hook::UplinkIngress && !same_addr(&work.key.src, &work.to.src));
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
    let asked = service::ask(work, node, kind, open);
    let reason = match asked {
        Asked::Nobody => return direct::elsewhere(skb, work, node, hook, kind),
        Asked::Silent => return drop(skb, work, DropReason::PolicyLocal),
        Asked::UnknownAddress => return drop(skb, work, DropReason::UnknownAddress),
        _ if !open => return drop(skb, work, DropReason::NoConnection),
        Asked::Endpoint => return connect(skb, work, node, hook, kind),
        Asked::NoEndpoint => DropReason::NoEndpoint,
        Asked::UnknownPort => DropReason::UnknownPort,
    };
    refuse::refuse(skb, work, node, hook, reason as u32)
}

/// Begins the flow of a client to the endpoint chosen.
#[inline(never)]
fn connect(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, kind: u32) -> Verdict {
    prepare(work, hook);
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
    } else {
        let dst = work.to.dst;
        let iif = direct::arrival(skb, hook);
        if !fib::route(skb, work, &dst, iif) {
            return refuse::refuse(skb, work, node, hook, DropReason::NoEndpoint as u32);
        }
        work.flow.server_ifindex = work.oif;
    }
    let ports = translate_source(skb, work, node, hook, kind);
    if same(&work.key, &work.to) {
        // The frontend is the endpoint's own address and port: nothing to translate either way.
        return deliver::pass_plain(work);
    }
    if !flow::create(work, node, ports) {
        return refuse::refuse(skb, work, node, hook, work.reason);
    }
    work.flags = work.flow.flags;
    work.server_ifindex = work.flow.server_ifindex;
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
    work.flow.reserved = 0;
}

/// The source that the endpoint is to see, and which ports it may have. Masqueraded is only what could not come back
/// to this node otherwise.
#[inline(always)]
fn translate_source(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, kind: u32) -> Ports {
    let to_node = work.flow.flags & FLOW_TO_NODE != 0;
    let to_local = work.flow.flags & FLOW_TO_LOCAL != 0;
    let ports = match hook {
        Hook::UplinkIngress => {
            let remote = !to_node && !to_local;
            if remote {
                work.to.src = fib::source(work, node);
            }
            work.flow.client_ifindex = direct::way_back(skb, work);
            if remote { Ports::Range } else { Ports::Keep }
        }
        Hook::HostIngress => {
            if kind == PREFIX_NODE_ADDRESS || is_loopback(&work.key.dst) {
                work.flow.flags |= FLOW_BY_LO;
            }
            if to_node {
                work.to.src = Addr::v4(u32::from_ne_bytes(HOST_LOOP_V4));
                Ports::Keep
            } else if is_loopback(&work.key.src) {
                work.to.src = if to_local {
                    node.ipv4
                } else {
                    fib::source(work, node)
                };
                Ports::Range
            } else {
                Ports::Keep
            }
        }
        _ => {
            if same_addr(&work.to.dst, &work.key.src) {
                work.to.src = Addr::v4(u32::from_ne_bytes(GATEWAY_V4));
            }
            Ports::Keep
        }
    };
    if !same_addr(&work.key.src, &work.to.src) {
        work.flow.flags |= FLOW_SNAT;
    }
    if ports == Ports::Keep && is_taken(skb, work, hook, to_node) {
        Ports::Range
    } else {
        ports
    }
}

/// Whether a live connection that no flow knows of has the tuple already.
#[inline(always)]
fn is_taken(skb: Skb, work: &mut Work, hook: Hook, to_node: bool) -> bool {
    if work.key.proto != TCP {
        return false;
    }
    let netns = match hook {
        Hook::PodIngress if work.pod_netns >= 0 => work.pod_netns,
        Hook::HostIngress if !to_node => socket::HERE,
        Hook::UplinkIngress if to_node => {
            // The client is out of sight; the server's end of the connection is not.
            return socket::lookup_tcp(skb, &work.to, socket::HERE) == Found::Connection;
        }
        _ => return false,
    };
    work.reverse = work.to.reverse();
    socket::lookup_tcp(skb, &work.reverse, netns) == Found::Connection
}

/// Why a flow could not be made, as a verdict.
#[inline(always)]
pub fn failed(skb: Skb, work: &Work) -> Verdict {
    drop_for(skb, work, work.reason)
}
