//! What the kernel programs and user space agree on: map keys and values, flags, limits.
//!
//! Every type is `repr(C)`, made of integers only, without implicit padding, and its size is asserted.
//! Addresses of both families have one shape: 16 bytes, IPv4 as `::ffff:a.b.c.d`. Addresses and ports are in
//! network byte order wherever a field says `be`; everything else is in host byte order.
#![no_std]
#![deny(unsafe_code)]

mod addr;
mod endpoint;
mod flow;
mod hash;
mod limits;
mod names;
mod node;
mod service;
mod trace;

pub use addr::*;
pub use endpoint::*;
pub use flow::*;
pub use hash::*;
pub use limits::*;
pub use names::*;
pub use node::*;
pub use service::*;
pub use trace::*;

/// Marks types as plain data for the loader (user space only).
#[cfg(feature = "user")]
macro_rules! pod {
    ($($t:ty),* $(,)?) => { $(
        // SAFETY: repr(C), integers only, no padding (sizes are asserted beside each type).
        #[allow(unsafe_code, reason = "the loader's marker trait is unsafe to implement")]
        unsafe impl aya::Pod for $t {}
    )* };
}
#[cfg(feature = "user")]
pod!(
    Addr,
    Endpoint,
    FlowKey,
    Flow,
    RingSlot,
    HostPortKey,
    HostPort,
    NodeConfig,
    PrefixKey,
    Prefix,
    FrontendKey,
    Frontend,
    BackendKey,
    Backend,
    BackendBlock,
    MaglevBlock,
    MemberKey,
    Member,
    AffinityKey,
    Affinity,
    SourceRangeKey,
    FragmentKey,
    FragmentPorts,
    DropEvent,
    Trace,
);
