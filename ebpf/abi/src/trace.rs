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
    /// A source that the Service's source ranges do not let in.
    SourceRange = 12,
    /// The endpoint of an established connection is gone, and the Service wants its clients told.
    EndpointGone = 13,
    /// The endpoints were exchanged while one was chosen, more than once.
    Exchanged = 14,
}
/// Number of drop reasons.
pub const DROP_REASONS: u32 = 15;

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

/// What a dry run decided, and why.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// Tuple that came in.
    pub key: FlowKey,
    /// Tuple that would go out.
    pub translated: FlowKey,
    /// The frontend asked, all zero = none.
    pub frontend: crate::FrontendKey,
    /// `TRACE_*`.
    pub verdict: u32,
    /// Device it would be sent to; 0 = the stack.
    pub ifindex: u32,
    /// Service of the frontend.
    pub service: u32,
    /// Its revision.
    pub revision: u32,
    /// `FRONTEND_*` of it.
    pub frontend_flags: u32,
    /// First slot of the set chosen from.
    pub first: u32,
    /// Slots in that set.
    pub candidates: u32,
    /// `CHOICE_*`.
    pub choice: u32,
    /// `MASQUERADE_*`.
    pub masquerade: u32,
    /// `SOURCE_*`.
    pub source: u32,
    /// [`DropReason`] + 1, or 0.
    pub drop_reason: u32,
}
const _: () = assert!(size_of::<Trace>() == 144);

/// No endpoint was chosen.
pub const CHOICE_NONE: u32 = 0;
/// Any of the candidates, at random.
pub const CHOICE_RANDOM: u32 = 1;
/// By the Maglev table.
pub const CHOICE_MAGLEV: u32 = 2;
/// The endpoint this client was given before.
pub const CHOICE_AFFINITY: u32 = 3;
/// The endpoint of the flow that the packet belongs to.
pub const CHOICE_FLOW: u32 = 4;
/// The pod behind a host port.
pub const CHOICE_HOST_PORT: u32 = 5;
/// Restored as the answer of a flow.
pub const CHOICE_ANSWER: u32 = 6;

/// The source stays.
pub const MASQUERADE_NONE: u32 = 0;
/// Everybody who asks a Service address is masqueraded.
pub const MASQUERADE_ALL: u32 = 1;
/// A Service address asked from outside the cluster.
pub const MASQUERADE_OUTSIDE: u32 = 2;
/// An external address with the Cluster policy.
pub const MASQUERADE_EXTERNAL: u32 = 3;
/// An external address with the Local policy, asked by the host.
pub const MASQUERADE_HOST: u32 = 4;
/// A pod that reaches itself.
pub const MASQUERADE_HAIRPIN: u32 = 5;
/// A source that means nothing beyond the host (127/8), or an endpoint that is the node itself.
pub const MASQUERADE_LOCAL: u32 = 6;
/// A pod that leaves for outside.
pub const MASQUERADE_POD: u32 = 7;

/// A pod of the cluster.
pub const SOURCE_POD: u32 = 1;
/// A process of the host.
pub const SOURCE_HOST: u32 = 2;
/// Somebody else.
pub const SOURCE_OUTSIDE: u32 = 3;

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
