//! Local pods: address → how to reach it. Written by the cni library only. Part of the attach contract.

/// Value of the `endpoint` map (key: [`crate::Addr`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Endpoint {
    /// Host-side device of the pod's link.
    pub ifindex: u32,
    /// `ENDPOINT_*`.
    pub flags: u32,
    /// SO_NETNS_COOKIE of the pod's network namespace.
    pub netns_cookie: u64,
    /// Changes whenever the address gets a new owner: flows of the old owner are not inherited. Never 0, which
    /// stands for "not a local pod" in a flow.
    pub epoch: u32,
    /// The pod's namespace id relative to the node's namespace (`link-netnsid`), for socket lookups; -1 unknown.
    pub netnsid: i32,
    /// MAC of the pod's own end.
    pub pod_mac: [u8; 6],
    /// MAC of the host's end.
    pub host_mac: [u8; 6],
    /// Reserved, zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Endpoint>() == 40);

/// Deliver by the link's own queue instead of `redirect_peer` (bandwidth shaping).
pub const ENDPOINT_NO_PEER: u32 = 1;

/// Key of the `hostport` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HostPortKey {
    /// Host address asked; all zero = every address of the node.
    pub addr: crate::Addr,
    /// Host port.
    pub port_be: u16,
    /// IPPROTO_*.
    pub proto: u8,
    /// Reserved, zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<HostPortKey>() == 20);

/// Value of the `hostport` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostPort {
    /// The pod.
    pub addr: crate::Addr,
    /// Its port.
    pub port_be: u16,
    /// Reserved, zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<HostPort>() == 20);
