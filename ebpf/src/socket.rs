//! Live connections that no flow knows of: sockets.

use aya_ebpf::bindings::{BPF_TCP_LISTEN, bpf_sock_tuple};
use aya_ebpf::helpers::{bpf_sk_lookup_tcp, bpf_sk_release};
use keelson_abi::FlowKey;

use crate::packet::Skb;

/// The node's own namespace.
pub const HERE: i32 = -1;

/// What the namespace has for a packet with this tuple.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    /// No socket.
    Nothing,
    /// A socket that waits for connections.
    Listener,
    /// A connection.
    Connection,
}

/// Looks for the TCP socket that a packet with this tuple would reach in the namespace (an id relative to the node's).
#[inline(never)]
pub fn lookup_tcp(skb: Skb, tuple: &FlowKey, netns: i32) -> Found {
    // SAFETY: the type is a union of integers, for which zero is valid.
    let mut params: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if tuple.dst.is_v4() {
        params.__bindgen_anon_1.ipv4.saddr = tuple.src.v4_be();
        params.__bindgen_anon_1.ipv4.daddr = tuple.dst.v4_be();
        params.__bindgen_anon_1.ipv4.sport = tuple.sport_be;
        params.__bindgen_anon_1.ipv4.dport = tuple.dport_be;
        12
    } else {
        params.__bindgen_anon_1.ipv6.saddr = tuple.src.0;
        params.__bindgen_anon_1.ipv6.daddr = tuple.dst.0;
        params.__bindgen_anon_1.ipv6.sport = tuple.sport_be;
        params.__bindgen_anon_1.ipv6.dport = tuple.dport_be;
        36
    };
    // SAFETY: context and tuple are valid, the size is that of its family's variant; the socket is released below.
    unsafe {
        let socket = bpf_sk_lookup_tcp(
            skb.cast(),
            core::ptr::from_mut(&mut params),
            size,
            netns as u32 as u64,
            0,
        );
        if socket.is_null() {
            return Found::Nothing;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        if state == BPF_TCP_LISTEN {
            Found::Listener
        } else {
            Found::Connection
        }
    }
}
