//! The node and its networks.

use crate::Addr;

/// The only value of the `node` map (array of one). Written whole, by the agent when it owns the node, else by the plugin.
/// Part of the attach contract.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeConfig {
    /// The node's IPv4 address (v4-mapped), zero = none: SNAT source where the FIB gives none.
    pub ipv4: Addr,
    /// The node's IPv6 address, zero = none.
    pub ipv6: Addr,
    /// Devices `keelson0` and `keelson1`; lo is always 1.
    pub keelson0_ifindex: u32,
    /// Its peer, where Services for the host's own processes are translated.
    pub keelson1_ifindex: u32,
    /// MAC of `keelson0`.
    pub keelson0_mac: [u8; 6],
    /// MAC of `keelson1`.
    pub keelson1_mac: [u8; 6],
    /// First port for translated sources (host byte order).
    pub snat_port_min: u16,
    /// Last port for translated sources (host byte order).
    pub snat_port_max: u16,
    /// `NODE_*`.
    pub flags: u32,
    /// Counts writes: whole values with a generation.
    pub generation: u32,
    /// NodePort range (host byte order), 0–0 = none.
    pub nodeport_min: u16,
    /// Last NodePort.
    pub nodeport_max: u16,
    /// Dry-run packets carry this mark (random per boot; 0 = dry runs off).
    pub dry_run_mark: u32,
    /// SO_NETNS_COOKIE of the node's namespace.
    pub netns_cookie: u64,
    /// The device of the tunnel to other nodes; 0 = there is none, and neither is any of what follows.
    pub tunnel_ifindex: u32,
    /// Its network's number.
    pub tunnel_vni: u32,
    /// UDP port of its packets.
    pub tunnel_port_be: u16,
    /// Reserved, zero.
    pub reserved: [u16; 3],
    /// The node's IPv4 address among the pods', zero = none: source of its own packets in the tunnel.
    pub tunnel_ipv4: Addr,
    /// The same for IPv6.
    pub tunnel_ipv6: Addr,
}
const _: () = assert!(size_of::<NodeConfig>() == 128);

/// Translate the source of pods that leave for outside.
pub const NODE_SNAT_PODS: u32 = 1;
/// Masquerade everybody who asks a Service address, pods of the cluster too. External addresses follow their policy.
pub const NODE_MASQUERADE_ALL: u32 = 1 << 1;

/// Key of the `prefix` LPM map: prefix length counts over all 128 bits (IPv4: 96 + length).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PrefixKey {
    /// 0–128.
    pub length: u32,
    /// The network's address.
    pub addr: Addr,
}
const _: () = assert!(size_of::<PrefixKey>() == 20);

/// Value of the `prefix` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prefix {
    /// `PREFIX_*`: exactly one kind.
    pub kind: u32,
    /// `PREFIX_*` that may be added to any kind: [`PREFIX_OF_NODE`].
    pub flags: u32,
    /// Pods of another node: the node's address, where the tunnel's packets for them go and come from; zero = no tunnel.
    pub node: Addr,
}
const _: () = assert!(size_of::<Prefix>() == 24);

impl Prefix {
    /// A network of this kind, and nothing more.
    #[must_use]
    pub const fn of(kind: u32) -> Self {
        Self {
            kind,
            flags: 0,
            node: Addr([0; 4]),
        }
    }
}

/// Pods of one node that is known, other than the cluster's networks as a whole.
pub const PREFIX_OF_NODE: u32 = 1;

/// Pods of this node.
pub const PREFIX_LOCAL_PODS: u32 = 1;
/// Pods of another node.
pub const PREFIX_PEER_PODS: u32 = 2;
/// Never translate the source towards these.
pub const PREFIX_NO_SNAT: u32 = 3;
/// Service addresses.
pub const PREFIX_SERVICES: u32 = 4;
/// The node's own address (/32, /128): every address of every uplink.
pub const PREFIX_NODE_ADDRESS: u32 = 5;
