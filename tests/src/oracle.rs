//! What kube-proxy would do with a packet: a plain model, to hold against what this project does.
//!
//! It shares no type and no line with the agent's own decision, and it is written to be read: one rule of kube-proxy after the
//! other, each in plain words, with no index, cache or increment. Slow is fine here.
//!
//! | room | says |
//! |---|---|
//! | `objects` | Services, slices, the node and the proxy's settings, as plain values |
//! | `endpoints` | which endpoints count: merged, ready or leaving, near or far |
//! | `verdict` | what becomes of the first packet of a connection |
//! | `text` | addresses and networks as people write them |
//! | `kubernetes` | the same objects as an API server would send them |
//! | `generate` | clusters and packets at random, which shrink to the smallest that still fails |

mod endpoints;
pub mod generate;
pub mod kubernetes;
mod objects;
mod text;
mod verdict;

#[cfg(test)]
mod table_objects;
#[cfg(test)]
mod tables;

pub use endpoints::Sets;
pub use objects::{
    Cluster, Endpoint, Ingress, Kind, Labels, Node, NodePortAddresses, Port, Protocol, Service, Settings,
    Slice, SlicePort,
};
pub use verdict::{Masquerade, Packet, Place, Source, Verdict};
