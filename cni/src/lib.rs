//! The CNI plugin as a library: attach, detach, check, collect garbage, give addresses.
//!
//! | where | what |
//! |---|---|
//! | [`verbs`] | one file per verb; [`loopback`] is the plugin of that name |
//! | [`args`], [`conf`], [`result`], [`error`], [`version`] | the protocol: values in, values out |
//! | [`key`], [`mac`], [`ipam`] | decisions: names, addresses |
//! | [`attach`], [`verify`], [`gc`] | a pod's link: made, compared, swept up |
//! | [`store`] | door: what this node has given to whom, on tmpfs |
//! | [`netlink`], [`netns`], [`node`], [`datapath`] | doors: links, namespaces, the node, the kernel programs |

pub mod args;
pub mod attach;
pub mod conf;
pub mod datapath;
pub mod error;
pub mod gc;
pub mod ipam;
pub mod key;
pub mod loopback;
pub mod mac;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod result;
pub mod store;
pub mod verbs;
pub mod verify;
pub mod version;
