//! Services: from objects to what the dataplane's maps should hold.
//!
//! ```text
//! Services ──allocate──► clusterIPs, nodePorts ─┐
//! Pods ──slices──► EndpointSlices ─────────────┴─desired──► groups (frontends + endpoints) ──plan(observed maps)──► steps
//! ```
//!
//! | room | decides |
//! |---|---|
//! | `allocate` | which cluster address and node ports a Service gets and keeps |
//! | `slices` | the EndpointSlices of Services with a selector |
//! | `select` | which endpoints serve: ready ones, else serving terminating ones, by traffic policy |
//! | `health` | what the `healthCheckNodePort` servers answer |
//! | `desired` | frontends and their endpoints on this node |
//! | `plan` | the steps from the maps as they are to the maps as they should be |

pub mod allocate;
pub mod desired;
pub mod health;
pub mod plan;
pub mod select;
pub mod slices;
#[cfg(test)]
pub(crate) mod test_objects;
