//! Services and host ports: what a tuple asks for, and which endpoint answers.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use keelson_abi::{
    Addr, BACKEND_NODE, FRONTEND_DROP, FlowKey, Frontend, FrontendKey, HostPortKey, NodeConfig,
    PREFIX_NODE_ADDRESS, PREFIX_SERVICES,
};

use crate::maps;
use crate::packet::{Work, is_loopback};

/// What a destination is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Asked {
    /// No Service: somebody's own address.
    Nobody,
    /// An endpoint was chosen: its address and port stand in `work.to`, the Service in `work.flow`.
    Endpoint,
    /// A Service without an endpoint.
    NoEndpoint,
    /// A Service without an endpoint here, which is to be silent.
    Silent,
    /// A Service that has no such port.
    UnknownPort,
    /// An address of the Service network that no Service has.
    UnknownAddress,
}

/// The key under which the frontend of a client's tuple stands. 127.0.0.1:NodePort is the node's own address's.
#[inline(always)]
pub fn frontend_key(key: &FlowKey, node: &NodeConfig) -> FrontendKey {
    let addr = if is_loopback(&key.dst) { node.ipv4 } else { key.dst };
    FrontendKey {
        addr,
        port_be: key.dport_be,
        proto: key.proto,
        reserved: 0,
    }
}

/// The frontend that a client's tuple asks for.
#[inline(always)]
pub fn frontend(key: &FlowKey, node: &NodeConfig) -> Option<&'static Frontend> {
    maps::frontend(&frontend_key(key, node))
}

/// Looks up what `work.key` asks for; `kind` is the `PREFIX_*` of its destination. `open`: a flow may begin with this
/// packet, so an endpoint is chosen.
#[inline(never)]
pub fn ask(work: &mut Work, node: &NodeConfig, kind: u32, open: bool) -> Asked {
    work.flow.service = 0;
    work.flow.generation = 0;
    work.backend_flags = 0;
    // Only host addresses have host ports, and they come before Services.
    let own = kind == PREFIX_NODE_ADDRESS || is_loopback(&work.key.dst);
    if own && hostport(work) {
        return Asked::Endpoint;
    }
    if let Some(frontend) = frontend(&work.key, node) {
        return choose(work, frontend, open);
    }
    let key = FrontendKey {
        addr: work.key.dst,
        port_be: 0,
        proto: 0,
        reserved: 0,
    };
    if !own && maps::frontend(&key).is_some() {
        return Asked::UnknownPort;
    }
    if kind == PREFIX_SERVICES {
        Asked::UnknownAddress
    } else {
        Asked::Nobody
    }
}

/// Chooses one of the slots at random.
#[inline(always)]
fn choose(work: &mut Work, frontend: &Frontend, open: bool) -> Asked {
    work.flow.service = frontend.service;
    work.flow.generation = frontend.generation;
    if frontend.count == 0 {
        return if frontend.flags & FRONTEND_DROP != 0 {
            Asked::Silent
        } else {
            Asked::NoEndpoint
        };
    }
    if !open {
        return Asked::Endpoint;
    }
    // SAFETY: no preconditions.
    let slot = unsafe { bpf_get_prandom_u32() }
        .checked_rem(frontend.count)
        .unwrap_or(0);
    let Some(backend) = maps::backend(frontend.service, frontend.revision, slot) else {
        // The set was exchanged between the two lookups; the client asks again.
        return Asked::Silent;
    };
    work.backend_flags = u32::from(backend.flags);
    aim(work, backend.addr, backend.port_be);
    Asked::Endpoint
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
