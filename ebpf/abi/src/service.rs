//! Services: a frontend names a revision of contiguous backend slots.
//!
//! One Service port has one id and one set of slots, whatever addresses it is asked under: the endpoints that a Cluster
//! policy may use come first, those of a Local policy behind them.

use crate::Addr;

/// Key of the `frontend` map: what a client asks for. NodePorts stand under every node address they serve.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct FrontendKey {
    /// Service, external or node address.
    pub addr: Addr,
    /// Port; 0 = any port of a known Service address: the entry that refuses undefined ports.
    pub port_be: u16,
    /// IPPROTO_*; 0 together with port 0.
    pub proto: u8,
    /// Reserved, zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<FrontendKey>() == 20);

/// Value of the `frontend` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frontend {
    /// Service port id, stable while the agent knows it; never 0.
    pub service: u32,
    /// Which set of backend slots is live.
    pub revision: u32,
    /// Changes when endpoints stopped serving: flows of older generations are looked at anew.
    pub generation: u32,
    /// Slots 0..count: the endpoints of the Cluster policy; none = refuse.
    pub count: u32,
    /// Slots count..count + local_count: the endpoints of the Local policy; none = refuse, or drop with [`FRONTEND_DROP`].
    pub local_count: u32,
    /// `FRONTEND_*`.
    pub flags: u32,
    /// Session affinity timeout in seconds; 0 = none.
    pub affinity_seconds: u32,
    /// Entries of the Service's Maglev table over the Cluster slots; 0 = endpoints are chosen at random.
    pub maglev: u32,
}
const _: () = assert!(size_of::<Frontend>() == 32);

/// Drop instead of refusing when the Local policy leaves no endpoint (some endpoint exists elsewhere).
pub const FRONTEND_DROP: u32 = 1 << 0;
/// NodePort, LoadBalancer or external address: masqueraded, unless its policy is Local.
pub const FRONTEND_EXTERNAL: u32 = 1 << 1;
/// The policy is Local. On a Service address everybody gets the Local slots; on an external address clients outside
/// do, while pods and processes of the host get the Cluster slots.
pub const FRONTEND_LOCAL: u32 = 1 << 2;
/// Only sources in the Service's `source_range` entries are let in; all others are dropped.
pub const FRONTEND_RANGES: u32 = 1 << 3;
/// The `member` map holds every serving endpoint of the Service: UDP, affinity, or [`FRONTEND_RESET_GONE`].
pub const FRONTEND_MEMBERS: u32 = 1 << 4;
/// Established connections to an endpoint that is gone are reset (TCP) or refused (others) instead of going on.
pub const FRONTEND_RESET_GONE: u32 = 1 << 5;
/// A NodePort: also asked as 127.0.0.1 by processes of the host.
pub const FRONTEND_NODE_PORT: u32 = 1 << 6;

/// Slots per entry of the `backend` map.
pub const BACKEND_BLOCK: u32 = 4;

/// Key of the `backend` map: one block of slots.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct BackendKey {
    /// [`Frontend::service`].
    pub service: u32,
    /// [`Frontend::revision`].
    pub revision: u32,
    /// Slot / [`BACKEND_BLOCK`].
    pub block: u32,
}
const _: () = assert!(size_of::<BackendKey>() == 12);

/// One endpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Backend {
    /// Endpoint address.
    pub addr: Addr,
    /// Endpoint port.
    pub port_be: u16,
    /// `BACKEND_*`.
    pub flags: u16,
}
const _: () = assert!(size_of::<Backend>() == 20);

/// Value of the `backend` map; slots behind the last are zero.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendBlock {
    /// The endpoints.
    pub slots: [Backend; BACKEND_BLOCK as usize],
}
const _: () = assert!(size_of::<BackendBlock>() == 80);

/// The endpoint is one of this node's own addresses.
pub const BACKEND_NODE: u16 = 1;

/// Table entries per entry of the `maglev` map.
pub const MAGLEV_BLOCK: u32 = 64;

/// Key of the `maglev` map: one block of a Service's table.
pub type MaglevKey = BackendKey;

/// Value of the `maglev` map: slots of the revision.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaglevBlock {
    /// Slots by table position.
    pub slots: [u16; MAGLEV_BLOCK as usize],
}
const _: () = assert!(size_of::<MaglevBlock>() == 128);

/// Key of the `member` map: an endpoint of a Service port that serves.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct MemberKey {
    /// Endpoint address.
    pub addr: Addr,
    /// [`Frontend::service`].
    pub service: u32,
    /// Endpoint port.
    pub port_be: u16,
    /// Reserved, zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<MemberKey>() == 24);

/// Value of the `member` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Member {
    /// `MEMBER_*`; an endpoint that serves but is in neither set has none.
    pub flags: u16,
    /// `BACKEND_*`.
    pub backend_flags: u16,
}
const _: () = assert!(size_of::<Member>() == 4);

/// New clients of the Cluster policy may be given this endpoint.
pub const MEMBER_CLUSTER: u16 = 1;
/// New clients of the Local policy may be given this endpoint.
pub const MEMBER_LOCAL: u16 = 2;
/// The endpoint serves no more and is about to be removed: to be taken as an entry that is not there. It stands until the frontends'
/// new generation is written, so that no flow is confirmed in between.
pub const MEMBER_GONE: u16 = 4;

/// Key of the `affinity` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct AffinityKey {
    /// The client.
    pub client: Addr,
    /// [`Frontend::service`].
    pub service: u32,
    /// Reserved, zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 24);

/// Value of the `affinity` map: the endpoint that the client was given last.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Affinity {
    /// Endpoint address.
    pub addr: Addr,
    /// Endpoint port.
    pub port_be: u16,
    /// Reserved, zero.
    pub reserved: u16,
    /// When the client last began a flow, coarse monotonic seconds.
    pub seen: u32,
}
const _: () = assert!(size_of::<Affinity>() == 24);

/// Key of the `source_range` LPM map: `length` counts the 32 bits of the Service and then those of the address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct SourceRangeKey {
    /// 32 + 0–128.
    pub length: u32,
    /// [`Frontend::service`], in network byte order as the trie walks it.
    pub service_be: u32,
    /// The network's address.
    pub addr: Addr,
}
const _: () = assert!(size_of::<SourceRangeKey>() == 24);
