//! Connections of the kernel's own tracker (nf_conntrack), as another service proxy has made them and as Keelson leaves them
//! to one.
//!
//! | room | job |
//! |---|---|
//! | `entry` | pure: one connection as the kernel's tracker knows it |
//! | `codec` | pure: entries as ctnetlink's attributes |
//! | `import` | pure: an entry → the flow that carries the connection on |
//! | `export` | pure: a flow → the entry that carries the connection on |
//! | `socket` | the door: list, make and delete entries |
//!
//! The codec is our own: the library of this family knows neither the attributes of address translation nor zones.

pub(crate) mod codec;
pub(crate) mod entry;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod socket;
