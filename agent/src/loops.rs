//! Loops: observe, plan, apply, report.

pub mod service;
