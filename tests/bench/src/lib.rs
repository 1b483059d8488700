//! Load between pods, Services and hosts: what a network does with request/response, connect/request/response,
//! streams and datagrams, and how long each exchange took.
//!
//! | room | job |
//! |---|---|
//! | `wire` | the eight bytes a client opens a connection with |
//! | `server` | answers every kind of load on one port, TCP and UDP |
//! | `client` | produces one kind of load for a bounded time |
//! | `histogram` | latencies in constant memory |
//! | `stats` | medians, spread, and ratios of pairs taken in the same round |

pub mod client;
pub mod histogram;
pub mod server;
pub mod socket;
pub mod stats;
pub mod wire;
