//! lo, egress: the host's own NodePorts and 127.0.0.1:NodePort. Decides only what goes to `keelson1`, where it is
//! handled like every other packet of the host's processes.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keelson_abi::{FLOW_CLIENT_HOST, NodeConfig, TRACE_INJECT};

use crate::packet::{
    DROP, KIND_ERROR, KIND_OTHER, PASS, Parsed, Skb, Verdict, Work, begin, is_loopback, parse,
};
use crate::report::{self, trace};
use crate::rewrite::set_macs;
use crate::{flow, service};

/// Entry.
#[classifier]
pub fn lo_egress(ctx: TcContext) -> i32 {
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
    // Most of what passes lo is between processes of the host: nothing is dropped here.
    if !matches!(parse(skb, work, node, false), Parsed::Yes) || !is_ours(work, node) {
        return PASS;
    }
    work.to = work.key;
    if work.dry != 0 {
        return trace(work, TRACE_INJECT, node.keelson1_ifindex, 0, PASS);
    }
    // keelson1's own address as the sender's tells the program there which way the packet came, and so which way its
    // answers must go: by lo, the only device where the stack takes a source that is its own.
    if !set_macs(skb, node.keelson1_mac, node.keelson1_mac) {
        return DROP;
    }
    // SAFETY: no preconditions. Injected rather than sent through keelson0, whose MTU is not lo's.
    unsafe { bpf_redirect(node.keelson1_ifindex, u64::from(BPF_F_INGRESS)) as Verdict }
}

/// Whether the packet asks for a Service, or belongs to somebody who does.
#[inline(always)]
fn is_ours(work: &mut Work, node: &NodeConfig) -> bool {
    match work.kind {
        KIND_OTHER => false,
        // ::1 is the host's own.
        _ if !work.key.dst.is_v4() && is_loopback(&work.key.dst) => false,
        KIND_ERROR => {
            work.reverse = work.quote.reverse();
            flow::find(&work.reverse).is_some()
        }
        _ => service::is_asked(work, node) || is_known(work, node),
    }
}

/// Whether a connection goes on though its Service is gone.
#[inline(always)]
fn is_known(work: &Work, node: &NodeConfig) -> bool {
    let port = u16::from_be(work.key.dport_be);
    if port < node.nodeport_min || port > node.nodeport_max {
        return false;
    }
    matches!(flow::find(&work.key), Some(found) if flow::is_of(found, FLOW_CLIENT_HOST))
}
