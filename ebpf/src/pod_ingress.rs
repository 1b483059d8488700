//! Pod block, ingress: packets from pods. Source check, Services and host ports, delivery.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{DropReason, NodeConfig};

use crate::packet::{
    DROP, Hook, ICMPV6, PASS, Parsed, Skb, Verdict, Work, begin, is_link_scope, is_loopback, parse,
};
use crate::report::{self, drop};
use crate::{ingress, maps};

/// Entry.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
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
    // Whatever a pod sends is checked first, to whomever.
    match parse(skb, work, node, false) {
        // A priority tag is no way round the check.
        Parsed::Foreign if is_tagged(skb) => return DROP,
        Parsed::Foreign => return PASS,
        Parsed::Malformed => return drop(skb, work, DropReason::Malformed),
        Parsed::Orphan => return drop(skb, work, DropReason::Fragment),
        Parsed::Yes => {}
    }
    // SAFETY: the context is valid.
    let (ifindex, pkt_type) = unsafe { ((*skb).ifindex, (*skb).pkt_type) };
    match maps::endpoint(&work.key.src) {
        Some(pod) if pod.ifindex == ifindex => {
            work.pod_epoch = pod.epoch;
            work.pod_netns = pod.netnsid;
        }
        // Neighbours speak of themselves with addresses of the link.
        _ if work.key.proto == ICMPV6 && is_link_scope(&work.key.src) => return PASS,
        _ => return drop(skb, work, DropReason::SourceCheck),
    }
    // 127/8 is a host's own: a frame with such a destination must not reach what listens for the host alone.
    if is_loopback(&work.key.dst) {
        return drop(skb, work, DropReason::SourceCheck);
    }
    if pkt_type != 0 {
        return PASS;
    }
    ingress::carry(skb, work, node, Hook::PodIngress)
}

/// Whether the frame carries a VLAN tag: pods' links have no VLANs.
#[inline(always)]
fn is_tagged(skb: Skb) -> bool {
    // SAFETY: the context is valid.
    unsafe { (*skb).vlan_present != 0 }
}
