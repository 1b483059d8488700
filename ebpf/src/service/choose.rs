//! One endpoint of the set that a client may use: the one it had before where the Service wants that, else by the Maglev
//! table or by chance.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use keelson_abi::{
    Affinity, AffinityKey, CHOICE_AFFINITY, CHOICE_MAGLEV, CHOICE_RANDOM, FLOW_MEMBERS, FLOW_RESET_GONE,
    FRONTEND_MEMBERS, FRONTEND_RESET_GONE, Frontend, MAGLEV_BLOCK, MEMBER_CLUSTER, MEMBER_LOCAL, MaglevKey,
    MemberKey, tuple_hash,
};

use super::{aim, note, uses_local};
use crate::maps::{self, AFFINITY};
use crate::packet::{Work, same_addr};

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Chosen {
    /// `work.to` is aimed at an endpoint (or would be, of a packet that may not open a flow).
    Yes,
    /// The set is empty.
    Empty,
    /// The slot is gone: the set was exchanged meanwhile.
    Exchanged,
}

/// Chooses from the frontend's set for this client.
#[inline(never)]
pub fn choose(work: &mut Work, frontend: &Frontend, open: bool) -> Chosen {
    note(work, frontend);
    let local = uses_local(work, frontend.flags);
    let (first, count) = if local {
        (frontend.count, frontend.local_count)
    } else {
        (0, frontend.count)
    };
    work.why.first = first;
    work.why.candidates = count;
    if count == 0 {
        return Chosen::Empty;
    }
    if !open {
        return Chosen::Yes;
    }
    work.extra_flags = extra_flags(frontend.flags);
    let sticky = frontend.affinity_seconds != 0;
    let set = if local { MEMBER_LOCAL } else { MEMBER_CLUSTER };
    if sticky && remembered(work, frontend, set) {
        return Chosen::Yes;
    }
    let slot = slot(work, frontend, local, count);
    let Some(backend) = maps::backend(frontend.service, frontend.revision, first + slot) else {
        return Chosen::Exchanged;
    };
    work.backend_flags = u32::from(backend.flags);
    aim(work, backend.addr, backend.port_be);
    if sticky {
        remember(work, frontend, set);
    }
    Chosen::Yes
}

/// What flows of the Service have to know of it.
#[inline(always)]
fn extra_flags(flags: u32) -> u32 {
    let mut extra = 0;
    if flags & FRONTEND_MEMBERS != 0 {
        extra |= FLOW_MEMBERS;
    }
    if flags & FRONTEND_RESET_GONE != 0 {
        extra |= FLOW_RESET_GONE;
    }
    extra
}

/// A slot of the set.
#[inline(always)]
fn slot(work: &mut Work, frontend: &Frontend, local: bool, count: u32) -> u32 {
    if frontend.maglev != 0 && !local {
        let position = tuple_hash(&work.key).checked_rem(frontend.maglev).unwrap_or(0);
        let key = MaglevKey {
            service: frontend.service,
            revision: frontend.revision,
            block: position / MAGLEV_BLOCK,
        };
        // Without a table (it could not be written) chance is as good as before.
        if let Some(block) = maps::maglev(&key)
            && let Some(slot) = block.slots.get((position % MAGLEV_BLOCK) as usize)
            && u32::from(*slot) < count
        {
            work.why.choice = CHOICE_MAGLEV;
            return u32::from(*slot);
        }
    }
    work.why.choice = CHOICE_RANDOM;
    // SAFETY: no preconditions.
    unsafe { bpf_get_prandom_u32() }.checked_rem(count).unwrap_or(0)
}

#[inline(always)]
fn affinity_key(work: &Work, frontend: &Frontend) -> AffinityKey {
    AffinityKey {
        client: work.key.src,
        service: frontend.service,
        reserved: 0,
    }
}

/// The endpoint that the client was given last, if that is not too long ago and it is still in the set.
#[inline(always)]
fn remembered(work: &mut Work, frontend: &Frontend, set: u16) -> bool {
    let key = affinity_key(work, frontend);
    let Some(entry) = AFFINITY.get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: values of a preallocated map stay readable; one that is reused meanwhile costs this client its endpoint.
    let entry = unsafe { &mut *entry };
    if work.now.wrapping_sub(entry.seen) > frontend.affinity_seconds {
        return false;
    }
    let member = MemberKey {
        addr: entry.addr,
        service: frontend.service,
        port_be: entry.port_be,
        reserved: 0,
    };
    let Some(found) = maps::member(&member) else {
        return false;
    };
    if found.flags & set == 0 {
        return false;
    }
    work.backend_flags = u32::from(found.backend_flags);
    aim(work, member.addr, member.port_be);
    work.why.choice = CHOICE_AFFINITY;
    if work.dry == 0 && entry.seen != work.now {
        entry.seen = work.now;
    }
    true
}

/// Remembers the endpoint chosen.
#[inline(always)]
fn remember(work: &mut Work, frontend: &Frontend, set: u16) {
    if work.dry != 0 {
        return;
    }
    let key = affinity_key(work, frontend);
    let value = Affinity {
        addr: work.to.dst,
        port_be: work.to.dport_be,
        reserved: 0,
        seen: work.now,
    };
    // Another CPU may have begun a flow of this client a moment ago: what it chose holds for both.
    if let Some(other) = AFFINITY.get_ptr(&key) {
        // SAFETY: as above.
        let other = unsafe { &*other };
        if other.seen == work.now && !same_addr(&other.addr, &value.addr) && remembered(work, frontend, set) {
            return;
        }
    }
    // A full LRU map evicts the least recent client.
    let _ = AFFINITY.insert(&key, &value, 0);
}
