//! The container runtime, through CRI.

pub mod channel;
