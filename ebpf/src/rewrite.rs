//! From a new tuple to bytes: addresses, ports, TTL and every checksum they are part of.
//!
//! Order: packet pointers die with the first checksum helper, so everything is written in place first and the
//! helpers come last.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_l4_csum_replace};
use keelson_abi::FlowKey;

use crate::packet::{DF_BE, ETH, ICMP, Ipv4, KIND_ERROR, KIND_FLOW, Skb, TCP, UDP, Work, at};

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
    if !header(skb, work, hop) {
        return false;
    }
    match work.kind {
        KIND_FLOW => match work.key.proto {
            TCP => transport(skb, work, 16, BPF_F_PSEUDO_HDR as u64, 0),
            UDP => {
                let mangled = BPF_F_MARK_MANGLED_0 as u64;
                transport(skb, work, 6, BPF_F_PSEUDO_HDR as u64 | mangled, mangled)
            }
            ICMP => echo(skb, work),
            _ => true,
        },
        KIND_ERROR => quote(skb, work),
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

/// Ports of TCP and UDP, and the checksum at `checksum` bytes into the header.
///
/// Two calls, because of packets whose checksum is completed by the device: only the addresses' part may take effect
/// on those.
#[inline(always)]
fn transport(skb: Skb, work: &Work, checksum: u32, pseudo: u64, plain: u64) -> bool {
    let (old, new) = (ports(&work.key), ports(&work.to));
    if old != new {
        let Some(header) = at::<[u32; 2]>(skb, work.l4) else {
            return false;
        };
        // SAFETY: `at` checked the bounds.
        unsafe { (*header)[0] = new };
    }
    let addresses = Difference(0)
        .word(work.key.src.v4_be(), work.to.src.v4_be())
        .word(work.key.dst.v4_be(), work.to.dst.v4_be())
        .fold32();
    let offset = work.l4 + checksum;
    // Equal sums need no call; all ones is the other zero.
    if addresses != 0 && addresses != 0xffff_ffff && !replace(skb, offset, addresses, pseudo) {
        return false;
    }
    old == new || replace(skb, offset, Difference(0).word(old, new).fold32(), plain)
}

/// The identifier of an echo.
#[inline(always)]
fn echo(skb: Skb, work: &Work) -> bool {
    let (old, new) = (work.key.sport_be, work.to.sport_be);
    if old == new {
        return true;
    }
    let Some(header) = at::<[u16; 4]>(skb, work.l4) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    unsafe { (*header)[2] = new };
    replace(skb, work.l4 + 2, Difference(0).half(old, new).fold32(), 0)
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
    let Some(l4) = at::<[u16; 4]>(skb, work.quote_l4) else {
        return false;
    };
    // SAFETY: as above.
    let l4 = unsafe { &mut *l4 };
    let difference = if work.quote.proto == ICMP {
        l4[2] = work.quote_to.sport_be;
        Difference(0).half(work.quote.sport_be, work.quote_to.sport_be)
    } else {
        l4[0] = work.quote_to.sport_be;
        l4[1] = work.quote_to.dport_be;
        Difference(0).word(ports(&work.quote), ports(&work.quote_to))
    };
    replace(skb, work.l4 + 2, difference.fold32(), 0)
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
