//! What the programs report: drops with reasons, counters, and the outcome of a dry run.

use crate::FlowKey;

/// Why a packet was dropped or refused; index into the `counter` map from [`COUNTER_DROPS`] on.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Shorter than its own headers say.
    Malformed = 0,
    /// A pod sent from an address that is not its own.
    SourceCheck = 1,
    /// TCP without a connection, to a Service, SNAT port or outside.
    NoConnection = 2,
    /// The Service has no endpoint: refused.
    NoEndpoint = 3,
    /// The Service has no such port: refused.
    UnknownPort = 4,
    /// The Service's policy leaves no endpoint here.
    PolicyLocal = 5,
    /// The flow table is full.
    FlowTableFull = 6,
    /// No free source port for a translation.
    NoPort = 7,
    /// A fragment whose first part was not seen.
    Fragment = 8,
    /// A rewrite failed.
    Rewrite = 9,
    /// A protocol whose source cannot be translated left for outside.
    Protocol = 10,
    /// An address of the Service or pod networks that nobody has.
    UnknownAddress = 11,
}
/// Number of drop reasons.
pub const DROP_REASONS: u32 = 12;

/// Counters below the drops.
pub const COUNTER_FLOW_NEW: u32 = 0;
/// Flows deleted by age.
pub const COUNTER_FLOW_EXPIRED: u32 = 1;
/// Flows deleted because a new connection took their place.
pub const COUNTER_FLOW_REPLACED: u32 = 2;
/// First index of the drop reasons.
pub const COUNTER_DROPS: u32 = 16;
/// Size of the `counter` map.
pub const COUNTERS: u32 = COUNTER_DROPS + DROP_REASONS;

/// Record of the `drop` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DropEvent {
    /// Tuple as far as it was read.
    pub key: FlowKey,
    /// [`DropReason`].
    pub reason: u32,
    /// Arrival device.
    pub ifindex: u32,
}
const _: () = assert!(size_of::<DropEvent>() == 48);

/// What a dry run decided.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// Tuple that came in.
    pub key: FlowKey,
    /// Tuple that would go out.
    pub translated: FlowKey,
    /// `TRACE_*`.
    pub verdict: u32,
    /// Device it would be sent to; 0 = the stack.
    pub ifindex: u32,
    /// Service chosen.
    pub service: u32,
    /// [`DropReason`] + 1, or 0.
    pub drop_reason: u32,
}
const _: () = assert!(size_of::<Trace>() == 96);

/// Passed to the stack.
pub const TRACE_PASS: u32 = 1;
/// Delivered to a local pod.
pub const TRACE_PEER: u32 = 2;
/// Sent by an uplink.
pub const TRACE_NEIGH: u32 = 3;
/// Injected for a host socket.
pub const TRACE_INJECT: u32 = 4;
/// Refused with an answer.
pub const TRACE_REFUSE: u32 = 5;
/// Dropped.
pub const TRACE_DROP: u32 = 6;
