//! What the programs tell: counters per CPU, drops with a reason, the outcome of a dry run.

use keelson_abi::{COUNTER_DROPS, DropEvent, DropReason, TRACE_DROP, TRACE_PASS, Trace};

use crate::maps::{COUNTER, DROP as DROP_EVENTS, TRACE};
use crate::packet::{self, Skb, Verdict, Work};

/// Counts one.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(counter) = COUNTER.get_ptr_mut(index) {
        // SAFETY: the counter of this CPU, which nobody else writes.
        unsafe { *counter += 1 };
    }
}

/// Counts and tells a drop or refusal.
#[inline(never)]
pub fn tell(skb: Skb, work: &Work, reason: u32) {
    count(COUNTER_DROPS + reason);
    // A full ring loses the event, never the count.
    if let Some(mut event) = DROP_EVENTS.reserve::<DropEvent>(0) {
        // SAFETY: the context is valid.
        let ifindex = unsafe { (*skb).ifindex };
        event.write(DropEvent {
            key: work.key,
            reason,
            ifindex,
        });
        event.submit(0);
    }
}

/// Drops the packet, and says why.
#[inline(always)]
pub fn drop(skb: Skb, work: &Work, reason: DropReason) -> Verdict {
    drop_for(skb, work, reason as u32)
}

/// As [`drop`], for a reason that a step left in the working set.
#[inline(always)]
pub fn drop_for(skb: Skb, work: &Work, reason: u32) -> Verdict {
    if work.dry != 0 {
        return trace(work, TRACE_DROP, 0, reason + 1, packet::DROP);
    }
    tell(skb, work, reason);
    packet::DROP
}

/// Writes what a dry run decided and ends it.
#[inline(never)]
pub fn trace(work: &Work, verdict: u32, ifindex: u32, drop_reason: u32, result: Verdict) -> Verdict {
    if let Some(trace) = TRACE.get_ptr_mut(0) {
        // SAFETY: the value of this CPU, which nobody else writes.
        let trace: &mut Trace = unsafe { &mut *trace };
        trace.key = work.key;
        trace.translated = work.to;
        trace.verdict = verdict;
        trace.ifindex = ifindex;
        trace.service = work.flow.service;
        trace.frontend = work.why.frontend;
        trace.revision = work.why.revision;
        trace.frontend_flags = work.why.flags;
        trace.first = work.why.first;
        trace.candidates = work.why.candidates;
        trace.choice = work.why.choice;
        trace.masquerade = work.why.masquerade;
        trace.source = work.why.source;
        trace.drop_reason = drop_reason;
    }
    result
}

/// Marks the trace of this CPU as not written yet.
#[inline(always)]
pub fn begin_trace() {
    if let Some(trace) = TRACE.get_ptr_mut(0) {
        // SAFETY: the value of this CPU, which nobody else writes.
        unsafe { (*trace).verdict = 0 };
    }
}

/// Ends a program: of a dry run that decided without a word, the verdict is told.
#[inline(always)]
pub fn finish(work: &mut Work, result: Verdict) -> Verdict {
    if work.dry != 0 { told(work, result) } else { result }
}

#[inline(never)]
fn told(work: &mut Work, result: Verdict) -> Verdict {
    // SAFETY: as above.
    let told = TRACE
        .get_ptr(0)
        .is_some_and(|trace| unsafe { (*trace).verdict } != 0);
    if told {
        return result;
    }
    work.to = work.key;
    let verdict = if result == packet::PASS {
        TRACE_PASS
    } else {
        TRACE_DROP
    };
    trace(work, verdict, 0, 0, result)
}
