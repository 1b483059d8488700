//! Volumes.

pub mod atomic;
