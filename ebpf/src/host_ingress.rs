//! `keelson1`, ingress: what the host's own processes send to Services, by the route to `keelson0` or, for the node's
//! own addresses, by way of lo.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{DropReason, NodeConfig};

use crate::ingress;
use crate::packet::{Hook, PASS, Parsed, Skb, Verdict, Work, at, begin, parse};
use crate::report::{self, drop};

/// Entry.
#[classifier]
pub fn host_ingress(ctx: TcContext) -> i32 {
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
    match parse(skb, work, node, true) {
        Parsed::Foreign => PASS,
        Parsed::Malformed => drop(skb, work, DropReason::Malformed),
        Parsed::Orphan => drop(skb, work, DropReason::Fragment),
        Parsed::Yes => {
            work.from_lo = u32::from(is_from_lo(skb, node));
            ingress::carry(skb, work, node, Hook::HostIngress)
        }
    }
}

/// Whether `lo_egress` sent the packet: only then is its sender's station `keelson1` itself.
#[inline(always)]
fn is_from_lo(skb: Skb, node: &NodeConfig) -> bool {
    let Some(header) = at::<[[u8; 6]; 2]>(skb, 0) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let [_, source] = unsafe { *header };
    same_mac(source, node.keelson1_mac)
}

/// A derived comparison would call `bcmp`, which does not exist here.
#[inline(always)]
fn same_mac(a: [u8; 6], b: [u8; 6]) -> bool {
    let ([a0, a1, a2, a3, a4, a5], [b0, b1, b2, b3, b4, b5]) = (a, b);
    (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3) | (a4 ^ b4) | (a5 ^ b5) == 0
}
