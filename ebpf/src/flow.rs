//! The flow table: finding, keeping, ending and making flows. Port choice included, because a free port is one whose
//! reply tuple nobody has.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use keelson_abi::{
    COUNTER_FLOW_NEW, COUNTER_FLOW_REPLACED, DropReason, FLOW_ABANDONED, FLOW_CLIENT, FLOW_FIN_CLIENT,
    FLOW_FIN_SERVER, FLOW_REPLIED, FLOW_RST, FLOW_SNAT, FLOW_STUB, Flow, FlowKey, NodeConfig, SNAT_TRIES,
    SNAT_TRIES_CLOSED,
};

use crate::atomic::{clear_flags, set_flags};

use crate::maps::{self, FLOW};
use crate::packet::{FIN, RST, Work, is_connected, is_icmp, reverse_into, same};
use crate::report::count;
use crate::ring::{self, is_closed, is_expired};

/// The flow under this key.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: the memory of an entry stays a flow's until this run ends, but it may become another flow's as soon as the entry
    // is removed. Whoever deletes by what was read asks again first; a packet that is just being carried while its flow is
    // removed may go astray, as one that came a moment later would. Other CPUs write `last_seen`, `generation` (one word each)
    // and `flags` (by atomic operations) at any time.
    FLOW.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Whether the value is a reply-direction stub.
#[inline(always)]
pub fn is_stub(flow: &Flow) -> bool {
    flow.flags & FLOW_STUB != 0
}

/// Whether the entry is translated where `client` says.
#[inline(always)]
pub fn is_of(flow: &Flow, client: u32) -> bool {
    flow.flags & FLOW_CLIENT == client
}

/// Notes a packet of the flow.
#[inline(always)]
pub fn touch(work: &Work, entry: &mut Flow, from_client: bool) {
    if work.dry != 0 {
        return;
    }
    let mut set = if from_client { 0 } else { FLOW_REPLIED };
    if is_connected(work.key.proto) {
        if work.tcp & RST != 0 {
            set |= FLOW_RST;
        } else if entry.flags & FLOW_ENDED != 0 {
            revive(work, entry, from_client);
        }
        if work.tcp & FIN != 0 {
            set |= if from_client {
                FLOW_FIN_CLIENT
            } else {
                FLOW_FIN_SERVER
            };
        }
    }
    // Written only when something changes: the line stays shared between CPUs.
    if entry.last_seen != work.now {
        entry.last_seen = work.now;
    }
    if set & !entry.flags != 0 {
        set_flags(entry, set);
    }
}

const FLOW_ENDED: u32 = FLOW_RST | FLOW_FIN_CLIENT | FLOW_FIN_SERVER;

/// A packet of a connection that has ended, or is said to have. A client's SYN opens it anew. And whoever goes on a second
/// after an RST has not taken it for one: either end's stack would have ended the connection, and answers what comes late with
/// another RST.
#[inline(always)]
fn revive(work: &Work, entry: &mut Flow, from_client: bool) {
    if work.is_syn() {
        if from_client {
            clear_flags(entry, FLOW_ENDED);
        }
    } else if entry.flags & FLOW_RST != 0 && entry.last_seen != work.now {
        clear_flags(entry, FLOW_RST);
    }
}

/// Removes both legs of the entry under `work.entry_key`. False: another CPU has done so, and somebody else may have the
/// tuple by now.
#[inline(never)]
pub fn remove_scratch(work: &mut Work, entry: &Flow) -> bool {
    if work.dry != 0 {
        return false;
    }
    let (slot, claim) = (entry.slot, entry.claim);
    work.reverse = entry.other.reverse();
    // The memory of an entry that another CPU removed may hold another flow at once: ask for the entry again after reading.
    match find(&work.entry_key) {
        Some(entry) if entry.claim == claim && entry.slot == slot => {}
        _ => return false,
    }
    if let Some(stub) = find(&work.reverse) {
        // Another flow may have the reply tuple by now.
        if is_stub(stub) && same(&stub.other, &work.entry_key) {
            let _ = FLOW.remove(&work.reverse);
        }
    }
    if FLOW.remove(&work.entry_key).is_err() {
        return false;
    }
    ring::release(slot, claim);
    true
}

/// Removes both legs of the entry that the packet's own tuple found, for a new flow to take its place.
#[inline(always)]
pub fn replace(work: &mut Work, entry: &Flow) {
    work.entry_key = work.key;
    if remove_scratch(work, entry) {
        count(COUNTER_FLOW_REPLACED);
    }
}

/// Which source ports a new flow may have.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Ports {
    /// The client's own if nobody else has the reply tuple, else one of the range.
    Keep,
    /// One of the range.
    Range,
}

/// Makes a flow from `work.key` to `work.to` with the properties that lie in `work.flow` (flags with the side of its
/// client, generation, epochs, devices). The source port of `work.to` becomes the one chosen.
///
/// False: `work.reason` says why there is none.
#[inline(never)]
pub fn create(work: &mut Work, node: &NodeConfig, ports: Ports) -> bool {
    if work.dry != 0 {
        return foresee(work, ports);
    }
    work.adopted = 0;
    if !ring::take(work) {
        work.reason = DropReason::FlowTableFull as u32;
        return false;
    }
    work.stub.other = work.key;
    work.stub.flags = FLOW_STUB;
    work.stub.slot = work.flow.slot;
    work.stub.claim = work.flow.claim;
    work.stub.last_seen = work.now;
    if !claim(work, node, ports) {
        ring::release(work.flow.slot, work.flow.claim);
        return false;
    }
    work.flow.other = work.to;
    work.flow.last_seen = work.now;
    if !same(&work.key, &work.to) {
        work.flow.flags |= if work.key.sport_be != work.to.sport_be {
            FLOW_SNAT
        } else {
            0
        };
    }
    match FLOW.insert(&work.key, &work.flow, BPF_NOEXIST as u64) {
        Ok(()) => {}
        Err(code) => {
            reverse_into(&work.to, &mut work.reverse);
            let _ = FLOW.remove(&work.reverse);
            ring::release(work.flow.slot, work.flow.claim);
            work.reason = DropReason::FlowTableFull as u32;
            return code == EEXIST && adopt(work);
        }
    }
    count(COUNTER_FLOW_NEW);
    true
}

/// What [`create`] would do, as far as it can be told beforehand: a port of the range is told as 0.
#[inline(never)]
fn foresee(work: &mut Work, ports: Ports) -> bool {
    reverse_into(&work.to, &mut work.reverse);
    let keeps = ports == Ports::Keep
        && match find(&work.reverse) {
            None => true,
            Some(stub) if !is_stub(stub) => false,
            Some(stub) => {
                let other = stub.other;
                find(&other)
                    .is_none_or(|entry| is_closed(entry.flags) || is_expired(other.proto, entry, work.now))
            }
        };
    if !keeps {
        work.to.sport_be = 0;
        if is_icmp(work.key.proto) {
            work.to.dport_be = 0;
        }
    }
    true
}

/// Another CPU has made the flow of this tuple a moment ago: the packet goes its way, which may be to another server than the
/// one chosen here.
#[inline(always)]
fn adopt(work: &mut Work) -> bool {
    match find(&work.key) {
        Some(entry) if !is_stub(entry) => {
            work.adopted = 1;
            work.to = entry.other;
            work.flow.flags = entry.flags;
            work.flow.epoch = entry.epoch;
            work.flow.server_ifindex = entry.server_ifindex;
            true
        }
        _ => false,
    }
}

/// Inserts the stub, which makes the reply tuple ours; tries other source ports while it is somebody else's.
#[inline(always)]
fn claim(work: &mut Work, node: &NodeConfig, ports: Ports) -> bool {
    if ports == Ports::Keep && claim_one(work) {
        return true;
    }
    let (first, last) = (u32::from(node.snat_port_min), u32::from(node.snat_port_max));
    work.reason = DropReason::NoPort as u32;
    if first == 0 || last < first {
        return false;
    }
    // SAFETY: no preconditions.
    let start = unsafe { bpf_get_prandom_u32() };
    let mut tries = Tries {
        start,
        first,
        size: last - first + 1,
        claimed: 0,
        closed: 0,
        silent: 0,
    };
    // SAFETY: the callback has the type that the helper calls, and the context outlives the call.
    unsafe {
        let context = core::ptr::from_mut(&mut tries).cast();
        bpf_loop(SNAT_TRIES, try_one as *mut c_void, context, 0);
    }
    if tries.claimed == 0 && tries.closed != 0 {
        aim(work, tries.closed);
        return claim_one(work);
    }
    tries.claimed != 0
}

/// Makes the port that of the translated source.
#[inline(always)]
fn aim(work: &mut Work, port: u32) {
    work.to.sport_be = (port as u16).to_be();
    if is_icmp(work.key.proto) {
        work.to.dport_be = work.to.sport_be;
    }
}

/// A search for a free port.
struct Tries {
    start: u32,
    first: u32,
    size: u32,
    claimed: u32,
    /// The port of the flow that ended first among those seen; 0 = none has.
    closed: u32,
    /// Seconds since it did.
    silent: u32,
}

/// One try; 1 ends the search.
unsafe extern "C" fn try_one(step: u32, context: *mut c_void) -> i64 {
    // SAFETY: `claim` hands over a valid context and waits for the search to end.
    let tries = unsafe { &mut *context.cast::<Tries>() };
    let Some(work) = maps::work() else { return 1 };
    // A stride that is odd and not a small multiple spreads the tries over the range.
    let offset = tries
        .start
        .wrapping_add(step.wrapping_mul(0x9e37_79b1))
        .checked_rem(tries.size)
        .unwrap_or(0);
    aim(work, tries.first + offset);
    reverse_into(&work.to, &mut work.reverse);
    match FLOW.insert(&work.reverse, &work.stub, BPF_NOEXIST as u64) {
        Ok(()) => {
            tries.claimed = 1;
            return 1;
        }
        Err(EEXIST) => {}
        Err(_) => {
            work.reason = DropReason::FlowTableFull as u32;
            return 1;
        }
    }
    if let Some(silent) = ended(work)
        && (tries.closed == 0 || silent > tries.silent)
    {
        tries.closed = tries.first + offset;
        tries.silent = silent;
    }
    // A free port is the better choice, but not worth a long search.
    i64::from(tries.closed != 0 && step + 1 >= SNAT_TRIES_CLOSED)
}

/// How many seconds ago the flow whose stub lies under `work.reverse` ended, if it has.
#[inline(always)]
fn ended(work: &mut Work) -> Option<u32> {
    let stub = find(&work.reverse)?;
    if !is_stub(stub) {
        return None;
    }
    let made = stub.last_seen;
    work.entry_key = stub.other;
    match find(&work.entry_key) {
        Some(entry) if is_closed(entry.flags) || is_expired(work.entry_key.proto, entry, work.now) => {
            Some(ring::silence(entry, work.now))
        }
        Some(_) => None,
        None => {
            let age = work.now.wrapping_sub(made);
            (age > FLOW_ABANDONED && age < u32::MAX / 2).then_some(age)
        }
    }
}

/// Tries the tuple in `work.to`. A closed or expired flow that has its reply tuple gives way.
#[inline(never)]
fn claim_one(work: &mut Work) -> bool {
    reverse_into(&work.to, &mut work.reverse);
    match FLOW.insert(&work.reverse, &work.stub, BPF_NOEXIST as u64) {
        Ok(()) => return true,
        Err(EEXIST) => {}
        Err(_) => {
            work.reason = DropReason::FlowTableFull as u32;
            return false;
        }
    }
    if !yield_stub(work) {
        return false;
    }
    reverse_into(&work.to, &mut work.reverse);
    FLOW.insert(&work.reverse, &work.stub, BPF_NOEXIST as u64).is_ok()
}

const EEXIST: i32 = -17;

/// Removes the flow whose stub lies under `work.reverse` if it has ended; true: the tuple is free.
#[inline(always)]
pub fn yield_stub(work: &mut Work) -> bool {
    let Some(stub) = find(&work.reverse) else {
        return true;
    };
    if !is_stub(stub) {
        return false;
    }
    work.entry_key = stub.other;
    let Some(entry) = find(&work.entry_key) else {
        // A stub without an entry: another CPU is just making the flow, or died out of it long ago.
        let age = work.now.wrapping_sub(stub.last_seen);
        let abandoned = age > FLOW_ABANDONED && age < u32::MAX / 2;
        return abandoned && FLOW.remove(&work.reverse).is_ok();
    };
    if !is_closed(entry.flags) && !is_expired(work.entry_key.proto, entry, work.now) {
        return false;
    }
    let removed = remove_scratch(work, entry);
    if removed {
        count(COUNTER_FLOW_REPLACED);
    }
    removed
}
