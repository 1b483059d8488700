//! Rung 3: the plugin's verbs, by the real binary, in namespaces of the test's own, with no agent running.
#![expect(clippy::unwrap_used, reason = "a panic is a test's way to fail")]

#[path = "cni/lab.rs"]
mod lab;

#[path = "cni/attach.rs"]
mod attach;
#[path = "cni/crash.rs"]
mod crash;
#[path = "cni/protocol.rs"]
mod protocol;
#[path = "cni/remove.rs"]
mod remove;
