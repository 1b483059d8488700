//! Loops: observe, plan, apply, report.

pub mod health;
pub mod manifests;
pub mod network;
pub mod node;
pub mod observation;
pub mod pod;
pub mod service;
pub mod workload;
