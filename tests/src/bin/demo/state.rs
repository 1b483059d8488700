//! Where the node that was left running is written down.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A node that outlives the command that made it.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// A process in the node's namespaces.
    pub pid: u32,
    /// The node's cgroup path: everyone of the node is below it.
    pub cgroup: String,
    /// The node's folder.
    pub folder: PathBuf,
    /// Where the forwarder listens, on 127.0.0.1.
    pub port: u16,
    /// The other nodes, and the network between them.
    #[serde(default)]
    pub also: Vec<Remains>,
}

/// What is to be removed with the node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Remains {
    /// A cgroup path.
    pub cgroup: String,
    /// A folder, if there is one.
    pub folder: Option<PathBuf>,
}

impl State {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/demo.json")
    }

    /// What was written down, if anything was.
    pub fn load() -> Result<Option<Self>> {
        let path = Self::path();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("reading {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Write it down.
    pub fn save(&self) -> Result<()> {
        let path = Self::path();
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// It is gone.
    pub fn forget() -> Result<()> {
        let path = Self::path();
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Whether the process is still that of the node: process ids are used again.
    pub fn is_alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/cgroup", self.pid))
            .is_ok_and(|groups| groups.lines().any(|line| line.contains(&self.cgroup)))
    }

    /// The agent's socket, as it is reached from outside the node.
    pub fn socket(&self) -> String {
        format!("/proc/{}/root/run/keelson/keelson.sock", self.pid)
    }
}
