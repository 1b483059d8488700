//! Doors: the only code that touches one outside world each.

pub mod cgroups;
pub mod conflist;
pub mod containerd;
pub mod cri;
pub mod dataplane;

pub mod machine;
pub mod manifests;
pub mod netlink;
pub mod probes;
pub mod programs;
pub mod store;
pub mod streaming;
#[cfg(test)]
pub mod temporary;
pub mod volumes;
pub mod web;
