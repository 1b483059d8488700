//! A node without a runtime: the dataplane alone in namespaces of its own, one pod's link, no agent.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use keelson_dataplane::{Dataplane, NodeSettings, Paths};
use keelson_tests::namespace::{self, Namespace};

/// The pod that asks.
pub const CLIENT: [u8; 4] = [10, 244, 0, 2];
/// The pod that answers.
pub const SERVER: [u8; 4] = [10, 244, 0, 3];
/// Device of both: where packets go is not measured here.
pub const LINK: &str = "pod";

/// Its address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The namespaces: the node's, and that of its pod.
pub struct Lab {
    node: Namespace,
    _pod: Namespace,
}

impl Lab {
    /// Make the namespaces. `/run` inside is empty and vanishes with them.
    pub fn new() -> Result<Self> {
        let node = Namespace::new("bench-node", true, "mount -t tmpfs none /run;")?;
        let pod = Namespace::new("bench-pod", false, "")?;
        node.wire(LINK, &pod, "eth0")?;
        // Its address must be known: packets for another station are not looked at.
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        node.sh(&format!("ip link set {LINK} address {mac}"))?;
        Ok(Self { node, _pod: pod })
    }

    /// Do something inside.
    pub fn inside<T: Send + 'static>(
        &self,
        action: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        namespace::inside(self.node.pid(), action)
    }
}

/// Load the dataplane; only inside of a lab.
pub fn dataplane() -> Result<Dataplane> {
    let paths = Paths {
        bpffs: PathBuf::from("/run/bpf"),
        run: PathBuf::from("/run/keelson"),
    };
    for folder in [&paths.bpffs, &paths.run] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    Dataplane::ensure(&paths, &NodeSettings::default()).context("loading the dataplane")
}

/// Index of the pod's device.
pub fn link() -> Result<u32> {
    nix::net::if_::if_nametoindex(LINK).context("the index of the pod's device")
}
