//! Services: a frontend names a revision of contiguous backend slots.

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
    /// Slots 0..count; 0 = refuse.
    pub count: u32,
    /// Changes when endpoints were removed: UDP flows of older generations choose anew.
    pub generation: u32,
    /// `FRONTEND_*`.
    pub flags: u32,
    /// Session affinity timeout in seconds; 0 = none.
    pub affinity_seconds: u32,
}
const _: () = assert!(size_of::<Frontend>() == 24);

/// Drop instead of refusing when there is no backend (a Local policy with endpoints elsewhere).
pub const FRONTEND_DROP: u32 = 1 << 0;
/// NodePort, LoadBalancer or external address: masquerade towards endpoints on other nodes.
pub const FRONTEND_EXTERNAL: u32 = 1 << 1;

/// Key of the `backend` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct BackendKey {
    /// [`Frontend::service`].
    pub service: u32,
    /// [`Frontend::revision`].
    pub revision: u32,
    /// 0..[`Frontend::count`].
    pub slot: u32,
}
const _: () = assert!(size_of::<BackendKey>() == 12);

/// Value of the `backend` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    /// Endpoint address.
    pub addr: Addr,
    /// Endpoint port.
    pub port_be: u16,
    /// `BACKEND_*`.
    pub flags: u16,
}
const _: () = assert!(size_of::<Backend>() == 20);

/// The endpoint is one of this node's own addresses.
pub const BACKEND_NODE: u16 = 1;
