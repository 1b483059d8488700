//! `keelson1`, ingress: what the host's own processes send to Services, by the route to `keelson0` or, for the node's
//! own addresses, by way of lo.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{DropReason, NodeConfig};

use crate::ingress;
use crate::packet::{Hook, PASS, Parsed, Skb, Verdict, Work, begin, parse};
use crate::report::drop;

/// Entry.
#[classifier]
pub fn host_ingress(ctx: TcContext) -> i32 {
    match begin() {
        Some((work, node)) => run(ctx.skb.skb, work, node),
        None => PASS,
    }
}

#[inline(always)]
fn run(skb: Skb, work: &mut Work, node: &NodeConfig) -> Verdict {
    match parse(skb, work, node, true) {
        Parsed::Foreign => PASS,
        Parsed::Malformed => drop(skb, work, DropReason::Malformed),
        Parsed::Orphan => drop(skb, work, DropReason::Fragment),
        Parsed::Yes => ingress::carry(skb, work, node, Hook::HostIngress),
    }
}
