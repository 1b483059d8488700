//! Packets that ask no Service: straight to their destination. Only where a flow of a Service happens to have the
//! tuple of their answers do they get a flow of their own, with another source port.

use keelson_abi::{
    DropReason, Endpoint, FLOW_TO_LOCAL, FLOW_TO_NODE, Flow, NODE_SNAT_PODS, NodeConfig, PREFIX_LOCAL_PODS,
    PREFIX_NODE_ADDRESS,
};

use crate::deliver::{self, Fallback};
use crate::flow::{self, Ports};
use crate::ingress::{failed, prepare, serve};
use crate::packet::{Hook, KIND_FLOW, KIND_OTHER, Skb, TCP, UDP, Verdict, Work, reverse_into};
use crate::report::drop;
use crate::socket::{self, Found};
use crate::{fib, maps, refuse};

const LO: u32 = 1;

/// What stands between a direct packet and its destination.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Way {
    /// Nothing.
    Clear,
    /// A flow of a Service: it needs one of its own, with another source port.
    Remapped,
}

/// The device whose arrival a route lookup takes as given.
#[inline(always)]
pub fn arrival(skb: Skb, hook: Hook) -> u32 {
    if hook == Hook::HostIngress {
        return LO;
    }
    // SAFETY: the context is valid.
    unsafe { (*skb).ifindex }
}

/// The device by which answers leave for the client of this packet.
#[inline(always)]
pub fn way_back(skb: Skb, work: &mut Work) -> u32 {
    // SAFETY: the context is valid.
    let ifindex = unsafe { (*skb).ifindex };
    let client = work.key.src;
    if fib::route(skb, work, &client, ifindex) {
        work.oif
    } else {
        ifindex
    }
}

/// Whether the answers of this packet would be taken for those of a Service's flow; gives it a flow of its own then.
/// `to`: `FLOW_TO_*` of its destination.
#[inline(never)]
pub fn collision(work: &mut Work, hook: Hook, to: u32) -> Way {
    let looks = work.kind == KIND_FLOW && (work.is_syn() || work.key.proto == UDP);
    if !looks {
        return Way::Clear;
    }
    reverse_into(&work.key, &mut work.reverse);
    let Some(stub) = flow::find(&work.reverse) else {
        return Way::Clear;
    };
    if !flow::is_stub(stub) || (work.dry == 0 && flow::yield_stub(work)) {
        return Way::Clear;
    }
    prepare(work, hook);
    work.flow.flags |= to;
    work.to = work.key;
    Way::Remapped
}

/// Completes a flow that [`collision`] asked for.
#[inline(always)]
fn remap(work: &mut Work, node: &NodeConfig) -> bool {
    let made = flow::create(work, node, Ports::Range);
    work.flags = work.flow.flags;
    work.server_ifindex = work.flow.server_ifindex;
    made
}

/// To a local pod.
#[inline(never)]
pub fn to_pod(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, server: &Endpoint) -> Verdict {
    if hook == Hook::UplinkIngress && needs_flow(work, node) {
        return from_outside(skb, work, node, server);
    }
    if collision(work, hook, FLOW_TO_LOCAL) == Way::Clear {
        return deliver::to_pod(skb, work, server, Fallback::Plain);
    }
    work.flow.epoch = server.epoch;
    if hook == Hook::UplinkIngress {
        work.flow.client_ifindex = way_back(skb, work);
    }
    if !remap(work, node) {
        return failed(skb, work);
    }
    serve(skb, work, node, hook, Some(server))
}

/// Whether a direct packet to a pod comes from where the pod's own packets are translated: its answers must not be.
#[inline(always)]
fn needs_flow(work: &Work, node: &NodeConfig) -> bool {
    work.kind != KIND_OTHER && node.flags & NODE_SNAT_PODS != 0 && maps::prefix_kind(&work.key.src) == 0
}

/// From outside straight to a pod: a flow that translates nothing, so that the answers keep the pod's address.
#[inline(always)]
fn from_outside(skb: Skb, work: &mut Work, node: &NodeConfig, server: &Endpoint) -> Verdict {
    if !work.may_open() {
        return drop(skb, work, DropReason::NoConnection);
    }
    prepare(work, Hook::UplinkIngress);
    work.flow.flags |= FLOW_TO_LOCAL;
    work.flow.epoch = server.epoch;
    work.flow.client_ifindex = way_back(skb, work);
    if !flow::create(work, node, Ports::Keep) {
        return failed(skb, work);
    }
    work.flags = work.flow.flags;
    serve(skb, work, node, Hook::UplinkIngress, Some(server))
}

/// To anything that is neither a local pod nor a Service; `kind` is the `PREFIX_*` of the destination.
#[inline(never)]
pub fn elsewhere(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook, kind: u32) -> Verdict {
    if kind == PREFIX_LOCAL_PODS {
        return drop(skb, work, DropReason::UnknownAddress);
    }
    if hook == Hook::HostIngress {
        // Only Services, external addresses and answers to 169.254.1.2 are routed here, and those have flows.
        return if work.may_open() {
            refuse::refuse(skb, work, node, hook, DropReason::UnknownPort as u32)
        } else {
            drop(skb, work, DropReason::NoConnection)
        };
    }
    if kind == PREFIX_NODE_ADDRESS {
        return to_node(skb, work, node, hook);
    }
    if hook == Hook::UplinkIngress {
        return deliver::pass_plain(work);
    }
    let way = collision(work, hook, 0);
    let (dst, iif) = (work.key.dst, arrival(skb, hook));
    if !fib::route(skb, work, &dst, iif) {
        // The stack tells the pod why.
        return deliver::pass_plain(work);
    }
    if work.oif == node.keelson0_ifindex {
        return drop(skb, work, DropReason::UnknownAddress);
    }
    let oif = work.oif;
    if way == Way::Clear {
        return deliver::out(skb, work, oif, Fallback::Plain, false);
    }
    work.flow.server_ifindex = oif;
    if !remap(work, node) {
        return failed(skb, work);
    }
    serve(skb, work, node, hook, None)
}

/// To a socket of the node.
#[inline(always)]
fn to_node(skb: Skb, work: &mut Work, node: &NodeConfig, hook: Hook) -> Verdict {
    if hook == Hook::UplinkIngress && is_late(skb, work, node) {
        return drop(skb, work, DropReason::NoConnection);
    }
    if collision(work, hook, FLOW_TO_NODE) == Way::Clear {
        return deliver::pass_plain(work);
    }
    if hook == Hook::UplinkIngress {
        work.flow.client_ifindex = way_back(skb, work);
    }
    if !remap(work, node) {
        return failed(skb, work);
    }
    serve(skb, work, node, hook, None)
}

/// Whether a TCP packet to a port for translated sources belongs to nobody any more: its flow is gone, and it is not
/// for a server that the node happens to run on that port.
#[inline(always)]
fn is_late(skb: Skb, work: &Work, node: &NodeConfig) -> bool {
    let port = u16::from_be(work.key.dport_be);
    work.kind == KIND_FLOW
        && work.key.proto == TCP
        && !work.is_syn()
        && port >= node.snat_port_min
        && port <= node.snat_port_max
        && socket::lookup_tcp(skb, &work.key, socket::HERE) == Found::Nothing
}

/// A pod's packet whose source is translated where it leaves: to the device that it left by so far. None: the flow
/// was another pod's.
#[inline(always)]
pub fn leave(skb: Skb, work: &mut Work, entry: &Flow) -> Option<Verdict> {
    if work.pod_epoch != entry.client_epoch {
        flow::replace(work, entry);
        return None;
    }
    work.to = work.key;
    let mut oif = entry.server_ifindex;
    if entry.last_seen != work.now {
        // Routes change: look once a second.
        let (dst, iif) = (work.key.dst, arrival(skb, Hook::PodIngress));
        if !fib::route(skb, work, &dst, iif) {
            return Some(deliver::pass_plain(work));
        }
        oif = work.oif;
    }
    Some(deliver::out(skb, work, oif, Fallback::Plain, false))
}
