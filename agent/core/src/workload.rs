//! Workloads: Deployments become pods.

pub mod rollout;
pub mod selector;
