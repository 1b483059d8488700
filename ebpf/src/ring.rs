//! Ageing without a process: a ring holds the key of every flow. Each new flow moves the cursor on, removes what has
//! expired where it passes, and settles in a free slot.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_loop;
use keelson_abi::{
    COUNTER_FLOW_EXPIRED, FLOW_CLIENT, FLOW_FIN_CLIENT, FLOW_FIN_SERVER, FLOW_REPLIED, FLOW_RING,
    FLOW_RING_SCAN, FLOW_RING_STEP, FLOW_RST, Flow, FlowKey, TIMEOUT_ICMP, TIMEOUT_TCP_CLOSED,
    TIMEOUT_TCP_ESTABLISHED, TIMEOUT_TCP_SYN, TIMEOUT_UDP, TIMEOUT_UDP_UNREPLIED,
};

use crate::maps::{FLOW_CURSOR, FLOW_RING_MAP};
use crate::packet::{ICMP, ICMPV6, SCTP, TCP, UDP, Work};
use crate::report::count;
use crate::{flow, maps};

/// Whether a connection has ended: its tuples may be taken over at once.
#[inline(always)]
pub fn is_closed(flags: u32) -> bool {
    const BOTH: u32 = FLOW_FIN_CLIENT | FLOW_FIN_SERVER;
    flags & FLOW_RST != 0 || flags & BOTH == BOTH
}

/// Whether the flow has been silent for too long.
#[inline(always)]
pub fn is_expired(proto: u8, entry: &Flow, now: u32) -> bool {
    let replied = entry.flags & FLOW_REPLIED != 0;
    let timeout = match proto {
        TCP | SCTP if is_closed(entry.flags) => TIMEOUT_TCP_CLOSED,
        TCP | SCTP if replied => TIMEOUT_TCP_ESTABLISHED,
        TCP | SCTP => TIMEOUT_TCP_SYN,
        UDP if replied => TIMEOUT_UDP,
        ICMP | ICMPV6 => TIMEOUT_ICMP,
        _ => TIMEOUT_UDP_UNREPLIED,
    };
    // Another CPU may have read its clock a moment later.
    let silent = now.wrapping_sub(entry.last_seen);
    silent > timeout && silent < u32::MAX / 2
}

/// A pointer to a slot; slot 0 is never used.
#[inline(always)]
fn slot_at(index: u32) -> Option<&'static mut FlowKey> {
    // SAFETY: array values live as long as the map; two CPUs that meet in one slot leave a key of one of them, and
    // every reader checks it against the entry.
    FLOW_RING_MAP.get_ptr_mut(index).map(|slot| unsafe { &mut *slot })
}

/// Looks after one slot; true: it is free.
#[inline(always)]
fn tend(work: &mut Work, index: u32) -> bool {
    let Some(slot) = slot_at(index) else { return false };
    if slot.proto == 0 {
        return true;
    }
    let Some(entry) = flow::find(slot) else {
        return true;
    };
    if entry.flags & FLOW_CLIENT == 0 || entry.slot != index {
        // The key lives on as something else, or in another slot.
        return true;
    }
    if !is_expired(slot.proto, entry, work.now) {
        return false;
    }
    work.entry_key = *slot;
    flow::remove_scratch(work, entry);
    count(COUNTER_FLOW_EXPIRED);
    true
}

/// Moves the cursor on and returns where it stood. Atomic, so that CPUs examine different slots; the library has no
/// such addition for machines without compare-and-swap.
#[inline(always)]
fn advance(cursor: *mut u64) -> u64 {
    let mut step = u64::from(FLOW_RING_STEP);
    // SAFETY: the pointer is that of an array value, which lives as long as the map.
    unsafe {
        core::arch::asm!(
            "{step} = atomic_fetch_add((u64 *)({cursor} + 0), {step})",
            step = inout(reg) step,
            cursor = in(reg) cursor,
        );
    }
    step
}

/// A free slot, or 0 if none was found among those examined.
#[inline(never)]
pub fn take() -> u32 {
    let (Some(cursor), Some(size)) = (FLOW_CURSOR.get_ptr_mut(0), FLOW_CURSOR.get(1)) else {
        return 0;
    };
    let slots = if *size > 1 && *size < u64::from(FLOW_RING) {
        *size
    } else {
        u64::from(FLOW_RING)
    };
    let mut scan = Scan {
        from: advance(cursor),
        slots,
        found: 0,
    };
    // A call per step instead of a loop: the verifier walks through it once.
    // SAFETY: the callback has the type that the helper calls, and the context outlives the call.
    unsafe {
        let context = core::ptr::from_mut(&mut scan).cast();
        bpf_loop(FLOW_RING_SCAN, scan_one as *mut c_void, context, 0);
    }
    scan.found
}

/// A walk over the ring.
struct Scan {
    from: u64,
    slots: u64,
    found: u32,
}

/// One step of the walk; 1 ends it.
unsafe extern "C" fn scan_one(step: u32, context: *mut c_void) -> i64 {
    // SAFETY: `take` hands over a valid context and waits for the walk to end.
    let scan = unsafe { &mut *context.cast::<Scan>() };
    if step >= FLOW_RING_STEP && scan.found != 0 {
        return 1;
    }
    let Some(work) = maps::work() else { return 1 };
    let index = 1 + scan
        .from
        .wrapping_add(u64::from(step))
        .checked_rem(scan.slots - 1)
        .unwrap_or(0) as u32;
    if tend(work, index) && scan.found == 0 {
        scan.found = index;
    }
    0
}

/// Writes the key of a flow into its slot.
#[inline(always)]
pub fn settle(index: u32, key: &FlowKey) {
    if let Some(slot) = slot_at(index) {
        *slot = *key;
    }
}

/// Gives a slot back.
#[inline(always)]
pub fn release(index: u32) {
    if let Some(slot) = slot_at(index) {
        slot.proto = 0;
    }
}
