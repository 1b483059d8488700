//! From bytes to tuples: what a packet is, where its parts lie, and which flow it belongs to.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_skb_pull_data};
use keelson_abi::{Addr, FlowKey, NodeConfig};

use crate::service::Why;
pub use crate::work::*;
use crate::{fragment, maps};

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

/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;

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

/// ICMP echo request.
pub const ECHO_REQUEST: u32 = 8;
const ECHO_REPLY: u32 = 0;

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
pub fn is_loopback(addr: &Addr) -> bool {
    addr.is_v4() && u32::from_be(addr.v4_be()) >> 24 == 127
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
    if protocol != ETH_P_IP_BE || vlan != 0 || (ours && pkt_type != 0) {
        return Parsed::Foreign;
    }
    work.dry = u32::from(node.dry_run_mark != 0 && mark == node.dry_run_mark);
    // SAFETY: no preconditions.
    work.now = (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32;
    work.clear_df = 0;
    work.by_lo = 0;
    work.oif = 0;
    work.pod_epoch = 0;
    work.pod_netns = -1;
    work.reason = 0;
    if work.dry != 0 {
        // Of the last packet, which may not have been asked the same.
        work.why = Why::NONE;
    }
    ipv4(skb, work)
}

/// IPv4 header, then what it carries.
#[inline(never)]
fn ipv4(skb: Skb, work: &mut Work) -> Parsed {
    // Most devices leave the headers in the linear part; where one does not, they are pulled once.
    if at::<[u8; 40]>(skb, ETH).is_none() {
        // SAFETY: the context is valid.
        let length = unsafe { (*skb).len };
        let wanted = if length < ETH + 80 { length } else { ETH + 80 };
        if !pull(skb, wanted) {
            return Parsed::Malformed;
        }
    }
    let Some(header) = at::<Ipv4>(skb, ETH) else {
        return Parsed::Malformed;
    };
    // SAFETY: `at` checked the bounds, and no helper was called since.
    let header = unsafe { &*header };
    let ihl = u32::from(header.version_ihl & 0xf) * 4;
    // SAFETY: the context is valid.
    let (available, gso) = unsafe { ((*skb).len - ETH, (*skb).gso_size != 0) };
    let length = match u32::from(u16::from_be(header.length_be)) {
        // A GSO packet may be longer than its field can say.
        0 if gso => available,
        length => length,
    };
    if header.version_ihl >> 4 != 4 || ihl < 20 || length < ihl {
        return Parsed::Malformed;
    }
    // Shorter than it says: it was cut.
    if length > available {
        return Parsed::Malformed;
    }
    work.key.src = Addr::v4(header.src);
    work.key.dst = Addr::v4(header.dst);
    work.key.sport_be = 0;
    work.key.dport_be = 0;
    work.key.proto = header.proto;
    work.key.reserved = [0; 3];
    work.ttl = u32::from(header.ttl);
    work.tcp = 0;
    work.icmp_type = 0;
    work.l4 = ETH + ihl;
    let (id, fragment) = (u32::from(header.id_be), u16::from_be(header.fragment_be));
    if fragment & 0x1fff != 0 {
        work.kind = KIND_FRAGMENT;
        return if fragment::recall(work, id) {
            Parsed::Yes
        } else {
            Parsed::Orphan
        };
    }
    let parsed = transport(skb, work, length - ihl);
    if fragment & 0x2000 != 0 && work.kind == KIND_FLOW && work.dry == 0 {
        fragment::remember(work, id);
    }
    parsed
}

/// Ports, flags, or what an ICMP error is about.
#[inline(always)]
fn transport(skb: Skb, work: &mut Work, length: u32) -> Parsed {
    work.kind = KIND_FLOW;
    match work.key.proto {
        TCP => {
            let Some(tcp) = at::<[u8; 20]>(skb, work.l4) else {
                return Parsed::Malformed;
            };
            if length < 20 {
                return Parsed::Malformed;
            }
            // SAFETY: `at` checked the bounds of 20 bytes.
            let (ports, flags) = unsafe { (tcp.cast::<[u16; 2]>().read(), (*tcp)[13]) };
            [work.key.sport_be, work.key.dport_be] = ports;
            work.tcp = u32::from(flags);
            Parsed::Yes
        }
        UDP => {
            let Some(udp) = at::<[u16; 4]>(skb, work.l4) else {
                return Parsed::Malformed;
            };
            if length < 8 {
                return Parsed::Malformed;
            }
            // SAFETY: `at` checked the bounds.
            let [sport, dport, _, _] = unsafe { udp.read() };
            work.key.sport_be = sport;
            work.key.dport_be = dport;
            Parsed::Yes
        }
        ICMP => icmp(skb, work, length),
        _ => {
            work.kind = KIND_OTHER;
            Parsed::Yes
        }
    }
}

/// ICMP: echo is a flow, errors quote one, all else only has addresses.
#[inline(always)]
fn icmp(skb: Skb, work: &mut Work, length: u32) -> Parsed {
    let Some(header) = at::<[u8; 8]>(skb, work.l4) else {
        return Parsed::Malformed;
    };
    if length < 8 {
        return Parsed::Malformed;
    }
    // SAFETY: `at` checked the bounds.
    let (icmp_type, id) = unsafe { ((*header)[0], header.cast::<[u16; 4]>().read()[2]) };
    work.icmp_type = u32::from(icmp_type);
    match work.icmp_type {
        ECHO_REQUEST | ECHO_REPLY => {
            work.key.sport_be = id;
            work.key.dport_be = id;
            Parsed::Yes
        }
        3 | 11 | 12 => {
            work.kind = KIND_ERROR;
            quote(skb, work)
        }
        _ => {
            work.kind = KIND_OTHER;
            Parsed::Yes
        }
    }
}

/// The packet that an ICMP error is about: its header and the first eight bytes of what it carried.
#[inline(always)]
fn quote(skb: Skb, work: &mut Work) -> Parsed {
    work.quote_l3 = work.l4 + 8;
    if at::<[u8; 28]>(skb, work.quote_l3).is_none() {
        // SAFETY: the context is valid.
        let length = unsafe { (*skb).len };
        let wanted = work.quote_l3 + 28;
        if length < wanted || !pull(skb, wanted) {
            return Parsed::Malformed;
        }
    }
    let Some(header) = at::<Ipv4>(skb, work.quote_l3) else {
        return Parsed::Malformed;
    };
    // SAFETY: `at` checked the bounds, and no helper was called since.
    let header = unsafe { &*header };
    let ihl = u32::from(header.version_ihl & 0xf) * 4;
    if header.version_ihl >> 4 != 4 || ihl < 20 {
        return Parsed::Malformed;
    }
    work.quote.src = Addr::v4(header.src);
    work.quote.dst = Addr::v4(header.dst);
    work.quote.proto = header.proto;
    work.quote.reserved = [0; 3];
    work.quote_l4 = work.quote_l3 + ihl;
    if u16::from_be(header.fragment_be) & 0x1fff != 0 {
        // It quotes a fragment without ports: nothing tells which flow it was.
        work.kind = KIND_OTHER;
        return Parsed::Yes;
    }
    let Some(ports) = at::<[u16; 4]>(skb, work.quote_l4) else {
        return Parsed::Malformed;
    };
    // SAFETY: `at` checked the bounds.
    let [first, second, third, _] = unsafe { ports.read() };
    (work.quote.sport_be, work.quote.dport_be) = if header.proto == ICMP {
        (third, third)
    } else {
        (first, second)
    };
    Parsed::Yes
}

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
