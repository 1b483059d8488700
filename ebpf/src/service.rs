//! Services and host ports: what a tuple asks for, and which endpoint answers.
//!
//! | room | job |
//! |---|---|
//! | here | frontend, source ranges, refusing against dropping |
//! | `choose` | one endpoint of a set: affinity, Maglev, chance |
//! | `masquerade` | the source that the endpoint is to see |
//! | `current` | whether a flow may go on after the endpoints changed |

mod choose;
mod current;
mod masquerade;

use keelson_abi::{
    Addr, BACKEND_NODE, CHOICE_FLOW, CHOICE_HOST_PORT, CHOICE_NONE, DropReason, FRONTEND_DROP,
    FRONTEND_EXTERNAL, FRONTEND_LOCAL, FRONTEND_NODE_PORT, FRONTEND_RANGES, FlowKey, Frontend, FrontendKey,
    HostPortKey, MASQUERADE_NONE, NodeConfig, PREFIX_LOCAL_PODS, PREFIX_NODE_ADDRESS, PREFIX_PEER_PODS,
    PREFIX_SERVICES, SOURCE_HOST, SOURCE_OUTSIDE, SOURCE_POD,
};

pub use choose::Chosen;
pub use current::{Current, current};
pub use masquerade::translate_source;

use crate::maps;
use crate::packet::{Hook, Work, is_loopback, is_loopback_v4};

/// What a destination is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Asked {
    /// No Service: somebody's own address.
    Nobody,
    /// An endpoint was chosen: its address and port stand in `work.to`, the Service in `work.flow`.
    Endpoint,
    /// To be refused with an answer; `work.reason` says why.
    Refused,
    /// To be dropped in silence; `work.reason` says why.
    Silent,
}

/// Why an endpoint was chosen and a source translated, as a dry run tells it.
#[repr(C)]
pub struct Why {
    /// The frontend asked; port 0 = none.
    pub frontend: FrontendKey,
    /// `SOURCE_*`.
    pub source: u32,
    /// Revision of the slots.
    pub revision: u32,
    /// `FRONTEND_*`.
    pub flags: u32,
    /// First slot of the set.
    pub first: u32,
    /// Slots in it.
    pub candidates: u32,
    /// `CHOICE_*`.
    pub choice: u32,
    /// `MASQUERADE_*`.
    pub masquerade: u32,
}

impl Why {
    /// Nothing was asked.
    pub const NONE: Self = Self {
        frontend: FrontendKey {
            addr: Addr([0; 4]),
            port_be: 0,
            proto: 0,
            reserved: 0,
        },
        source: 0,
        revision: 0,
        flags: 0,
        first: 0,
        candidates: 0,
        choice: CHOICE_NONE,
        masquerade: MASQUERADE_NONE,
    };
}

/// Notes that nothing has been asked yet, and who is asking.
#[inline(always)]
pub fn begin(work: &mut Work, hook: Hook) {
    work.flow.service = 0;
    work.flow.generation = 0;
    work.backend_flags = 0;
    work.extra_flags = 0;
    work.why.frontend.port_be = 0;
    work.why.frontend.proto = 0;
    work.why.flags = 0;
    work.why.choice = CHOICE_NONE;
    work.why.masquerade = MASQUERADE_NONE;
    work.why.source = match hook {
        Hook::PodIngress => SOURCE_POD,
        Hook::HostIngress => SOURCE_HOST,
        _ => match maps::prefix_kind(&work.key.src) {
            PREFIX_LOCAL_PODS | PREFIX_PEER_PODS => SOURCE_POD,
            _ => SOURCE_OUTSIDE,
        },
    };
}

/// What a dry run tells of a packet whose endpoint its flow knows.
#[inline(never)]
pub fn tell_flow(work: &mut Work, node: &NodeConfig, hook: Hook) {
    let service = work.flow.service;
    begin(work, hook);
    if let Some(frontend) = frontend(&work.key, node) {
        work.why.frontend = frontend_key(&work.key, node);
        note(work, frontend);
    }
    work.flow.service = service;
    work.why.choice = CHOICE_FLOW;
}

/// The key under which the frontend of a client's tuple stands. 127.0.0.1:NodePort is the node's own address's.
#[inline(always)]
fn frontend_key(key: &FlowKey, node: &NodeConfig) -> FrontendKey {
    let addr = if is_loopback_v4(&key.dst) {
        node.ipv4
    } else {
        key.dst
    };
    FrontendKey {
        addr,
        port_be: key.dport_be,
        proto: key.proto,
        reserved: 0,
    }
}

/// The frontend that a client's tuple asks for. On 127/8 only NodePorts are served: all else there is the host's own.
#[inline(always)]
pub fn frontend(key: &FlowKey, node: &NodeConfig) -> Option<&'static Frontend> {
    let found = maps::frontend(&frontend_key(key, node))?;
    if is_loopback_v4(&key.dst) && found.flags & FRONTEND_NODE_PORT == 0 {
        return None;
    }
    Some(found)
}

/// Looks up what `work.key` asks for; `kind` is the `PREFIX_*` of its destination. `open`: a flow may begin with this
/// packet, so an endpoint is chosen.
#[inline(never)]
pub fn ask(work: &mut Work, node: &NodeConfig, kind: u32, open: bool) -> Asked {
    // Only host addresses have host ports, and they come before Services.
    let own = kind == PREFIX_NODE_ADDRESS || is_loopback(&work.key.dst);
    if own && hostport(work) {
        work.why.choice = CHOICE_HOST_PORT;
        return Asked::Endpoint;
    }
    if let Some(frontend) = frontend(&work.key, node) {
        work.why.frontend = frontend_key(&work.key, node);
        return of_frontend(work, node, frontend, open);
    }
    let any = FrontendKey {
        addr: work.key.dst,
        port_be: 0,
        proto: 0,
        reserved: 0,
    };
    if !own && maps::frontend(&any).is_some() {
        return refused(work, DropReason::UnknownPort);
    }
    if kind == PREFIX_SERVICES {
        return silent(work, DropReason::UnknownAddress);
    }
    Asked::Nobody
}

/// The endpoint of a frontend for this client, or why there is none.
#[inline(always)]
fn of_frontend(work: &mut Work, node: &NodeConfig, frontend: &Frontend, open: bool) -> Asked {
    if open
        && frontend.flags & FRONTEND_RANGES != 0
        && !maps::in_source_ranges(frontend.service, &work.key.src)
    {
        note(work, frontend);
        return silent(work, DropReason::SourceRange);
    }
    match choose::choose(work, frontend, open) {
        Chosen::Yes => Asked::Endpoint,
        Chosen::Empty => empty(work, frontend.flags),
        // The set was exchanged between the two lookups: the new one is there by now.
        Chosen::Exchanged => match self::frontend(&work.key, node) {
            Some(frontend) => match choose::choose(work, frontend, open) {
                Chosen::Yes => Asked::Endpoint,
                Chosen::Empty => empty(work, frontend.flags),
                Chosen::Exchanged => silent(work, DropReason::Exchanged),
            },
            None => refused(work, DropReason::UnknownPort),
        },
    }
}

/// A set without endpoints: the Local policy is silent where others have some.
#[inline(always)]
fn empty(work: &mut Work, flags: u32) -> Asked {
    if uses_local(work, flags) && flags & FRONTEND_DROP != 0 {
        silent(work, DropReason::PolicyLocal)
    } else {
        refused(work, DropReason::NoEndpoint)
    }
}

#[inline(always)]
fn refused(work: &mut Work, reason: DropReason) -> Asked {
    work.reason = reason as u32;
    Asked::Refused
}

#[inline(always)]
fn silent(work: &mut Work, reason: DropReason) -> Asked {
    work.reason = reason as u32;
    Asked::Silent
}

/// Whether this client gets the endpoints of the Local policy. On an external address only clients outside do: the
/// cluster's own would have reached any endpoint by the Service's address.
#[inline(always)]
fn uses_local(work: &Work, flags: u32) -> bool {
    flags & FRONTEND_LOCAL != 0 && (flags & FRONTEND_EXTERNAL == 0 || work.why.source == SOURCE_OUTSIDE)
}

/// Writes down which Service was asked.
#[inline(always)]
fn note(work: &mut Work, frontend: &Frontend) {
    work.flow.service = frontend.service;
    work.flow.generation = frontend.generation;
    work.why.revision = frontend.revision;
    work.why.flags = frontend.flags;
}

/// The pod behind a host port: of this very address, else of all.
#[inline(always)]
fn hostport(work: &mut Work) -> bool {
    let mut key = HostPortKey {
        addr: work.key.dst,
        port_be: work.key.dport_be,
        proto: work.key.proto,
        reserved: 0,
    };
    let found = match maps::hostport(&key) {
        Some(found) => Some(found),
        None => {
            key.addr = Addr([0; 4]);
            maps::hostport(&key)
        }
    };
    match found {
        Some(pod) => {
            aim(work, pod.addr, pod.port_be);
            true
        }
        None => false,
    }
}

/// Whether a host process's packet to one of the node's own addresses asks for a host port or a Service.
#[inline(always)]
pub fn is_asked(work: &mut Work, node: &NodeConfig) -> bool {
    frontend(&work.key, node).is_some() || hostport(work)
}

/// Makes the endpoint the destination.
#[inline(always)]
fn aim(work: &mut Work, addr: Addr, port_be: u16) {
    work.to = work.key;
    work.to.dst = addr;
    work.to.dport_be = port_be;
}

/// Whether the endpoint chosen is one of the node's own addresses.
#[inline(always)]
pub fn is_node(work: &Work) -> bool {
    work.backend_flags & u32::from(BACKEND_NODE) != 0
}
