//! From bytes to tuples: what a packet is, where its parts lie, and which flow it belongs to.

mod headers;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_skb_pull_data};
use keelson_abi::{Addr, FlowKey, NodeConfig};

use crate::service::Why;
pub use crate::work::*;
use crate::{maps, report};

/// The packet's context, as every helper takes it.
pub type Skb = *mut __sk_buff;

/// What a program tells the kernel to do with the packet.
pub type Verdict = i32;
/// Go on: to the stack or out of the device.
pub const PASS: Verdict = 0;
/// Drop.
pub const DROP: Verdict = 2;

/// Length of an Ethernet header: every hook sees one.
pub const ETH: u32 = 14;
/// `skb->protocol` of IPv4.
const ETH_P_IP_BE: u32 = 0x0800_u16.to_be() as u32;
/// `skb->protocol` of IPv6.
const ETH_P_IPV6_BE: u32 = 0x86dd_u16.to_be() as u32;

/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_SCTP.
pub const SCTP: u8 = 132;
/// IPPROTO_ICMPV6.
pub const ICMPV6: u8 = 58;

/// TCP flags as they stand in the header.
pub const FIN: u32 = 1;
/// Opens a connection.
pub const SYN: u32 = 2;
/// Ends one at once.
pub const RST: u32 = 4;
/// Acknowledges.
pub const ACK: u32 = 16;

/// The fields of an IPv4 header that the programs touch.
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Length with header.
    pub length_be: u16,
    /// Identification.
    pub id_be: u16,
    /// Flags and fragment offset.
    pub fragment_be: u16,
    /// Time to live.
    pub ttl: u8,
    /// IPPROTO_*.
    pub proto: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source.
    pub src: u32,
    /// Destination.
    pub dst: u32,
}

/// The fixed IPv6 header.
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_flow: [u8; 4],
    /// Length without this header.
    pub length_be: u16,
    /// What follows.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u32; 4],
    /// Destination.
    pub dst: [u32; 4],
}

/// Don't fragment.
pub const DF_BE: u16 = 0x4000_u16.to_be();

/// What [`parse`] found.
pub enum Parsed {
    /// A packet to decide about.
    Yes,
    /// Not ours to look at: another protocol, or not for us.
    Foreign,
    /// Shorter than its own headers say.
    Malformed,
    /// A fragment whose first part was not seen.
    Orphan,
}

/// ICMP echo request, of either family.
pub const ECHO_REQUEST: u32 = 8;

/// Whether two tuples are the same (a derived comparison would call `bcmp`, which does not exist here).
#[inline(always)]
pub fn same(a: &FlowKey, b: &FlowKey) -> bool {
    same_addr(&a.src, &b.src)
        && same_addr(&a.dst, &b.dst)
        && a.sport_be == b.sport_be
        && a.dport_be == b.dport_be
        && a.proto == b.proto
}

/// Whether two addresses are the same.
#[inline(always)]
pub fn same_addr(a: &Addr, b: &Addr) -> bool {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.0, b.0);
    (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3) == 0
}

/// Whether the address is in 127.0.0.0/8.
#[inline(always)]
pub fn is_loopback_v4(addr: &Addr) -> bool {
    addr.is_v4() && u32::from_be(addr.v4_be()) >> 24 == 127
}

/// Whether the address is a host's own loopback address, of either family.
#[inline(always)]
pub fn is_loopback(addr: &Addr) -> bool {
    is_loopback_v4(addr) || same_addr(addr, &Addr([0, 0, 0, 1_u32.to_be()]))
}

/// Whether the address is of a link's scope, or no address at all: what neighbours speak with.
#[inline(always)]
pub fn is_link_scope(addr: &Addr) -> bool {
    let first = u32::from_be(addr.0[0]);
    first >> 22 == 0xfe80 >> 6 || same_addr(addr, &Addr([0; 4]))
}

/// Whether the protocol's connections are opened and closed; all others only fall silent.
#[inline(always)]
pub fn is_connected(proto: u8) -> bool {
    proto == TCP || proto == SCTP
}

/// Whether the protocol is the ICMP of either family.
#[inline(always)]
pub fn is_icmp(proto: u8) -> bool {
    proto == ICMP || proto == ICMPV6
}

/// A pointer to `size` bytes at `offset`, or nothing if the linear part of the packet ends before.
///
/// The pointer dies with the next helper that changes the packet.
#[inline(always)]
pub fn at<T>(skb: Skb, offset: u32) -> Option<*mut T> {
    // SAFETY: the context is valid for the whole run; the bounds are checked before a pointer is handed out.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    // The mask is what bounds an offset read from memory for the verifier; no header reaches that far. Accesses need
    // no alignment: every machine that runs these programs allows them at any address.
    let pointer = start + (offset & 0xff) as usize;
    if pointer + size_of::<T>() > end {
        None
    } else {
        Some(pointer as *mut T)
    }
}

/// Makes the first `length` bytes readable in place.
#[inline(always)]
pub fn pull(skb: Skb, length: u32) -> bool {
    // SAFETY: the context is valid; pointers into the packet are derived anew after this call.
    unsafe { bpf_skb_pull_data(skb, length) == 0 }
}

/// Reads the packet into `work`.
///
/// `ours`: what is for other stations, broadcast or multicast is not to be looked at.
#[inline(always)]
pub fn parse(skb: Skb, work: &mut Work, node: &NodeConfig, ours: bool) -> Parsed {
    // SAFETY: the context is valid for the whole run.
    let (protocol, pkt_type, vlan, mark) =
        unsafe { ((*skb).protocol, (*skb).pkt_type, (*skb).vlan_present, (*skb).mark) };
    // Before anything is decided: of a dry run even what is not looked at is told.
    work.dry = u32::from(node.dry_run_mark != 0 && mark == node.dry_run_mark);
    if work.dry != 0 {
        begin_dry(work);
    }
    let known = protocol == ETH_P_IP_BE || protocol == ETH_P_IPV6_BE;
    if !known || vlan != 0 || (ours && pkt_type != 0) {
        return Parsed::Foreign;
    }
    // SAFETY: no preconditions.
    work.now = (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32;
    work.clear_df = 0;
    work.by_lo = 0;
    work.from_lo = 0;
    work.oif = 0;
    work.pod_epoch = 0;
    work.pod_netns = -1;
    work.reason = 0;
    if protocol == ETH_P_IP_BE {
        headers::ipv4(skb, work)
    } else {
        headers::ipv6(skb, work)
    }
}

/// Forgets what the last packet left in the working set and in the trace.
#[inline(never)]
fn begin_dry(work: &mut Work) {
    work.key = NO_TUPLE;
    work.to = NO_TUPLE;
    work.flow.service = 0;
    work.why = Why::NONE;
    report::begin_trace();
}

/// A tuple of nobody.
const NO_TUPLE: FlowKey = FlowKey {
    src: Addr([0; 4]),
    dst: Addr([0; 4]),
    sport_be: 0,
    dport_be: 0,
    proto: 0,
    reserved: [0; 3],
};

/// Copies the answer's tuple of `key` to `to`.
#[inline(always)]
pub fn reverse_into(key: &FlowKey, to: &mut FlowKey) {
    *to = key.reverse();
}

/// The node's configuration and this CPU's working set: what every program begins with.
#[inline(always)]
pub fn begin() -> Option<(&'static mut Work, &'static NodeConfig)> {
    match (maps::work(), maps::node()) {
        (Some(work), Some(node)) => Some((work, node)),
        _ => None,
    }
}
