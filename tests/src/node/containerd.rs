//! A containerd of the node's own.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{Node, START, end, spawn};
use crate::binaries;

/// Where its socket is, in the node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// Configuration of version 2 (containerd 1.x). Lowering oom_score_adj needs CAP_SYS_RESOURCE, which a sandboxed machine may lack.
const CONFIG_2: &str = r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "docker.io/library/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/cni/bin"
    conf_dir = "/run/cni/net.d"
"#;

/// Configuration of version 3 (containerd 2.x).
const CONFIG_3: &str = r#"version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "docker.io/library/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/run/cni/bin"]
    conf_dir = "/run/cni/net.d"
"#;

impl Node {
    /// Start containerd and wait until it serves.
    pub fn start_containerd(&mut self) -> Result<()> {
        let config = self.folder.join("containerd.toml");
        fs::write(&config, if is_2()? { CONFIG_3 } else { CONFIG_2 })?;
        let log = self.log("containerd.log")?;
        let command = self.daemon("containerd", &["--config", &config.display().to_string()])?;
        self.containerd = Some(spawn(command, log).context("starting containerd")?);
        self.wait("containerd to serve", START, |node| {
            node.run("ctr", &["--address", SOCKET, "version"])
                .map(|_| Some(()))
        })
    }

    /// Import an image that `cargo xtask image` made, with containerd's own client.
    pub fn import(&self, image: &str) -> Result<()> {
        let tar = binaries::images().join(format!("{image}.tar"));
        self.ctr(&["images", "import", &tar.display().to_string()])
            .with_context(|| format!("importing {image}; `cargo xtask image` makes it"))
            .map(drop)
    }

    /// End containerd without a word; its shims and their containers go on.
    pub fn kill_containerd(&mut self) -> Result<()> {
        end(&mut self.containerd, Signal::SIGKILL)
    }

    /// containerd's own client, in the namespace of pods.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        self.run(
            "ctr",
            &[&["--address", SOCKET, "--namespace", "k8s.io"], arguments].concat(),
        )
    }
}

fn is_2() -> Result<bool> {
    let output = Command::new("containerd")
        .arg("--version")
        .output()
        .context("asking containerd for its version")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // containerd github.com/containerd/containerd 1.6.20~ds1 …
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Ok(version.is_some_and(|version| !version.starts_with("1.")))
}
