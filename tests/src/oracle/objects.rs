//! Services, slices, the node and the proxy's settings, as plain values. Texts stay texts: reading them is part of the rules.

use std::{collections::BTreeMap, net::IpAddr};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Everything that decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Services, in no order.
    pub services: Vec<Service>,
    /// EndpointSlices, in no order.
    pub slices: Vec<Slice>,
    /// The node that the proxy runs on.
    pub node: Node,
    /// How the proxy is set up.
    pub settings: Settings,
}

/// The node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its zone, if it is labelled with one.
    pub zone: Option<String>,
    /// All of its addresses; the first of each family is the one it is known by.
    pub addresses: Vec<IpAddr>,
}

/// The proxy's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `masqueradeAll`.
    pub masquerade_all: bool,
    /// External addresses of Services are served.
    pub external_ips: bool,
    /// The host reaches NodePorts under 127.0.0.1 as well.
    pub localhost_node_ports: bool,
    /// `nodePortAddresses`.
    pub node_port_addresses: NodePortAddresses,
    /// Networks that cluster addresses are taken from.
    pub service_networks: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            masquerade_all: false,
            external_ips: true,
            localhost_node_ports: true,
            node_port_addresses: NodePortAddresses::All,
            service_networks: vec!["10.96.0.0/16".into(), "fd00:a:60::/48".into()],
        }
    }
}

/// Which of the node's addresses NodePorts are served on.
#[derive(Clone, Debug, PartialEq)]
pub enum NodePortAddresses {
    /// Every one.
    All,
    /// The one the node is known by, of each family.
    Primary,
    /// Those in these networks.
    Networks(Vec<String>),
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// An address inside the cluster.
    #[default]
    ClusterIp,
    /// And a port on every node.
    NodePort,
    /// And an address of a load balancer.
    LoadBalancer,
    /// A name elsewhere.
    ExternalName,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// When it was made, in seconds.
    pub created: i64,
    /// Labels.
    pub labels: Labels,
    /// Type.
    pub kind: Kind,
    /// `clusterIPs`, as written: `None` and empty texts included.
    pub cluster_ips: Vec<String>,
    /// `externalIPs`.
    pub external_ips: Vec<String>,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<Ingress>,
    /// `loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Seconds of ClientIP affinity.
    pub affinity: Option<u32>,
    /// Ports.
    pub ports: Vec<Port>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// Name, by which slices name it; may be empty.
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`, or something nobody knows.
    pub protocol: String,
    /// Number.
    pub number: u16,
    /// `nodePort`; 0 = none.
    pub node_port: u16,
}

/// Where a load balancer takes clients in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ingress {
    /// Address.
    pub ip: Option<String>,
    /// Name.
    pub hostname: Option<String>,
    /// `VIP`, `Proxy`, or unset.
    pub mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slice {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Service it is of, by its label.
    pub service: String,
    /// Other labels.
    pub labels: Labels,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlicePort {
    /// Name of the Service's port.
    pub name: Option<String>,
    /// Protocol; unset = TCP.
    pub protocol: Option<String>,
    /// Number; unset or 0 = no use.
    pub number: Option<i32>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint {
    /// Addresses: the first one counts.
    pub addresses: Vec<String>,
    /// Condition.
    pub ready: Option<bool>,
    /// Condition.
    pub serving: Option<bool>,
    /// Condition.
    pub terminating: Option<bool>,
    /// The node it runs on.
    pub node: Option<String>,
    /// Hints: the nodes that should use it.
    pub for_nodes: Vec<String>,
    /// Hints: the zones that should use it.
    pub for_zones: Vec<String>,
}

/// Protocols that a Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

impl Protocol {
    /// By its name in objects.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name in objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The number in packets.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}
