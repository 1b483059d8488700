//! From a new tuple to bytes: addresses, ports, TTL and every checksum they are part of.
//!
//! Order: packet pointers die with the first checksum helper, so everything is written in place first and the
//! helpers come last.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_csum_update, bpf_get_prandom_u32, bpf_l4_csum_replace};
use keelson_abi::{Addr, FlowKey};

use crate::crc32c;
use crate::packet::{
    DF_BE, ETH, ICMP, ICMPV6, Ipv4, Ipv6, KIND_ERROR, KIND_FLOW, KIND_FRAGMENT, SCTP, Skb, TCP, UDP, Work,
    at, is_icmp,
};

/// Sum of what changed, in the one's complement arithmetic of Internet checksums.
#[derive(Clone, Copy)]
struct Difference(u64);

impl Difference {
    #[inline(always)]
    fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }
    #[inline(always)]
    fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }
    /// Of an address; the words that only say "IPv4" are the same in both.
    #[inline(always)]
    fn address(self, old: &Addr, new: &Addr) -> Self {
        let last = self.word(old.0[3], new.0[3]);
        if new.is_v4() {
            return last;
        }
        last.word(old.0[0], new.0[0])
            .word(old.0[1], new.0[1])
            .word(old.0[2], new.0[2])
    }
    /// As the checksum helpers take it.
    #[inline(always)]
    fn fold32(self) -> u64 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        (once & 0xffff_ffff) + (once >> 32)
    }
    /// The checksum after the change.
    #[inline(always)]
    fn apply(self, checksum: u16) -> u16 {
        let mut sum = self.fold32() + u64::from(!checksum);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }
}

/// Both ports as one word, as they stand in the packet.
#[inline(always)]
fn ports(key: &FlowKey) -> u32 {
    u32::from(key.sport_be) | u32::from(key.dport_be) << 16
}

/// Makes the packet show `work.to` (an ICMP error also: quote `work.quote_to`); `hop`: it is forwarded, so its TTL
/// goes down by one. False: the packet is to be dropped, it may be half written.
#[inline(never)]
pub fn rewrite(skb: Skb, work: &mut Work, hop: u32) -> bool {
    let v4 = work.key.dst.is_v4();
    if !(if v4 {
        header(skb, work, hop)
    } else {
        header_v6(skb, work, hop)
    }) {
        return false;
    }
    match work.kind {
        KIND_FLOW => match work.key.proto {
            TCP => transport(skb, work, 16, 0),
            UDP => transport(skb, work, 6, BPF_F_MARK_MANGLED_0 as u64),
            SCTP => sctp(skb, work),
            ICMP | ICMPV6 => echo(skb, work),
            _ => true,
        },
        KIND_ERROR if v4 => quote(skb, work),
        KIND_ERROR => quote_v6(skb, work),
        // Later fragments carry no header; protocols without ports are only translated where nothing depends on it.
        _ => true,
    }
}

/// Addresses, TTL, DF and the header's checksum.
#[inline(always)]
fn header(skb: Skb, work: &Work, hop: u32) -> bool {
    let Some(header) = at::<Ipv4>(skb, ETH) else {
        return false;
    };
    // SAFETY: `at` checked the bounds, and no helper is called while the reference lives.
    let header = unsafe { &mut *header };
    let (src, dst) = (work.to.src.v4_be(), work.to.dst.v4_be());
    let mut difference = Difference(0).word(header.src, src).word(header.dst, dst);
    header.src = src;
    header.dst = dst;
    if hop != 0 {
        // The TTL shares its half word with the protocol.
        let (old, new) = (
            u16::from(header.ttl) | u16::from(header.proto) << 8,
            u16::from(header.ttl.wrapping_sub(1)) | u16::from(header.proto) << 8,
        );
        difference = difference.half(old, new);
        header.ttl = header.ttl.wrapping_sub(1);
    }
    if work.clear_df != 0 && header.fragment_be & DF_BE != 0 {
        difference = difference.half(header.fragment_be, header.fragment_be & !DF_BE);
        header.fragment_be &= !DF_BE;
        // With DF set the sender needed no identification; fragments do.
        if header.id_be == 0 {
            // SAFETY: no preconditions.
            let id = unsafe { bpf_get_prandom_u32() } as u16;
            difference = difference.half(0, id);
            header.id_be = id;
        }
    }
    header.checksum = difference.apply(header.checksum);
    true
}

/// Addresses and hop limit; the header has no checksum.
#[inline(always)]
fn header_v6(skb: Skb, work: &Work, hop: u32) -> bool {
    let Some(header) = at::<Ipv6>(skb, ETH) else {
        return false;
    };
    // SAFETY: `at` checked the bounds, and no helper is called while the reference lives.
    let header = unsafe { &mut *header };
    let mut difference = Difference(0);
    if work.kind == KIND_FRAGMENT {
        // In all others the checksum behind the header makes up for the addresses.
        difference = difference
            .address(&work.key.src, &work.to.src)
            .address(&work.key.dst, &work.to.dst);
    }
    header.src = work.to.src.0;
    header.dst = work.to.dst.0;
    if hop != 0 {
        // The hop limit shares its half word with the next header.
        let next = u16::from(header.next);
        let hops = header.hop_limit.wrapping_sub(1);
        difference = difference.half(
            next | u16::from(header.hop_limit) << 8,
            next | u16::from(hops) << 8,
        );
        header.hop_limit = hops;
    }
    // Where the device has summed up the whole packet, its sum must go along: a wrong one has the packet dropped. Elsewhere there
    // is none, and the call says so.
    // SAFETY: the context is valid.
    unsafe { bpf_csum_update(skb, difference.fold32() as u32) };
    true
}

/// The flags of the checksum helper for a change of the packet's addresses.
#[inline(always)]
fn pseudo(work: &Work) -> u64 {
    if work.key.dst.is_v4() {
        BPF_F_PSEUDO_HDR as u64
    } else {
        BPF_F_PSEUDO_HDR as u64 | IPV6
    }
}

/// BPF_F_IPV6: no header checksum makes up for the change, so a sum over the whole packet stays as it is. Kernels before
/// 6.16 do not know the flag.
const IPV6: u64 = 1 << 7;

/// Ports of TCP and UDP, and the checksum at `checksum` bytes into the header.
///
/// Two calls, because of packets whose checksum is completed by the device: only the addresses' part may take effect
/// on those.
#[inline(always)]
fn transport(skb: Skb, work: &Work, checksum: u32, flags: u64) -> bool {
    let (old, new) = (ports(&work.key), ports(&work.to));
    if old != new {
        let Some(header) = at::<[u32; 2]>(skb, work.l4) else {
            return false;
        };
        // SAFETY: `at` checked the bounds.
        unsafe { (*header)[0] = new };
    }
    let offset = work.l4 + checksum;
    replace_addresses(skb, work, offset, flags)
        && (old == new || replace(skb, offset, Difference(0).word(old, new).fold32(), flags))
}

/// The addresses' part of a checksum that covers them.
#[inline(always)]
fn replace_addresses(skb: Skb, work: &Work, offset: u32, flags: u64) -> bool {
    let addresses = Difference(0)
        .address(&work.key.src, &work.to.src)
        .address(&work.key.dst, &work.to.dst)
        .fold32();
    // Equal sums need no call; all ones is the other zero.
    if addresses == 0 || addresses == 0xffff_ffff {
        return true;
    }
    let pseudo = pseudo(work);
    replace(skb, offset, addresses, pseudo | flags)
        || (pseudo & IPV6 != 0 && replace(skb, offset, addresses, (pseudo & !IPV6) | flags))
}

/// Ports of SCTP. Its checksum covers no address.
#[inline(always)]
fn sctp(skb: Skb, work: &Work) -> bool {
    let (old, new) = (ports(&work.key), ports(&work.to));
    if old == new {
        return true;
    }
    if work.length == 0 {
        // A fragment: the checksum covers what is elsewhere.
        return false;
    }
    let change = crc32c::change(old, new, work.length);
    let Some(header) = at::<[u32; 3]>(skb, work.l4) else {
        return false;
    };
    // SAFETY: `at` checked the bounds, and no helper is called while the pointer lives.
    unsafe {
        (*header)[0] = new;
        (*header)[2] ^= change;
    }
    true
}

/// The identifier of an echo; the checksum of ICMPv6 covers the addresses, too.
#[inline(always)]
fn echo(skb: Skb, work: &Work) -> bool {
    let (old, new) = (work.key.sport_be, work.to.sport_be);
    if old != new {
        let Some(header) = at::<[u16; 4]>(skb, work.l4) else {
            return false;
        };
        // SAFETY: `at` checked the bounds.
        unsafe { (*header)[2] = new };
    }
    let offset = work.l4 + 2;
    (work.key.proto == ICMP || replace_addresses(skb, work, offset, 0))
        && (old == new || replace(skb, offset, Difference(0).half(old, new).fold32(), 0))
}

/// The packet quoted by an ICMP error. Its addresses and its own header's checksum cancel out in the checksum of
/// the error, so that only the ports remain.
#[inline(always)]
fn quote(skb: Skb, work: &Work) -> bool {
    let Some(header) = at::<Ipv4>(skb, work.quote_l3) else {
        return false;
    };
    // SAFETY: `at` checked the bounds, and no helper is called while the reference lives.
    let header = unsafe { &mut *header };
    let (src, dst) = (work.quote_to.src.v4_be(), work.quote_to.dst.v4_be());
    let addresses = Difference(0).word(header.src, src).word(header.dst, dst);
    header.src = src;
    header.dst = dst;
    header.checksum = addresses.apply(header.checksum);
    let Some(ports) = quote_ports(skb, work) else {
        return false;
    };
    replace(skb, work.l4 + 2, ports.fold32(), 0)
}

/// Likewise; here nothing cancels out, and the error's own addresses are covered as well.
#[inline(always)]
fn quote_v6(skb: Skb, work: &Work) -> bool {
    let Some(header) = at::<Ipv6>(skb, work.quote_l3) else {
        return false;
    };
    // SAFETY: `at` checked the bounds, and no helper is called while the reference lives.
    let header = unsafe { &mut *header };
    header.src = work.quote_to.src.0;
    header.dst = work.quote_to.dst.0;
    let Some(ports) = quote_ports(skb, work) else {
        return false;
    };
    let difference = ports
        .address(&work.quote.src, &work.quote_to.src)
        .address(&work.quote.dst, &work.quote_to.dst);
    let offset = work.l4 + 2;
    replace_addresses(skb, work, offset, 0) && replace(skb, offset, difference.fold32(), 0)
}

/// Writes the quoted ports and returns what that changes.
#[inline(always)]
fn quote_ports(skb: Skb, work: &Work) -> Option<Difference> {
    let l4 = at::<[u16; 4]>(skb, work.quote_l4)?;
    // SAFETY: `at` checked the bounds, and no helper is called while the reference lives.
    let l4 = unsafe { &mut *l4 };
    Some(if is_icmp(work.quote.proto) {
        l4[2] = work.quote_to.sport_be;
        Difference(0).half(work.quote.sport_be, work.quote_to.sport_be)
    } else {
        l4[0] = work.quote_to.sport_be;
        l4[1] = work.quote_to.dport_be;
        Difference(0).word(ports(&work.quote), ports(&work.quote_to))
    })
}

#[inline(always)]
fn replace(skb: Skb, offset: u32, difference: u64, flags: u64) -> bool {
    // SAFETY: the context is valid; every pointer into the packet is derived anew after this call.
    unsafe { bpf_l4_csum_replace(skb, offset, 0, difference, flags) == 0 }
}

/// Writes both addresses of the Ethernet header.
#[inline(always)]
pub fn set_macs(skb: Skb, destination: [u8; 6], source: [u8; 6]) -> bool {
    let Some(header) = at::<[[u8; 6]; 2]>(skb, 0) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    unsafe {
        (*header)[0] = destination;
        (*header)[1] = source;
    }
    true
}
