//! Ageing without a process: a ring holds the key of every flow. Each new flow moves the cursor on, removes what has
//! expired where it passes, and settles in a free slot.
//!
//! A slot has one owner: whoever swapped its claim from free (or from what a dead owner left) to his own. The flow carries the
//! claim, so a slot that was given to another flow meanwhile is told from one's own.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_loop;
use keelson_abi::{
    COUNTER_FLOW_EXPIRED, COUNTER_FLOW_REPLACED, FLOW_ABANDONED, FLOW_CLIENT, FLOW_FIN_CLIENT,
    FLOW_FIN_SERVER, FLOW_REPLIED, FLOW_RING, FLOW_RING_SCAN, FLOW_RING_STEP, FLOW_RST, Flow, RingSlot,
    TIMEOUT_ICMP, TIMEOUT_TCP_CLOSED, TIMEOUT_TCP_ESTABLISHED, TIMEOUT_TCP_SYN, TIMEOUT_UDP,
    TIMEOUT_UDP_UNREPLIED,
};

use crate::atomic::{fetch_add, swap_if};
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

/// Seconds since the flow's last packet. Another CPU may have read its clock a moment later.
#[inline(always)]
pub fn silence(entry: &Flow, now: u32) -> u32 {
    let silent = now.wrapping_sub(entry.last_seen);
    if silent < u32::MAX / 2 { silent } else { 0 }
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
    silence(entry, now) > timeout
}

/// A pointer to a slot; slot 0 is never used.
#[inline(always)]
fn slot_at(index: u32) -> Option<&'static mut RingSlot> {
    // SAFETY: array values live as long as the map. The claim is read once and changed atomically; a key that its owner is
    // just writing leads to no flow with the slot's claim.
    FLOW_RING_MAP.get_ptr_mut(index).map(|slot| unsafe { &mut *slot })
}

/// What a look at a slot came to.
enum Tended {
    /// Somebody's.
    Held,
    /// Free: this claim is what is to be replaced.
    Free(u64),
    /// A flow's that has ended, so many seconds ago.
    Closed(u32),
}

/// Looks after one slot: a flow that has expired goes.
#[inline(always)]
fn tend(work: &mut Work, slot: &RingSlot, index: u32) -> Tended {
    // SAFETY: a live value; others change it at any time, so it is read once.
    let held = unsafe { core::ptr::from_ref(&slot.claim).read_volatile() };
    if held == 0 {
        return Tended::Free(0);
    }
    work.entry_key = slot.key;
    match flow::find(&work.entry_key) {
        Some(entry) if is_held(entry, index, held as u32) => {
            let closed = work.entry_key.proto == TCP && is_closed(entry.flags);
            if is_expired(work.entry_key.proto, entry, work.now) {
                if !flow::remove_scratch(work, entry) {
                    return Tended::Held;
                }
                count(COUNTER_FLOW_EXPIRED);
                Tended::Free(0)
            } else if closed {
                Tended::Closed(silence(entry, work.now))
            } else {
                Tended::Held
            }
        }
        // Its flow is being made, or went without its slot.
        _ if work.now.wrapping_sub((held >> 32) as u32) > FLOW_ABANDONED => Tended::Free(held),
        _ => Tended::Held,
    }
}

/// Whether the flow lives in this slot under this claim.
#[inline(always)]
fn is_held(entry: &Flow, index: u32, claim: u32) -> bool {
    entry.flags & FLOW_CLIENT != 0 && entry.slot == index && entry.claim == claim
}

/// Claims a slot for the flow in `work.flow` (and its stub), and writes the key there. False: none was found among those
/// examined.
#[inline(never)]
pub fn take(work: &mut Work) -> bool {
    let (Some(cursor), Some(size)) = (FLOW_CURSOR.get_ptr_mut(0), FLOW_CURSOR.get(1)) else {
        return false;
    };
    let slots = if *size > 1 { *size } else { u64::from(FLOW_RING) };
    // Atomic, so that CPUs examine different slots.
    let from = fetch_add(cursor, u64::from(FLOW_RING_STEP));
    let mut scan = Scan {
        from,
        slots,
        claim: u64::from(work.now) << 32 | u64::from(from as u32 | 1),
        found: 0,
        closed: 0,
        silent: 0,
    };
    // A call per step instead of a loop: the verifier walks through it once.
    // SAFETY: the callback has the type that the helper calls, and the context outlives the call.
    unsafe {
        let context = core::ptr::from_mut(&mut scan).cast();
        bpf_loop(FLOW_RING_SCAN, scan_one as *mut c_void, context, 0);
    }
    if scan.found == 0 && scan.closed != 0 {
        evict(work, &mut scan);
    }
    if scan.found == 0 {
        return false;
    }
    work.flow.slot = scan.found;
    work.flow.claim = scan.claim as u32;
    if let Some(slot) = slot_at(scan.found) {
        slot.key = work.key;
    }
    true
}

/// A walk over the ring.
struct Scan {
    from: u64,
    slots: u64,
    /// What the one found is claimed with.
    claim: u64,
    found: u32,
    /// The slot of the flow that ended first among those seen.
    closed: u32,
    /// Seconds since it did.
    silent: u32,
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
    let Some(slot) = slot_at(index) else { return 0 };
    match tend(work, slot, index) {
        Tended::Free(old) if scan.found == 0 => {
            if swap_if(core::ptr::from_mut(&mut slot.claim), old, scan.claim) {
                scan.found = index;
            }
        }
        Tended::Closed(silent) if scan.closed == 0 || silent > scan.silent => {
            scan.closed = index;
            scan.silent = silent;
        }
        _ => {}
    }
    0
}

/// No slot is free: the flow that ended first gives way. It would only have waited for stragglers.
#[inline(always)]
fn evict(work: &mut Work, scan: &mut Scan) {
    let Some(slot) = slot_at(scan.closed) else { return };
    work.entry_key = slot.key;
    let Some(entry) = flow::find(&work.entry_key) else {
        return;
    };
    if entry.slot != scan.closed || !is_closed(entry.flags) || !flow::remove_scratch(work, entry) {
        return;
    }
    count(COUNTER_FLOW_REPLACED);
    if swap_if(core::ptr::from_mut(&mut slot.claim), 0, scan.claim) {
        scan.found = scan.closed;
    }
}

/// Gives a slot back, if it is still held with this claim.
#[inline(always)]
pub fn release(index: u32, claim: u32) {
    if let Some(slot) = slot_at(index) {
        // SAFETY: as in `tend`.
        let held = unsafe { core::ptr::from_ref(&slot.claim).read_volatile() };
        if held as u32 == claim {
            swap_if(core::ptr::from_mut(&mut slot.claim), held, 0);
        }
    }
}
