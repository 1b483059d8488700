//! Door: the kernel programs and their maps, as far as the plugin needs them.
//!
//! Whoever comes first loads them. After that the plugin only opens what it needs: the object is not touched, and
//! node values are written only where the configuration has changed or a device is not attached yet.

use std::{fs, io, path::PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use keelson_abi::{Addr, Endpoint};
use keelson_dataplane::{Dataplane, Error as LoadError, Generation, NodeSettings, Paths};

use crate::{
    conf::{NetworkConf, PortRange, Settings},
    error::{Code, Error, Result},
    ipam::codec_crc32,
    netlink::{Netlink, observe::AddressedLink},
};

/// What ADD, DEL, CHECK and GC need of the programs.
pub trait Datapath {
    /// Numbers of the two shared blocks: packets from pods, packets to pods.
    fn blocks(&self) -> (u32, u32);
    /// Puts the programs on the blocks where they are missing. The blocks exist once a link is bound.
    fn ensure_programs(&self) -> Result<()>;
    /// The entry of an address.
    fn endpoint(&self, address: Addr) -> Result<Option<Endpoint>>;
    /// Writes the entry of an address.
    fn put_endpoint(&self, address: Addr, endpoint: Endpoint) -> Result<()>;
    /// Removes the entry of an address, if there is one.
    fn remove_endpoint(&self, address: Addr) -> Result<()>;
    /// Every entry.
    fn endpoints(&self) -> Result<Vec<(Addr, Endpoint)>>;
}

impl Datapath for Dataplane {
    fn blocks(&self) -> (u32, u32) {
        Self::blocks(self)
    }
    fn ensure_programs(&self) -> Result<()> {
        self.ensure_block_filters().map_err(failed)
    }
    fn endpoint(&self, address: Addr) -> Result<Option<Endpoint>> {
        Self::endpoint(self, address).map_err(failed)
    }
    fn put_endpoint(&self, address: Addr, endpoint: Endpoint) -> Result<()> {
        Self::put_endpoint(self, address, &endpoint).map_err(failed)
    }
    fn remove_endpoint(&self, address: Addr) -> Result<()> {
        Self::remove_endpoint(self, address).map(|_| ()).map_err(failed)
    }
    fn endpoints(&self) -> Result<Vec<(Addr, Endpoint)>> {
        Self::endpoints(self).map_err(failed)
    }
}

/// How closely to look whether every device has its programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Whether the devices with addresses are still those of the last time. For ADD and CHECK: its cost does not grow
    /// with the number of pods.
    Quick,
    /// Whether each of them has its programs.
    Close,
}

/// What ADD, CHECK and STATUS rely on: programs loaded, the node's values written, uplinks attached.
pub fn ready(settings: &Settings, network: &str, node: &mut Netlink, look: Look) -> Result<Dataplane> {
    let paths = Paths {
        bpffs: settings.bpf.clone(),
        run: settings.run.clone(),
    };
    let wanted = node_settings(settings);
    let dataplane = match Dataplane::open(&paths) {
        Ok(dataplane) => dataplane,
        Err(LoadError::NoGeneration(_)) => Dataplane::ensure(&paths, &wanted).map_err(failed)?,
        Err(error) => return Err(failed(error)),
    };
    let applied = Applied::of(
        settings,
        network,
        dataplane.generation(),
        &node.addressed_links()?,
    );
    let settled =
        applied.is_current() && (look == Look::Quick || dataplane.is_settled(&wanted).map_err(failed)?);
    if !settled {
        dataplane.configure(&wanted).map_err(failed)?;
        applied.write()?;
    }
    Ok(dataplane)
}

/// What is loaded, for removing from it; `None` where nothing is that this plugin may touch. A pod goes away even then:
/// an entry that stays behind is swept up by whoever can.
#[must_use]
pub fn existing(conf: &NetworkConf) -> Option<Dataplane> {
    let paths = Paths {
        bpffs: conf.bpf.clone(),
        run: conf.run.clone(),
    };
    match Dataplane::open(&paths) {
        Ok(dataplane) => Some(dataplane),
        Err(LoadError::NoGeneration(_)) => None,
        Err(error) => {
            eprintln!("keelson-cni: endpoint entries are left alone: {error}");
            None
        }
    }
}

fn node_settings(settings: &Settings) -> NodeSettings {
    let defaults = NodeSettings::default();
    NodeSettings {
        pod_cidrs: both(Some(settings.pod_cidr), settings.pod_cidr_v6),
        service_cidrs: both(settings.service_cidr, settings.service_cidr_v6),
        cluster_cidrs: settings.cluster_cidrs.clone(),
        node_port_range: settings
            .node_port_range
            .map_or(defaults.node_port_range, |PortRange(a, b)| (a, b)),
        snat_pods: settings.snat,
        snat_ports: settings
            .snat_ports
            .map_or(defaults.snat_ports, |PortRange(a, b)| (a, b)),
        masquerade_all: settings.masquerade_all,
        excluded_interfaces: settings.excluded_interfaces.clone(),
        mtu: settings.mtu,
        node_address: settings.node_address,
        // The agent's to say.
        between: None,
        take_over: false,
    }
}

fn both(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Vec<IpNet> {
    v4.map(IpNet::V4).into_iter().chain(v6.map(IpNet::V6)).collect()
}

/// What the node's values were last written from: configuration, generation, and the devices that have addresses. A
/// network's `applied` file holds only a checksum of it, and lies beside the store, so that a reboot forgets it.
struct Applied {
    path: PathBuf,
    sum: String,
}

impl Applied {
    fn of(settings: &Settings, network: &str, generation: &Generation, links: &[AddressedLink]) -> Self {
        let text = serde_json::to_string(settings).unwrap_or_default();
        let all = format!("{text}\n{}\n{links:?}", generation.path.display());
        Self {
            path: settings.run.join("cni").join(network).join("applied"),
            sum: format!("{:08x}\n", codec_crc32(all.as_bytes())),
        }
    }

    fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|sum| sum == self.sum)
    }

    /// Whole or not at all: calls in parallel may write the same.
    fn write(&self) -> Result<()> {
        let write = || -> io::Result<()> {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            let temporary = self.path.with_extension(std::process::id().to_string());
            fs::write(&temporary, &self.sum)?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|e| Error::file("write", &self.path, &e))
    }
}

/// The loader's failures under CNI's codes: what a moment or an upgrade cures is "try again later".
fn failed(error: LoadError) -> Error {
    let code = match error {
        LoadError::Contract { .. } | LoadError::Busy(_) => Code::TryAgainLater,
        _ => Code::Dataplane,
    };
    Error::new(code, error.to_string())
}
