//! The test node, and what the end-to-end tests say with it.
//!
//! | room | job |
//! |---|---|
//! | `node` | a node of its own: namespaces, containerd, agent, a client beside it; nothing of it stays |
//! | `namespace` | network namespaces: made, entered by a thread, wired |
//! | `cri` | a bare client of the container runtime |
//! | `cgroup` | one path in every hierarchy; whoever is in it is ended with it |
//! | `wait` | conditions instead of sleeps |
//! | `sockets` | TCP, UDP and refusals, asked once |
//! | `http`, `load` | a client that asks once, and one that never stops asking |
//! | `packet` | packets by hand, for programs that are run on one |
//! | `oracle` | what kube-proxy would do with a packet: a model to hold against what this project does |
//!
//! What Services promise, and which test holds each promise, is listed in `tests/SERVICES.md`.
//! | `binaries` | the programs under test |

pub mod binaries;
pub mod cgroup;
pub mod cri;
pub mod http;
pub mod load;
pub mod namespace;
pub mod node;
pub mod oracle;
pub mod packet;
#[cfg(test)]
mod promises;
pub mod sockets;
pub mod wait;
