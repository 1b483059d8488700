//! Whether a flow may go on after the endpoints of its Service changed. TCP and SCTP are asked when they open, everything else with
//! every packet; a flow whose endpoint still serves takes over the new generation, so the question is asked once per change.

use keelson_abi::{FLOW_MEMBERS, FLOW_RESET_GONE, Flow, FlowKey, MemberKey, NodeConfig};

use super::frontend;
use crate::maps;
use crate::packet::{RST, Work, is_connected};
use crate::ring;

/// What becomes of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Current {
    /// It goes on.
    Yes,
    /// The packet begins another one.
    No,
    /// It is ended, and both ends are told.
    Gone,
}

/// Decides about the flow of `key`, the client's tuple. `opens`: the packet opens a TCP connection.
#[inline(always)]
pub fn current(work: &Work, node: &NodeConfig, key: &FlowKey, entry: &mut Flow, opens: bool) -> Current {
    if opens && ring::is_closed(entry.flags) {
        return Current::No;
    }
    let flows_on = is_connected(key.proto) && !opens;
    if flows_on && work.tcp & RST != 0 {
        // Nothing answers a reset; the other end is to have it.
        return Current::Yes;
    }
    if entry.service == 0 || (flows_on && entry.flags & FLOW_RESET_GONE == 0) {
        return Current::Yes;
    }
    let Some(frontend) = frontend(key, node) else {
        // A Service that is gone takes no connection along.
        return if flows_on { Current::Yes } else { Current::No };
    };
    if frontend.service != entry.service {
        return if flows_on { Current::Yes } else { Current::No };
    }
    if frontend.generation == entry.generation {
        return Current::Yes;
    }
    if serves(entry) {
        if work.dry == 0 {
            entry.generation = frontend.generation;
        }
        return Current::Yes;
    }
    if flows_on { Current::Gone } else { Current::No }
}

/// Whether the flow's endpoint is one of those that serve.
#[inline(always)]
fn serves(entry: &Flow) -> bool {
    if entry.flags & FLOW_MEMBERS == 0 {
        return false;
    }
    let key = MemberKey {
        addr: entry.other.dst,
        service: entry.service,
        port_be: entry.other.dport_be,
        reserved: 0,
    };
    maps::member(&key).is_some()
}
