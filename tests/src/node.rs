//! A node of its own: namespaces, containerd, agent, a client beside it. When the value goes, nothing of it stays.
//!
//! ```text
//!  client 192.168.50.9 ── c0 ═══ up0 ── 192.168.50.1 node: containerd, keelson node, pods 10.244.0.0/24
//!  (also 203.0.113.7: an address far outside)
//! ```
//! The node has its own mounts: tmpfs on /run, /var/lib and /var/log, bpffs on /sys/fs/bpf; the machine's cgroup mounts are kept. Everything
//! that runs for it is below one cgroup path.

pub mod cluster;
pub mod containerd;
pub mod objects;

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{binaries, cgroup::Cgroup, namespace::Namespace, wait};

/// The node's address.
pub const NODE_IP: &str = "192.168.50.1";
/// The client's address.
pub const CLIENT_IP: &str = "192.168.50.9";
/// An address of the client that the node reaches by its default route only.
pub const OUTSIDE_IP: &str = "203.0.113.7";
/// Starting things takes this long at most.
pub const START: Duration = Duration::from_secs(60);

/// How a node differs from the usual one.
#[derive(Clone, Debug)]
pub struct Options {
    /// Start the agent.
    pub agent: bool,
    /// More lines for the agent's configuration.
    pub config: String,
    /// Images to import, by name.
    pub images: Vec<&'static str>,
    /// Folder with the binaries; `None` = beside the running test.
    pub binaries: Option<PathBuf>,
    /// Name of its folder and cgroup; `None` = one that no other node has.
    pub name: Option<String>,
    /// Where it is among others.
    pub place: Place,
    /// What connects it with others and is their client; `None` = a client of its own.
    pub outside: Option<Arc<Namespace>>,
}

/// Which node of several, and on which of their networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub number: u8,
    /// Third byte of its address.
    pub network: u8,
}

impl Place {
    /// The node's address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.network, self.number)
    }

    /// Its pods' network.
    pub fn pod_cidr(self) -> String {
        format!("10.244.{}.0/24", self.number - 1)
    }

    /// Its name.
    pub fn name(self) -> String {
        format!("node-{}", self.number)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            agent: true,
            config: String::new(),
            images: vec!["busybox", "echo"],
            binaries: None,
            name: None,
            place: Place {
                number: 1,
                network: 50,
            },
            outside: None,
        }
    }
}

/// A running node.
pub struct Node {
    folder: PathBuf,
    cgroup: Cgroup,
    namespace: Namespace,
    client: Arc<Namespace>,
    containerd: Option<Child>,
    agent: Option<Child>,
    options: Options,
    down: bool,
}

impl Node {
    /// A node with the usual options.
    pub fn new() -> Result<Self> {
        Self::start(Options::default())
    }

    /// Make it, and wait until containerd (and the agent) serve.
    pub fn start(options: Options) -> Result<Self> {
        let name = options.name.clone().unwrap_or_else(|| new_name("test"));
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder)?;
        let cgroup = Cgroup::create(&format!("/{name}"))?;
        let mounts = "for path in /run /var/lib /var/log; do mount -t tmpfs tmpfs $path; done; \
             mount -t bpf bpf /sys/fs/bpf; mkdir -p /run/netns /var/lib/cni /run/cni/bin /run/cni/net.d /var/lib/keelson/images;";
        let enter = cgroup.enter_line("system")?;
        let namespace = Namespace::new("node", true, &format!("{enter} {mounts}"))?;
        let client = match &options.outside {
            Some(outside) => Arc::clone(outside),
            None => Arc::new(Namespace::new("client", false, &enter)?),
        };
        let mut node = Self {
            folder,
            cgroup,
            namespace,
            client,
            containerd: None,
            agent: None,
            options,
            down: false,
        };
        node.wire().context("wiring the node to its client")?;
        node.install()?;
        node.start_containerd()?;
        if node.options.agent {
            node.start_agent()?;
        } else {
            // With an agent, importing is its task.
            for image in node.options.images.iter().chain(&["pause"]) {
                node.import(image)?;
            }
        }
        Ok(node)
    }

    fn wire(&self) -> Result<()> {
        if self.options.outside.is_some() {
            return self.wire_among_others();
        }
        self.namespace.wire("up0", &self.client, "c0")?;
        self.namespace.sh(&format!(
            "ip addr add {NODE_IP}/24 dev up0; ip route add default via {CLIENT_IP}"
        ))?;
        self.client.sh(&format!(
            "ip addr add {CLIENT_IP}/24 dev c0; ip addr add {OUTSIDE_IP}/32 dev lo"
        ))?;
        Ok(())
    }

    fn wire_among_others(&self) -> Result<()> {
        let Place { number, network } = self.options.place;
        let port = format!("n{number}");
        self.namespace.wire("up0", &self.client, &port)?;
        self.client
            .run("ip", &["link", "set", &port, "master", &format!("br{network}")])?;
        self.namespace.sh(&format!(
            "ip addr add {}/24 dev up0; ip route add default via 192.168.{network}.9",
            self.address()
        ))?;
        Ok(())
    }

    /// Plugin, images and configuration, where the node looks for them.
    fn install(&self) -> Result<()> {
        let plugin = self.binary("keelson-cni")?;
        for name in ["keelson-cni", "loopback"] {
            self.namespace.run(
                "ln",
                &[
                    "-s",
                    &plugin.display().to_string(),
                    &format!("/run/cni/bin/{name}"),
                ],
            )?;
        }
        for image in &self.options.images {
            let tar = binaries::images().join(format!("{image}.tar"));
            if !tar.exists() {
                bail!(
                    "image {} is missing: make it with `cargo xtask image`",
                    tar.display()
                );
            }
            self.namespace.run(
                "ln",
                &["-s", &tar.display().to_string(), "/var/lib/keelson/images/"],
            )?;
        }
        fs::create_dir_all(self.manifests())?;
        fs::write(self.folder.join("keelson.yaml"), self.configuration())?;
        Ok(())
    }

    fn configuration(&self) -> String {
        let place = self.options.place;
        let pods = match place.number {
            1 => String::new(),
            _ => format!("podCIDR: {}\n", place.pod_cidr()),
        };
        format!(
            "apiVersion: keelson.dev/v1\nkind: KeelsonConfiguration\nnodeName: {}\nmanifests: {}\ncgroupParent: {}\n\
             cniConfDir: /run/cni/net.d\ncniBinDir: /run/cni/bin\n{pods}{}",
            place.name(),
            self.manifests().display(),
            self.cgroup.path(),
            self.options.config
        )
    }

    /// A program under test.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        match &self.options.binaries {
            Some(folder) => Ok(folder.join(name)),
            None => binaries::find(name),
        }
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The node's folder on the machine: logs, configuration.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.options.place.address()
    }

    /// Where it is among others.
    pub fn place(&self) -> Place {
        self.options.place
    }

    /// The node's namespaces.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The client's namespace.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The node's cgroup path.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Run a command on the node.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.namespace.run(program, arguments)
    }

    /// Start `keelson node`, and wait until it answers.
    pub fn start_agent(&mut self) -> Result<()> {
        self.begin_agent()?;
        self.wait("the agent to answer", START, |node| {
            node.keelson(&["get", "nodes"]).map(|_| Some(()))
        })
    }

    /// Start `keelson node`, and do not wait for it.
    pub fn begin_agent(&mut self) -> Result<()> {
        let binary = self.binary("keelson")?;
        let log = self.log("agent.log")?;
        let config = self.folder.join("keelson.yaml").display().to_string();
        let command = self.daemon(&binary.display().to_string(), &["node", "--config", &config])?;
        self.agent = Some(spawn(command, log).context("starting the agent")?);
        Ok(())
    }

    /// End the agent without a word.
    pub fn kill_agent(&mut self) -> Result<()> {
        end(&mut self.agent, Signal::SIGKILL)
    }

    /// Ask the agent to end.
    pub fn stop_agent(&mut self) -> Result<()> {
        end(&mut self.agent, Signal::SIGTERM)
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// The command line, in the node.
    pub fn keelson(&self, arguments: &[&str]) -> Result<String> {
        let binary = self.binary("keelson")?;
        self.namespace.run(&binary.display().to_string(), arguments)
    }

    /// Wait for a condition; its failure carries the end of the agent's log.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        wait::until(what, limit, || condition(self))
            .with_context(|| format!("agent's log ends:\n{}", self.log_tail(40)))
    }

    /// The last lines of the agent's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn log(&self, name: &str) -> Result<File> {
        let path = self.folder.join(name);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))
    }

    /// A long-running command in the node's namespaces and cgroup.
    fn daemon(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let enter = self.cgroup.enter_line("system")?;
        let mut command = self.namespace.command("sh");
        command
            .args(["-c", &format!("{enter} exec \"$@\""), "sh", program])
            .args(arguments);
        Ok(command)
    }

    /// Let it outlive this process: whoever takes it down finds all of it below its cgroup and its folder.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    /// Take it down and tell what went wrong; dropping does the same without telling.
    pub fn down(mut self) -> Result<()> {
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.down, true) {
            return Ok(());
        }
        end(&mut self.agent, Signal::SIGKILL)?;
        end(&mut self.containerd, Signal::SIGKILL)?;
        self.cgroup.remove()?;
        fs::remove_dir_all(&self.folder).with_context(|| format!("removing {}", self.folder.display()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent's log ends:\n{}", self.log_tail(60));
        }
        if let Err(error) = self.tear_down() {
            eprintln!("taking the node down: {error:#}");
        }
    }
}

/// A name that nobody else has.
fn new_name(label: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("keelson-{label}-{}-{number}", std::process::id())
}

fn spawn(mut command: Command, log: File) -> Result<Child> {
    Ok(command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A key pressed at the terminal is for the test, not for the node.
        .process_group(0)
        .spawn()?)
}

/// End a child and wait for it.
fn end(child: &mut Option<Child>, signal: Signal) -> Result<()> {
    let Some(mut child) = child.take() else {
        return Ok(());
    };
    // Ended already is fine.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
    wait::until("a process to end", START, || Ok(child.try_wait()?)).map(drop)
}
