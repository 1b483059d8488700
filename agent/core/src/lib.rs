//! Pure decisions of the agent. No runtime, no netlink, no files, no clock: `plan(desired, observed) -> Plan`
//! and `status(...)`, over Kubernetes' own types. Time enters as a value.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::too_many_lines, reason = "a table of cases is one flat list")
)]

pub mod explain;
pub mod health;
pub mod manifest;
pub mod network;
pub mod node;
pub mod object;
pub mod pod;
pub mod pressure;
pub mod service;
pub mod workload;
