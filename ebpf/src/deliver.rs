//! Where a decided packet goes. A redirect is forwarding: the TTL goes down, and what does not fit the next link is
//! handed to the stack, which fragments or answers.

use aya_ebpf::bindings::{BPF_F_INGRESS, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS};
use aya_ebpf::helpers::{bpf_check_mtu, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use keelson_abi::{
    DropReason, ENDPOINT_NO_PEER, Endpoint, MARK_DONE, NodeConfig, TRACE_INJECT, TRACE_NEIGH, TRACE_PASS,
    TRACE_PEER,
};

use crate::packet::{PASS, Skb, Verdict, Work};
use crate::report::{self, drop, trace};
use crate::rewrite::{rewrite, set_macs};

const LO: u32 = 1;

/// How a packet that cannot be redirected is handed to the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Fallback {
    /// As it came: the hook at the client's edge translates it.
    Plain,
    /// Translated; hooks at the way out leave it alone.
    Translated,
    /// Translated and injected on lo, the only device where a local source may be forwarded.
    ByLo,
}

/// Whether the packet fits the device, by segment where it is to be segmented.
#[inline(always)]
fn fits(skb: Skb, ifindex: u32) -> bool {
    let mut mtu = 0;
    // SAFETY: the context and the output are valid.
    unsafe { bpf_check_mtu(skb.cast(), ifindex, &mut mtu, 0, u64::from(BPF_MTU_CHK_SEGS)) <= 0 }
}

/// Whether the packet can be redirected to the device.
#[inline(always)]
pub fn can_redirect(skb: Skb, work: &Work, ifindex: u32) -> bool {
    work.ttl > 1 && fits(skb, ifindex)
}

/// Sets the mark: a sender's own must not reach another namespace.
#[inline(always)]
fn set_mark(skb: Skb, mark: u32) {
    // SAFETY: the context is valid; the mark is writable for classifiers.
    unsafe { (*skb).mark = mark };
}

/// Whether an earlier hook has decided about the packet that leaves; takes the mark of it away.
#[inline(always)]
pub fn is_done(skb: Skb) -> bool {
    // SAFETY: the context is valid.
    let done = unsafe { (*skb).mark } == MARK_DONE;
    if done {
        set_mark(skb, 0);
    }
    done
}

/// To a pod of this node.
#[inline(never)]
pub fn to_pod(skb: Skb, work: &mut Work, pod: &Endpoint, fallback: Fallback) -> Verdict {
    if !can_redirect(skb, work, pod.ifindex) {
        return hand_over(skb, work, fallback);
    }
    if work.dry != 0 {
        return trace(work, TRACE_PEER, pod.ifindex, 0, PASS);
    }
    if !rewrite(skb, work, 1) {
        return drop(skb, work, DropReason::Rewrite);
    }
    if pod.flags & ENDPOINT_NO_PEER == 0 {
        set_mark(skb, 0);
        // SAFETY: no preconditions; a device that is gone drops the packet.
        return unsafe { bpf_redirect_peer(pod.ifindex, 0) } as Verdict;
    }
    // The packet will pass the hook at the pod's edge.
    set_mark(skb, MARK_DONE);
    if !set_macs(skb, pod.pod_mac, pod.host_mac) {
        return drop(skb, work, DropReason::Rewrite);
    }
    // SAFETY: as above.
    unsafe { bpf_redirect(pod.ifindex, 0) as Verdict }
}

/// Out of a device, to whatever neighbour the route names. `done`: the hook at the way out leaves it alone.
#[inline(never)]
pub fn out(skb: Skb, work: &mut Work, ifindex: u32, fallback: Fallback, done: bool) -> Verdict {
    if !can_redirect(skb, work, ifindex) {
        return hand_over(skb, work, fallback);
    }
    if work.dry != 0 {
        return trace(work, TRACE_NEIGH, ifindex, 0, PASS);
    }
    if !rewrite(skb, work, 1) {
        return drop(skb, work, DropReason::Rewrite);
    }
    set_mark(skb, if done { MARK_DONE } else { 0 });
    // SAFETY: no preconditions; no neighbour given, so the kernel resolves the route on that device.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as Verdict }
}

/// To a socket of the host, on the device where its source is expected: lo for a local one, else `keelson0`.
#[inline(never)]
pub fn inject(skb: Skb, work: &mut Work, node: &NodeConfig, by_lo: bool) -> Verdict {
    let ifindex = if by_lo { LO } else { node.keelson0_ifindex };
    if work.dry != 0 {
        return trace(work, TRACE_INJECT, ifindex, 0, PASS);
    }
    if !rewrite(skb, work, 0) {
        return drop(skb, work, DropReason::Rewrite);
    }
    set_mark(skb, 0);
    let (destination, source) = if by_lo {
        ([0; 6], [0; 6])
    } else {
        (node.keelson0_mac, node.keelson1_mac)
    };
    if !set_macs(skb, destination, source) {
        return drop(skb, work, DropReason::Rewrite);
    }
    // SAFETY: no preconditions.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as Verdict }
}

/// Translated, and on its way through the stack. `done`: the hook at the way out leaves it alone.
#[inline(never)]
pub fn pass(skb: Skb, work: &mut Work, done: bool) -> Verdict {
    if work.dry != 0 {
        return trace(work, TRACE_PASS, 0, 0, PASS);
    }
    if !rewrite(skb, work, 0) {
        return drop(skb, work, DropReason::Rewrite);
    }
    if done {
        set_mark(skb, MARK_DONE);
    }
    PASS
}

/// Untouched, and on its way through the stack.
#[inline(always)]
pub fn pass_plain(work: &mut Work) -> Verdict {
    if work.dry != 0 {
        work.to = work.key;
        return trace(work, TRACE_PASS, 0, 0, PASS);
    }
    PASS
}

/// To the stack, because a redirect is not possible.
#[inline(always)]
fn hand_over(skb: Skb, work: &mut Work, fallback: Fallback) -> Verdict {
    match fallback {
        Fallback::Plain => pass_plain(work),
        Fallback::Translated => pass(skb, work, true),
        Fallback::ByLo => by_lo(skb, work),
    }
}

/// Injected on lo, to be forwarded from there.
#[inline(always)]
fn by_lo(skb: Skb, work: &mut Work) -> Verdict {
    if work.dry != 0 {
        return trace(work, TRACE_INJECT, LO, 0, PASS);
    }
    // The sender relied on lo's MTU, which says nothing about the way ahead.
    work.clear_df = work.by_lo;
    if !rewrite(skb, work, 0) {
        return drop(skb, work, DropReason::Rewrite);
    }
    set_mark(skb, MARK_DONE);
    if !set_macs(skb, [0; 6], [0; 6]) {
        return report::drop(skb, work, DropReason::Rewrite);
    }
    // SAFETY: no preconditions.
    unsafe { bpf_redirect(LO, u64::from(BPF_F_INGRESS)) as Verdict }
}
