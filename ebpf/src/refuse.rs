//! Refusing at once: TCP by an RST, everything else by ICMP port unreachable, built in place of the packet and sent
//! back where it came from, with the address that was asked as its source.

use aya_ebpf::bindings::{BPF_F_INGRESS, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_store_bytes,
};
use keelson_abi::{MARK_DONE, NodeConfig, PREFIX_NODE_ADDRESS, TRACE_REFUSE};

use crate::maps;
use crate::packet::{
    ACK, DF_BE, DROP, ETH, Hook, ICMP, ICMPV6, KIND_FLOW, RST, SCTP, Skb, TCP, UDP, Verdict, Work, at,
    is_loopback,
};
use crate::report::{drop_for, tell, trace};
use crate::rewrite::set_macs;

const LO: u32 = 1;
/// Where the transport header of an answer stands.
const L4_V4: u32 = ETH + 20;
const L4_V6: u32 = ETH + 40;
const L4: u32 = L4_V4;

/// Answers the packet with a refusal, or drops it where no answer may be given; `reason` is a `DropReason`.
#[inline(never)]
pub fn refuse(skb: Skb, work: &mut Work, _node: &NodeConfig, hook: Hook, reason: u32) -> Verdict {
    // Options and extensions would move the transport header, and with it where a device completes the checksum.
    let v4 = work.key.dst.is_v4();
    let plain = if v4 { ETH + 20 } else { ETH + 40 };
    let answerable = work.kind == KIND_FLOW && work.l4 == plain && work.tcp & RST == 0;
    if !answerable {
        return drop_for(skb, work, reason);
    }
    if work.dry != 0 {
        // SAFETY: the context is valid.
        return trace(work, TRACE_REFUSE, unsafe { (*skb).ifindex }, reason + 1, DROP);
    }
    tell(skb, work, reason);
    let built = match work.key.proto {
        TCP if v4 => reset::<L4_V4>(skb, work),
        TCP => reset::<L4_V6>(skb, work),
        UDP | SCTP | ICMP if v4 => unreachable(skb, work),
        UDP | SCTP | ICMPV6 if !v4 => unreachable_v6(skb, work),
        _ => false,
    };
    if built { send_back(skb, work, hook) } else { DROP }
}

/// Swaps the stations and sends the packet to where it came from.
#[inline(always)]
fn send_back(skb: Skb, work: &Work, hook: Hook) -> Verdict {
    let own = hook == Hook::HostIngress
        && (work.from_lo != 0
            || is_loopback(&work.key.dst)
            || maps::prefix_kind(&work.key.dst) == PREFIX_NODE_ADDRESS);
    // SAFETY: the context is valid; the mark is writable for classifiers.
    let ifindex = unsafe {
        (*skb).mark = if own { 0 } else { MARK_DONE };
        (*skb).ifindex
    };
    if own {
        // A local source is expected on lo only.
        if !set_macs(skb, [0; 6], [0; 6]) {
            return DROP;
        }
        // SAFETY: no preconditions.
        return unsafe { bpf_redirect(LO, u64::from(BPF_F_INGRESS)) as Verdict };
    }
    let Some(header) = at::<[[u8; 6]; 2]>(skb, 0) else {
        return DROP;
    };
    // SAFETY: `at` checked the bounds.
    unsafe {
        let [destination, source] = *header;
        *header = [source, destination];
    }
    // SAFETY: no preconditions.
    unsafe { bpf_redirect(ifindex, 0) as Verdict }
}

/// One's complement sum, folded to the value of a checksum field.
#[inline(always)]
fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum of words as they stand in the packet.
#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> u64 {
    let mut total = 0;
    for word in words {
        total += u64::from(*word);
    }
    total
}

/// A word of four bytes in packet order.
#[inline(always)]
fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// An IPv4 header from the address asked to the client.
#[inline(always)]
fn ip_header(work: &Work, length: u16, proto: u8) -> [u32; 5] {
    let [l0, l1] = length.to_be_bytes();
    let fragment = u32::from(DF_BE) << 16;
    let mut header = [
        word([0x45, 0, l0, l1]),
        fragment,
        word([64, proto, 0, 0]),
        work.key.dst.v4_be(),
        work.key.src.v4_be(),
    ];
    header[2] |= u32::from(!fold(sum(&header))) << 16;
    header
}

/// An IPv6 header from the address asked to the client; `length` without itself.
#[inline(always)]
fn ipv6_header(work: &Work, length: u16, next: u8) -> [u32; 10] {
    let [l0, l1] = length.to_be_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (work.key.dst.0, work.key.src.0);
    [
        word([0x60, 0, 0, 0]),
        word([l0, l1, next, 64]),
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ]
}

/// The sum over the pseudo-header of an answer: addresses, protocol, length of what the IP header carries.
#[inline(always)]
fn pseudo(work: &Work, proto: u8, length: u16) -> u64 {
    let [l0, l1] = length.to_be_bytes();
    let rest = u64::from(word([0, proto, 0, 0])) + u64::from(word([l0, l1, 0, 0]));
    if work.key.dst.is_v4() {
        return rest + u64::from(work.key.src.v4_be()) + u64::from(work.key.dst.v4_be());
    }
    rest + sum(&work.key.src.0) + sum(&work.key.dst.0)
}

/// Whether the device completes the transport checksum at `offset`: the helper leaves the field of such packets
/// alone. Otherwise the field is changed, so `before` must be written back where it matters.
#[inline(always)]
fn is_partial(skb: Skb, offset: u32, before: u16) -> bool {
    let mut after: u16 = 0;
    // SAFETY: the context is valid, the output has two bytes; pointers into the packet are derived anew.
    let read = unsafe {
        bpf_l4_csum_replace(skb, offset, 0, u64::from(1_u16.to_be()), 2);
        bpf_skb_load_bytes(skb.cast(), offset, core::ptr::from_mut(&mut after).cast(), 2)
    };
    read == 0 && before == after
}

#[inline(always)]
fn store<T>(skb: Skb, offset: u32, value: &T) -> bool {
    // SAFETY: the context is valid, the length is the value's.
    unsafe {
        bpf_skb_store_bytes(
            skb,
            offset,
            core::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
            0,
        ) == 0
    }
}

/// An RST for the SYN.
#[inline(always)]
fn reset<const L4: u32>(skb: Skb, work: &Work) -> bool {
    let Some(tcp) = at::<[u32; 5]>(skb, L4) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let [_, sequence, acknowledged, _, last] = unsafe { *tcp };
    let before = last as u16;
    let partial = is_partial(skb, L4 + 16, before);
    // SAFETY: the context is valid.
    if unsafe { bpf_skb_change_tail(skb, L4 + 20, 0) } != 0 {
        return false;
    }
    // To a SYN: acknowledges it; to anything else: has the sequence the sender waits for.
    let (sequence, acknowledged, flags) = if work.tcp & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        (0, u32::from_be(sequence).wrapping_add(1).to_be(), RST | ACK)
    };
    let ports = u32::from(work.key.dport_be) | u32::from(work.key.sport_be) << 16;
    let mut tcp = [ports, sequence, acknowledged, word([0x50, flags as u8, 0, 0]), 0];
    let pseudo = pseudo(work, TCP, 20);
    tcp[4] = u32::from(if partial {
        fold(pseudo)
    } else {
        !fold(pseudo + sum(&tcp))
    });
    let written = if L4 == L4_V4 {
        store(skb, ETH, &ip_header(work, 40, TCP))
    } else {
        store(skb, ETH, &ipv6_header(work, 20, TCP))
    };
    written && store(skb, L4, &tcp)
}

/// ICMP port unreachable, quoting the header and eight bytes.
#[inline(always)]
fn unreachable(skb: Skb, work: &Work) -> bool {
    let Some(header) = at::<[u32; 7]>(skb, ETH) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let mut quote = unsafe { *header };
    let before = (quote[6] >> 16) as u16;
    // UDP without a checksum has none to complete.
    let check = work.key.proto == UDP && before != 0;
    let partial = check && is_partial(skb, L4 + 6, before);
    // SAFETY: the context is valid; pointers are derived anew.
    unsafe {
        if bpf_skb_change_tail(skb, L4 + 8, 0) != 0 || bpf_skb_adjust_room(skb, 28, BPF_ADJ_ROOM_MAC, 0) != 0
        {
            return false;
        }
    }
    // What is left of the datagram once a device has completed its checksum: the sum over the eight bytes quoted.
    let after = match !fold(u64::from(quote[5]) + u64::from(quote[6])) {
        0 => 0xffff,
        after => after,
    };
    let stored = quote[6];
    if partial {
        quote[6] = (quote[6] & 0xffff) | u32::from(after) << 16;
    }
    let kind = word([3, 3, 0, 0]);
    let checksum = !fold(u64::from(kind) + sum(&quote));
    let icmp = [kind | u32::from(checksum) << 16, 0];
    quote[6] = stored;
    store(skb, ETH, &ip_header(work, 56, ICMP)) && store(skb, L4, &icmp) && store(skb, L4 + 8, &quote)
}

/// ICMPv6 port unreachable, quoting the header and eight bytes. Its checksum covers the addresses.
#[inline(never)]
fn unreachable_v6(skb: Skb, work: &Work) -> bool {
    let Some(header) = at::<[u32; 12]>(skb, ETH) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let mut quote = unsafe { *header };
    let before = (quote[11] >> 16) as u16;
    // An echo's checksum is never left to a device.
    let partial = work.key.proto == UDP && before != 0 && is_partial(skb, L4_V6 + 6, before);
    // SAFETY: the context is valid; pointers are derived anew.
    unsafe {
        if bpf_skb_change_tail(skb, L4_V6 + 8, 0) != 0
            || bpf_skb_adjust_room(skb, 48, BPF_ADJ_ROOM_MAC, 0) != 0
        {
            return false;
        }
    }
    // As for IPv4: what the eight bytes quoted will be once a device has completed the checksum.
    let after = match !fold(u64::from(quote[10]) + u64::from(quote[11])) {
        0 => 0xffff,
        after => after,
    };
    let stored = quote[11];
    if partial {
        quote[11] = (quote[11] & 0xffff) | u32::from(after) << 16;
    }
    let kind = word([1, 4, 0, 0]);
    let checksum = !fold(pseudo(work, ICMPV6, 56) + u64::from(kind) + sum(&quote));
    let icmp = [kind | u32::from(checksum) << 16, 0];
    quote[11] = stored;
    store(skb, ETH, &ipv6_header(work, 56, ICMPV6))
        && store(skb, L4_V6, &icmp)
        && store(skb, L4_V6 + 8, &quote)
}
