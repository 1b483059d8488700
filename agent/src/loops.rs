//! Loops: observe, plan, apply, report.

pub mod manifests;
pub mod pod;
pub mod service;
