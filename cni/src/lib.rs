//! The CNI plugin as a library: attach, detach, check, collect garbage, give addresses.
//!
//! | where | what |
//! |---|---|
//! | [`args`], [`conf`], [`result`], [`error`], [`version`] | the protocol: values in, values out |
//! | [`key`], [`mac`], [`ipam`] | decisions: names, addresses |
//! | [`store`] | door: what this node has given to whom, on tmpfs |

pub mod args;
pub mod conf;
pub mod error;
pub mod ipam;
pub mod key;
pub mod mac;
pub mod result;
pub mod store;
pub mod version;
