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
    /// Last packet, coarse monotonic seconds (of a stub: when it was made).
    pub last_seen: u32,
    /// `FLOW_*`.
    pub flags: u32,
    /// Generation of the Service when the endpoint was chosen.
    pub generation: u32,
    /// Epoch of the local endpoint chosen; 0 = the server is not a local pod.
    pub epoch: u32,
    /// Service the flow belongs to; 0 = none (SNAT, host port, collision remap).
    pub service: u32,
    /// Slot in the `flow_ring`.
    pub slot: u32,
    /// Epoch of the local pod that is the client; 0 = the client is not a local pod.
    pub client_epoch: u32,
    /// Device that answers to a client outside leave by.
    pub client_ifindex: u32,
    /// Device that packets to a server outside or on another node leave by.
    pub server_ifindex: u32,
    /// What the flow's [`RingSlot::claim`] says in its lower half: two flows of one slot, one after the other, differ in it.
    pub claim: u32,
}
const _: () = assert!(size_of::<Flow>() == 80);

/// Value of the `flow_ring` map: where ageing finds a flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingSlot {
    /// Key of the flow's entry, written by whoever has claimed the slot.
    pub key: FlowKey,
    /// 0 = free, else the coarse monotonic second of the claim in the upper half and [`Flow::claim`] in the lower. Changes by
    /// compare-and-swap only, so a slot has one owner.
    pub claim: u64,
}
const _: () = assert!(size_of::<RingSlot>() == 48);

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
/// The server is one of the node's own addresses.
pub const FLOW_TO_NODE: u32 = 1 << 6;
/// The server is a local pod.
pub const FLOW_TO_LOCAL: u32 = 1 << 7;
/// A host process asked one of the node's own addresses (or 127/8): its packets came by lo, and so do the answers.
pub const FLOW_BY_LO: u32 = 1 << 8;
/// The answer of this flow is, after its translation, the answer of another flow (a pod's Service flow to an
/// endpoint outside, whose source was translated on the way out).
pub const FLOW_CHAINED: u32 = 1 << 9;
/// The Service's serving endpoints are in the `member` map: a flow of an older generation goes on while its endpoint serves.
pub const FLOW_MEMBERS: u32 = 1 << 10;
/// Ended when its endpoint is gone: see [`crate::FRONTEND_RESET_GONE`].
pub const FLOW_RESET_GONE: u32 = 1 << 11;
/// Where the client's packets are translated: one of `FLOW_CLIENT_*`.
pub const FLOW_CLIENT: u32 = 7 << 12;
/// A local pod: pod block, ingress.
pub const FLOW_CLIENT_POD: u32 = 1 << 12;
/// Outside or another node: uplink, ingress.
pub const FLOW_CLIENT_OUTSIDE: u32 = 2 << 12;
/// A process of the host that asked a Service: `keelson1`, ingress.
pub const FLOW_CLIENT_HOST: u32 = 3 << 12;
/// A local pod or a process of the host, translated where the packet leaves: egress of an uplink or a pod link.
pub const FLOW_CLIENT_EGRESS: u32 = 4 << 12;

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
    /// When, coarse monotonic seconds: identifications are used again.
    pub seen: u32,
}
const _: () = assert!(size_of::<FragmentPorts>() == 8);
