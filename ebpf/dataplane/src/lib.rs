//! User space of the kernel programs: load, pin, attach, replace, typed maps, test runs.
//!
//! | room | job |
//! |---|---|
//! | `dataplane` | the door: `open` (fast, the plugin's), `ensure` (load if nothing is), `upgrade` (the agent's) |
//! | `node` | pure: which devices are uplinks, what the node's values and prefixes are |
//! | `load`, `object`, `paths`, `lock` | generations: pinned, versioned, replaced atomically |
//! | `attach`, `netlink` | tcx links on the node's devices, one filter on each block that pod links share |
//! | `host`, `sysctl` | the pair by which the host's own processes reach Services |
//! | `between` | pods of other nodes: the tunnel's device, routes |
//! | `maps`, `prefix` | typed maps, layouts checked before use |
//! | `settings`, `cleanup` | what the kernel's settings were, and taking everything away again |
//! | `services`, `batch` | the Service maps, many entries per call |
//! | `takeover`, `conntrack`, `flows` | connections that another service proxy has made, and that one is to carry on |
//! | `explain`, `test_run` | programs run on packets of one's own, dry or not |
//! | `fill`, `drops` | how full the maps are, without walking them; which packets are dropped |
//! | `sys` | the few `bpf(2)` calls that aya lacks |
//!
//! Everything happens in the network and mount namespace of the calling thread.

mod attach;
mod batch;
mod between;
mod cleanup;
mod conntrack;
mod dataplane;
mod drops;
mod error;
mod explain;
mod fill;
mod flows;
mod host;
mod load;
mod lock;
mod maps;
pub mod netlink;
pub mod node;
mod object;
mod paths;
mod prefix;
mod services;
mod settings;
mod sys;
mod sysctl;
mod takeover;
mod test_run;

/// What keys and values of maps are: plain data.
pub use aya::Pod as Plain;
pub use batch::BatchMap;
pub use between::{Between, KEELSON_VX, PeerPods, Tunnel, Way};
pub use cleanup::Removed;
pub use dataplane::Dataplane;
pub use drops::DropRing;
pub use error::{Error, Result};
pub use fill::Fill;
pub use keelson_abi as abi;
pub use node::{NodeSettings, Uplink};
pub use paths::{Generation, Paths};
pub use services::ServiceTables;
pub use takeover::{HandedBack, TakenOver};
pub use test_run::{TestContext, TestOutput, run_program};
