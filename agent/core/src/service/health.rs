//! Inputs of the `healthCheckNodePort` servers: how many endpoints of a Service are ready on this node.
//!
//! Only LoadBalancer Services with `externalTrafficPolicy: Local` have one. A load balancer in front of the nodes asks each node
//! and sends no more traffic to those that answer "none": so what terminates does not count, even while it still serves.

use std::{collections::BTreeMap, net::IpAddr};

use crate::object::Key;

/// What one health check port answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Addresses to listen on (`0.0.0.0` and `::` stand for all of their family only), each with the number of distinct
    /// local ready endpoint addresses of its family.
    pub listeners: BTreeMap<IpAddr, usize>,
}

/// All of a node, by Service.
pub type HealthChecks = BTreeMap<Key, HealthCheck>;
