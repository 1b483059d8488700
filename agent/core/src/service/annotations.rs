//! Annotations of Services that this dataplane understands, all in one place.

/// How endpoints are chosen: `random` (the default) or `maglev`. With `maglev` every node gives the same client tuple to the same
/// endpoint, so that a connection survives when the network sends it to another node.
pub const LOAD_BALANCING: &str = "keelson.dev/load-balancing";
/// What becomes of established connections to an endpoint that is gone: `keep` (the default, as kube-proxy: they hang until a
/// time limit ends them) or `reset` (both sides are told at once).
pub const GONE_CONNECTIONS: &str = "keelson.dev/gone-connections";

/// Values of [`LOAD_BALANCING`].
pub const MAGLEV: &str = "maglev";
/// See [`LOAD_BALANCING`].
pub const RANDOM: &str = "random";
/// Values of [`GONE_CONNECTIONS`].
pub const RESET: &str = "reset";
/// See [`GONE_CONNECTIONS`].
pub const KEEP: &str = "keep";
