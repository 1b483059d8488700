//! Door: rtnetlink, by plain sockets. A socket belongs to the namespace it was opened in, for ever, so one process
//! talks to the node's and the pod's side by side without ever being in the wrong one.

pub mod link;
pub mod message;
pub mod observe;
mod socket;

pub use socket::{Netlink, Reply, Request};

/// Protocol number of every route this plugin makes: how they are told from others'.
pub const ROUTE_PROTOCOL: u8 = 107;
