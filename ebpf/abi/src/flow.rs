//! Connection tracking: one entry per connection holds both legs; a stub in the reply direction points to it.

use crate::Addr;

/// A tuple as a packet shows it. ICMP echo: the identifier stands in both ports.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport_be: u16,
    /// Destination port.
    pub dport_be: u16,
    /// IPPROTO_*.
    pub proto: u8,
    /// Reserved, zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The tuple of the answer.
    #[inline(always)]
    pub const fn reverse(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport_be: self.dport_be,
            dport_be: self.sport_be,
            proto: self.proto,
            reserved: [0; 3],
        }
    }
}

/// Value of the `flow` map (key: [`FlowKey`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// Entry (key = K, what the client sent): T, the tuple after translation.
    /// Stub (key = reverse of T): K, so that the entry is one lookup away and the answer becomes reverse(K).
    pub other: FlowKey,
    /// Last packet, coarse monotonic seconds (entries only).
    pub last_seen: u32,
    /// `FLOW_*`.
    pub flags: u32,
    /// Generation of the Service when the endpoint was chosen.
    pub generation: u32,
    /// Epoch of the local endpoint chosen.
    pub epoch: u32,
    /// Service the flow belongs to; 0 = none (SNAT, collision remap).
    pub service: u32,
    /// Slot in the `flow_ring`.
    pub slot: u32,
}
const _: () = assert!(size_of::<Flow>() == 64);

/// This is the reply-direction stub of an entry.
pub const FLOW_STUB: u32 = 1 << 0;
/// FIN seen from the client.
pub const FLOW_FIN_CLIENT: u32 = 1 << 1;
/// FIN seen from the server.
pub const FLOW_FIN_SERVER: u32 = 1 << 2;
/// RST seen in either direction.
pub const FLOW_RST: u32 = 1 << 3;
/// An answer was seen: established.
pub const FLOW_REPLIED: u32 = 1 << 4;
/// The source address or port was translated as well.
pub const FLOW_SNAT: u32 = 1 << 5;

/// Key of the `fragment` map: what all fragments of a datagram share.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// IP identification.
    pub id: u32,
    /// IPPROTO_*.
    pub proto: u32,
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of the `fragment` map: the ports, written by the first fragment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentPorts {
    /// Source port.
    pub sport_be: u16,
    /// Destination port.
    pub dport_be: u16,
}
const _: () = assert!(size_of::<FragmentPorts>() == 4);
