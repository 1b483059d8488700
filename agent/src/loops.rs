//! Loops: observe, plan, apply, report.

pub mod manifests;
pub mod service;
