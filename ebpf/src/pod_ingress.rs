//! Pod block, ingress: packets from pods. Source check, Services and host ports, delivery.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{DropReason, NodeConfig};

use crate::packet::{Hook, PASS, Parsed, Skb, Verdict, Work, begin, parse};
use crate::report::drop;
use crate::{ingress, maps};

/// Entry.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    match begin() {
        Some((work, node)) => run(ctx.skb.skb, work, node),
        None => PASS,
    }
}

#[inline(always)]
fn run(skb: Skb, work: &mut Work, node: &NodeConfig) -> Verdict {
    match parse(skb, work, node, true) {
        Parsed::Foreign => return PASS,
        Parsed::Malformed => return drop(skb, work, DropReason::Malformed),
        Parsed::Orphan => return drop(skb, work, DropReason::Fragment),
        Parsed::Yes => {}
    }
    // SAFETY: the context is valid.
    let ifindex = unsafe { (*skb).ifindex };
    match maps::endpoint(&work.key.src) {
        Some(pod) if pod.ifindex == ifindex => {
            work.pod_epoch = pod.epoch;
            work.pod_netns = pod.netnsid;
        }
        _ => return drop(skb, work, DropReason::SourceCheck),
    }
    ingress::carry(skb, work, node, Hook::PodIngress)
}
