//! Pods.

pub mod images;
pub mod probing;
pub mod roster;
