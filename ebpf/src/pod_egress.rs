//! Pod block, egress: what reaches pods through the stack. Answers of host-network endpoints, ICMP errors that the
//! host made, answers too large to be redirected; and processes of the host that ask a pod directly.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::NodeConfig;

use crate::egress;
use crate::packet::{Hook, PASS, Parsed, Skb, TC_INDEX_DONE, Verdict, Work, begin, parse};

/// Entry.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    match begin() {
        Some((work, node)) => run(ctx.skb.skb, work, node),
        None => PASS,
    }
}

#[inline(always)]
fn run(skb: Skb, work: &mut Work, node: &NodeConfig) -> Verdict {
    // SAFETY: the context is valid.
    if unsafe { (*skb).tc_index } == TC_INDEX_DONE {
        return PASS;
    }
    match parse(skb, work, node, false) {
        Parsed::Yes => egress::carry(skb, work, node, Hook::PodEgress),
        _ => PASS,
    }
}
