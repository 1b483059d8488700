//! Fragments follow their first: it has the ports, the others only what all share.

use keelson_abi::{FragmentKey, FragmentPorts, TIMEOUT_FRAGMENT};

use crate::maps::FRAGMENT;
use crate::packet::Work;

#[inline(always)]
fn key(work: &Work, id: u32) -> FragmentKey {
    FragmentKey {
        src: work.key.src,
        dst: work.key.dst,
        id,
        proto: u32::from(work.key.proto),
    }
}

/// Writes down the ports of a first fragment, under the addresses this hook sees.
#[inline(always)]
pub fn remember(work: &Work, id: u32) {
    let ports = FragmentPorts {
        sport_be: work.key.sport_be,
        dport_be: work.key.dport_be,
        seen: work.now,
    };
    // A full LRU map evicts; an insert that fails costs one datagram, which its sender repeats.
    let _ = FRAGMENT.insert(key(work, id), ports, 0);
}

/// Completes the tuple of a later fragment; false: its first part was not seen, or long ago.
#[inline(always)]
pub fn recall(work: &mut Work, id: u32) -> bool {
    let Some(ports) = FRAGMENT.get_ptr(key(work, id)) else {
        return false;
    };
    // SAFETY: values of a hash map stay readable until the run ends.
    let ports = unsafe { &*ports };
    if work.now.wrapping_sub(ports.seen) > TIMEOUT_FRAGMENT {
        return false;
    }
    work.key.sport_be = ports.sport_be;
    work.key.dport_be = ports.dport_be;
    true
}
