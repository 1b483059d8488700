//! Pod block, egress: what reaches pods through the stack. Answers of host-network endpoints, ICMP errors that the
//! host made, answers too large to be redirected; and processes of the host that ask a pod directly.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::NodeConfig;

use crate::packet::{Hook, PASS, Parsed, Skb, Verdict, Work, begin, parse};
use crate::{deliver, egress, report};

/// Entry.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
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
    if deliver::is_done(skb) {
        return PASS;
    }
    match parse(skb, work, node, false) {
        Parsed::Yes => egress::carry(skb, work, node, Hook::PodEgress),
        _ => PASS,
    }
}
