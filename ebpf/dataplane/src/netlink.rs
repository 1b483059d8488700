//! rtnetlink by a plain socket: the devices, routes and filters that the node itself needs.

pub mod link;
pub mod route;
mod socket;
pub mod tc;
mod vxlan;

pub use socket::Netlink;
