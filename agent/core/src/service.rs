//! Services: from objects to what the dataplane's maps should hold.
//!
//! ```text
//! Services ──allocate──► clusterIPs, nodePorts ─┐
//! Pods ──slices──► EndpointSlices ─────────────┴─desired──► groups (frontends + endpoints) ──planner(observed maps)──► writes
//! ```
//!
//! | room | decides |
//! |---|---|
//! | `allocate` | which cluster address and node ports a Service gets and keeps |
//! | `slices` | the EndpointSlices of Services with a selector |
//! | `node` | this node: its addresses, those that NodePorts are served on, its zone |
//! | `address` | how addresses and networks are read |
//! | `annotations` | what a Service can ask of this dataplane beyond its fields |
//! | `endpoints` | the endpoints of one port out of its slices |
//! | `select` | which endpoints serve: ready ones, else serving terminating ones, by traffic policy |
//! | `health` | what the `healthCheckNodePort` servers answer |
//! | `desired`, `frontends` | what one Service asks: addresses, flags, endpoints |
//! | `maglev` | tables that every node makes alike |
//! | `plan`, `planner` | the writes from the maps as they are to the maps as they should be |
//! | `state` | all Services as their objects come and go; who has an address that two ask for |
//!
//! Which test holds which of kube-proxy's rules is listed in `tests/SERVICES.md`.

pub mod address;
pub mod allocate;
pub mod annotations;
pub mod desired;
pub mod endpoints;
mod frontends;
pub mod health;
pub mod maglev;
pub mod node;
pub mod plan;
mod planner;
pub mod select;
pub mod slices;
pub mod state;
#[cfg(test)]
pub(crate) mod test_objects;
