//! The headers of a packet, from the outermost to the ports: both families end in the same tuple.

use keelson_abi::Addr;

use super::{
    ECHO_REQUEST, ETH, ICMP, ICMPV6, Ipv4, Ipv6, KIND_ERROR, KIND_FLOW, KIND_FRAGMENT, KIND_OTHER, Parsed,
    RST, SCTP, SYN, Skb, TCP, UDP, Work, at, pull,
};
use crate::fragment;

const ECHO_REPLY: u32 = 0;
/// IPv6 extension headers: hop-by-hop options, routing, fragment, destination options.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
/// SCTP's chunks that open an association, and that end one.
const INIT: u8 = 1;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;
/// More extension headers than this, or more bytes of them, are nobody's.
const EXTENSIONS: u32 = 4;
const EXTENSION_BYTES: u32 = 64;
/// Bytes that are made readable in place where a device leaves headers elsewhere.
const HEADERS: u32 = 148;

/// Makes the headers readable in place.
#[inline(always)]
fn linear<const N: usize>(skb: Skb) -> bool {
    if at::<[u8; N]>(skb, ETH).is_some() {
        return true;
    }
    // SAFETY: the context is valid.
    let length = unsafe { (*skb).len };
    pull(skb, if length < HEADERS { length } else { HEADERS })
}

/// IPv4 header, then what it carries.
#[inline(never)]
pub fn ipv4(skb: Skb, work: &mut Work) -> Parsed {
    // Most devices leave the headers in the linear part; where one does not, they are pulled once.
    if !linear::<40>(skb) {
        return Parsed::Malformed;
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
    // Shorter than it says: it was cut.
    if header.version_ihl >> 4 != 4 || ihl < 20 || length < ihl || length > available {
        return Parsed::Malformed;
    }
    work.key.src = Addr::v4(header.src);
    work.key.dst = Addr::v4(header.dst);
    work.key.proto = header.proto;
    work.ttl = u32::from(header.ttl);
    work.l4 = ETH + ihl;
    let (id, fragment) = (u32::from(header.id_be), u16::from_be(header.fragment_be));
    carried(
        skb,
        work,
        length - ihl,
        Part::of(id, fragment & 0x1fff, fragment & 0x2000 != 0),
    )
}

/// IPv6 header and its extensions, then what it carries.
#[inline(never)]
pub fn ipv6(skb: Skb, work: &mut Work) -> Parsed {
    if !linear::<60>(skb) {
        return Parsed::Malformed;
    }
    let Some(header) = at::<Ipv6>(skb, ETH) else {
        return Parsed::Malformed;
    };
    // SAFETY: `at` checked the bounds, and no helper was called since.
    let header = unsafe { &*header };
    // SAFETY: the context is valid.
    let (available, gso) = unsafe { ((*skb).len - ETH, (*skb).gso_size != 0) };
    if header.version_flow[0] >> 4 != 6 || available < 40 {
        return Parsed::Malformed;
    }
    let length = match u32::from(u16::from_be(header.length_be)) {
        0 if gso => available - 40,
        length => length,
    };
    if length > available - 40 {
        return Parsed::Malformed;
    }
    work.key.src = Addr(header.src);
    work.key.dst = Addr(header.dst);
    work.ttl = u32::from(header.hop_limit);
    work.key.proto = header.next;
    work.l4 = ETH + 40;
    // An address that stands for one of IPv4 must not be taken for it.
    if work.key.src.is_v4() || work.key.dst.is_v4() {
        return Parsed::Malformed;
    }
    let Some((extensions, part)) = extensions(skb, work) else {
        return Parsed::Malformed;
    };
    if extensions > length {
        return Parsed::Malformed;
    }
    carried(skb, work, length - extensions, part)
}

/// Walks over the extension headers: their length, and what the fragment header among them says. None: cut or too many.
#[inline(always)]
fn extensions(skb: Skb, work: &mut Work) -> Option<(u32, Part)> {
    let mut part = Part::WHOLE;
    let mut bytes = 0;
    for _ in 0..EXTENSIONS {
        let next = work.key.proto;
        if next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != OPTIONS {
            return Some((bytes, part));
        }
        if part.later() {
            // What follows lies in the first fragment.
            return Some((bytes, part));
        }
        let header = at::<[u8; 8]>(skb, work.l4)?;
        // SAFETY: `at` checked the bounds of eight bytes.
        let [following, length, high, low, id @ ..] = unsafe { header.read() };
        let size = if next == FRAGMENT {
            let offset = u16::from_be_bytes([high, low]);
            part = Part::of(u32::from_ne_bytes(id), offset >> 3, offset & 1 != 0);
            8
        } else {
            (u32::from(length) + 1) * 8
        };
        bytes += size;
        if bytes > EXTENSION_BYTES {
            return None;
        }
        work.key.proto = following;
        work.l4 = ETH + 40 + bytes;
    }
    let next = work.key.proto;
    let ended = next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != OPTIONS;
    if ended || part.later() {
        Some((bytes, part))
    } else {
        None
    }
}

/// Which part of a datagram the packet is.
#[derive(Clone, Copy)]
struct Part {
    id: u32,
    /// In units of eight bytes.
    offset: u32,
    more: bool,
}

impl Part {
    /// All of it.
    const WHOLE: Self = Self {
        id: 0,
        offset: 0,
        more: false,
    };
    #[inline(always)]
    fn of(id: u32, offset: u16, more: bool) -> Self {
        Self {
            id,
            offset: u32::from(offset),
            more,
        }
    }
    /// Not the first: it has no ports.
    #[inline(always)]
    fn later(self) -> bool {
        self.offset != 0
    }
}

/// What the IP header carries: `length` bytes from `work.l4` on.
#[inline(always)]
fn carried(skb: Skb, work: &mut Work, length: u32, part: Part) -> Parsed {
    work.key.sport_be = 0;
    work.key.dport_be = 0;
    work.key.reserved = [0; 3];
    work.tcp = 0;
    work.icmp_type = 0;
    // Only what lies in one piece has a sum that can be followed over a change of its ports.
    work.length = if part.more { 0 } else { length };
    if part.later() {
        if !matches!(work.key.proto, TCP | UDP | SCTP | ICMP | ICMPV6) {
            work.kind = KIND_OTHER;
            return Parsed::Yes;
        }
        work.kind = KIND_FRAGMENT;
        return if fragment::recall(work, part.id) {
            Parsed::Yes
        } else {
            Parsed::Orphan
        };
    }
    let parsed = transport(skb, work, length);
    if part.more && work.kind == KIND_FLOW && work.dry == 0 {
        fragment::remember(work, part.id);
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
        SCTP => {
            // The common header and that of the first chunk.
            let Some(sctp) = at::<[u8; 16]>(skb, work.l4) else {
                return Parsed::Malformed;
            };
            if length < 16 {
                return Parsed::Malformed;
            }
            // SAFETY: `at` checked the bounds of 16 bytes.
            let (ports, chunk) = unsafe { (sctp.cast::<[u16; 2]>().read(), (*sctp)[12]) };
            [work.key.sport_be, work.key.dport_be] = ports;
            work.tcp = match chunk {
                INIT => SYN,
                ABORT | SHUTDOWN_COMPLETE => RST,
                _ => 0,
            };
            Parsed::Yes
        }
        ICMP | ICMPV6 => icmp(skb, work, length),
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
    let (kind, id) = unsafe { (u32::from((*header)[0]), header.cast::<[u16; 4]>().read()[2]) };
    let v6 = work.key.proto == ICMPV6;
    let echo = match kind {
        8 if !v6 => Some(ECHO_REQUEST),
        0 if !v6 => Some(ECHO_REPLY),
        128 if v6 => Some(ECHO_REQUEST),
        129 if v6 => Some(ECHO_REPLY),
        _ => None,
    };
    if let Some(kind) = echo {
        work.icmp_type = kind;
        work.key.sport_be = id;
        work.key.dport_be = id;
        return Parsed::Yes;
    }
    let error = if v6 {
        matches!(kind, 1..=4)
    } else {
        matches!(kind, 3 | 11 | 12)
    };
    if !error {
        // A type that is neither: not to be mistaken for an echo.
        work.icmp_type = 255;
        work.kind = KIND_OTHER;
        return Parsed::Yes;
    }
    work.kind = KIND_ERROR;
    work.quote_l3 = work.l4 + 8;
    if v6 {
        quote_v6(skb, work)
    } else {
        quote_v4(skb, work)
    }
}

/// Makes the quoted packet's first `wanted` bytes readable.
#[inline(always)]
fn quote_linear<const N: usize>(skb: Skb, work: &Work) -> bool {
    if at::<[u8; N]>(skb, work.quote_l3).is_some() {
        return true;
    }
    let wanted = work.quote_l3 + N as u32;
    // SAFETY: the context is valid.
    let length = unsafe { (*skb).len };
    length >= wanted && pull(skb, wanted)
}

/// The packet that an ICMP error is about: its header and the first eight bytes of what it carried.
#[inline(always)]
fn quote_v4(skb: Skb, work: &mut Work) -> Parsed {
    if !quote_linear::<28>(skb, work) {
        return Parsed::Malformed;
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
    work.quote_l4 = work.quote_l3 + ihl;
    quote_ports(skb, work, u16::from_be(header.fragment_be) & 0x1fff != 0)
}

/// Likewise; of the extension headers only a fragment header is looked through.
#[inline(always)]
fn quote_v6(skb: Skb, work: &mut Work) -> Parsed {
    if !quote_linear::<48>(skb, work) {
        return Parsed::Malformed;
    }
    let Some(header) = at::<Ipv6>(skb, work.quote_l3) else {
        return Parsed::Malformed;
    };
    // SAFETY: `at` checked the bounds, and no helper was called since.
    let header = unsafe { &*header };
    if header.version_flow[0] >> 4 != 6 {
        return Parsed::Malformed;
    }
    work.quote.src = Addr(header.src);
    work.quote.dst = Addr(header.dst);
    work.quote.proto = header.next;
    work.quote_l4 = work.quote_l3 + 40;
    let mut later = false;
    if header.next == FRAGMENT {
        let Some(fragment) = at::<[u8; 8]>(skb, work.quote_l4) else {
            return Parsed::Malformed;
        };
        // SAFETY: `at` checked the bounds.
        let [next, _, high, low, ..] = unsafe { fragment.read() };
        work.quote.proto = next;
        later = u16::from_be_bytes([high, low]) >> 3 != 0;
        work.quote_l4 += 8;
    }
    quote_ports(skb, work, later)
}

#[inline(always)]
fn quote_ports(skb: Skb, work: &mut Work, later: bool) -> Parsed {
    work.quote.reserved = [0; 3];
    let ports = at::<[u16; 4]>(skb, work.quote_l4);
    let (false, Some(ports)) = (later, ports) else {
        // It quotes a fragment without ports, or too little: nothing tells which flow it was.
        work.kind = KIND_OTHER;
        return Parsed::Yes;
    };
    // SAFETY: `at` checked the bounds.
    let [first, second, third, _] = unsafe { ports.read() };
    (work.quote.sport_be, work.quote.dport_be) = if super::is_icmp(work.quote.proto) {
        (third, third)
    } else {
        (first, second)
    };
    Parsed::Yes
}
