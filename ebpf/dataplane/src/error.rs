//! What can go wrong, in words that name operation, object and cause.

use std::{io, path::PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the dataplane's user space.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is loaded here yet.
    #[error(
        "no dataplane is loaded below {0}: start the agent, or let the CNI plugin load it with the next pod"
    )]
    NoGeneration(PathBuf),
    /// What is loaded speaks another attach contract.
    #[error(
        "the dataplane below {path} has attach contract {theirs}, this program has {ours}: install the agent and the plugin of one version"
    )]
    Contract {
        /// Where.
        path: PathBuf,
        /// Ours.
        ours: u32,
        /// Theirs.
        theirs: u32,
    },
    /// A pinned map has another layout than this program expects.
    #[error(
        "the pinned map {path} has {field} {theirs}, this program expects {ours}: remove the generation (`keelson` does so on upgrade)"
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// `type`, `key size`, `value size` or `flags`.
        field: &'static str,
        /// Expected.
        ours: u32,
        /// Found.
        theirs: u32,
    },
    /// No programs were embedded when this was built.
    #[error("this binary was built without the kernel programs: build it with `cargo xtask build`")]
    NoObject,
    /// The kernel refused the programs.
    #[error("loading the kernel programs: {0}; `keelson check` tells what this kernel lacks")]
    Load(String),
    /// Somebody else has been loading for too long.
    #[error("the lock {0} is held by another process for too long: try again")]
    Busy(PathBuf),
    /// A map holds as many entries as it can.
    #[error("the map {map} is full ({capacity} entries): it grows as soon as the agent can make it")]
    MapFull {
        /// Its name.
        map: &'static str,
        /// Entries that fit.
        capacity: u32,
    },
    /// An address that the node needs is a pod's.
    #[error("{0} is to be the node's own address among its pods', and a pod has it: end that pod")]
    AddressInUse(std::net::IpAddr),
    /// A system call failed.
    #[error("{operation} {object}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// A failed system call.
    pub fn system(operation: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        Self::System {
            operation,
            object: object.into(),
            source,
        }
    }

    /// For `map_err`.
    pub(crate) fn on(operation: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let object = object.into();
        move |source| Self::System {
            operation,
            object,
            source,
        }
    }

    /// The errno below, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
