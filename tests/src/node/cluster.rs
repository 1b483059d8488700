//! Several nodes, connected: by a switch those on one network, by a router those on two.
//!
//! ```text
//!  node 1 192.168.50.1 ─┐                                           ┌─ node 3 192.168.60.3
//!  node 2 192.168.50.2 ─┴─ br50 192.168.50.9 · outside · .9 br60 ───┘
//! ```
//! The namespace that connects them is their client, too.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::{Node, OUTSIDE_IP, Options, Place, new_name};
use crate::{cgroup::Cgroup, namespace::Namespace};

/// Nodes and what connects them.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    outside: Arc<Namespace>,
    cgroup: Cgroup,
}

impl Cluster {
    /// Start so many nodes on one network.
    pub fn start(count: u8, options: &Options) -> Result<Self> {
        let place = |number| Place { number, network: 50 };
        Self::start_at(&(1..=count).map(place).collect::<Vec<_>>(), options)
    }

    /// Start nodes at these places.
    pub fn start_at(places: &[Place], options: &Options) -> Result<Self> {
        let name = options.name.clone().unwrap_or_else(|| new_name("cluster"));
        let cgroup = Cgroup::create(&format!("/{name}-outside"))?;
        let enter = cgroup.enter_line("system")?;
        let outside = Arc::new(Namespace::new("outside", false, &enter)?);
        outside
            .sh(&format!(
                "ip addr add {OUTSIDE_IP}/32 dev lo
                 for net in 50 60; do ip link add br$net type bridge; ip addr add 192.168.$net.9/24 dev br$net; ip link set br$net up; done
                 echo 1 >/proc/sys/net/ipv4/ip_forward"
            ))
            .context("making the network between the nodes")?;
        let mut cluster = Self {
            nodes: Vec::new(),
            outside,
            cgroup,
        };
        for place in places {
            let node = Node::start(Options {
                name: Some(format!("{name}-{}", place.number)),
                place: *place,
                outside: Some(Arc::clone(&cluster.outside)),
                ..options.clone()
            });
            cluster
                .nodes
                .push(node.with_context(|| format!("starting {}", place.name()))?);
        }
        Ok(cluster)
    }

    /// Tell every node of every other.
    pub fn meet(&self) -> Result<()> {
        let text: String = self.nodes.iter().map(|node| peer(node.place())).collect();
        self.nodes.iter().try_for_each(|node| {
            node.write_manifest("peers.yaml", &text)?;
            let others = self.nodes.len() - 1;
            node.wait("the peers to be reached", super::START, |node| {
                let peers = node.list("peers")?;
                let reached = peers.iter().filter(|peer| !peer["status"]["routes"][0].is_null());
                Ok((reached.count() == others).then_some(()))
            })
        })
    }

    /// The network between the nodes, and their client.
    pub fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// The cgroup of the network between the nodes.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Let it outlive this process.
    pub fn keep(mut self) {
        self.nodes.drain(..).for_each(Node::keep);
        std::mem::forget(self);
    }

    /// Take all down and tell what went wrong.
    pub fn down(mut self) -> Result<()> {
        self.nodes.drain(..).try_for_each(Node::down)?;
        self.cgroup.remove()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        if let Err(error) = self.cgroup.remove() {
            eprintln!("taking the network between the nodes down: {error:#}");
        }
    }
}

/// What other nodes are told of one.
pub fn peer(place: Place) -> String {
    format!(
        "apiVersion: keelson.dev/v1\nkind: KeelsonPeer\nmetadata: {{name: {}}}\nspec:\n  podCIDRs: [{}]\n  addresses: [{}]\n---\n",
        place.name(),
        place.pod_cidr(),
        place.address()
    )
}
