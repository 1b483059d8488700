//! What becomes of the first packet of a connection.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    endpoints::Sets,
    objects::{Cluster, Kind, NodePortAddresses, Port, Protocol, Service},
    text::{self, Network},
};

/// Another proxy serves these.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Nobody serves these.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A pod of this node.
    Pod,
    /// A pod of another node.
    RemotePod,
    /// A process of this node's own network.
    Host,
    /// Everybody else.
    Outside,
}

/// Who asks, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Kind.
    pub place: Place,
    /// Address.
    pub address: IpAddr,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who asks.
    pub source: Source,
    /// What is asked.
    pub to: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// The endpoint that this client was given by this Service port before.
    pub remembered: Option<SocketAddr>,
}

/// Whether the endpoint sees another source than the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// It sees the client.
    No,
    /// It sees the node.
    Yes,
    /// It is the client: it sees anything but itself.
    Hairpin,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not the proxy's business.
    Pass,
    /// Refused, so that the client knows at once.
    Reject,
    /// Silence.
    Drop,
    /// Sent to one of these, any as likely as another.
    Translate(BTreeMap<SocketAddr, Masquerade>),
}

/// What was asked of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
    NodePort,
}

impl Cluster {
    /// The verdict on a packet.
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        if let Some((service, port, entry)) = self.asked(packet) {
            return self.decide(packet, service, port, entry);
        }
        // kube-proxy's rule: a port that the Service of a cluster address does not have is refused; an address of the Service
        // network that no Service has gets silence, so that nobody sends it in circles.
        let is_cluster_ip = |service: &&Service| has(&service.cluster_ips, packet.to.ip());
        if self.proxied().any(|service| is_cluster_ip(&service)) {
            return Verdict::Reject;
        }
        let networks = self.settings.service_networks.iter();
        if networks
            .filter_map(|text| text::network(text))
            .any(|net| net.contains(packet.to.ip()))
        {
            return Verdict::Drop;
        }
        Verdict::Pass
    }

    /// Every Service that this proxy serves.
    pub fn proxied(&self) -> impl Iterator<Item = &Service> {
        // kube-proxy's rule: Services without an address, those that are only a name, and those labelled for another proxy or as
        // headless do not exist for it.
        self.services.iter().filter(|service| {
            service.kind != Kind::ExternalName
                && service
                    .cluster_ips
                    .iter()
                    .any(|text| text::address(text).is_some())
                && !service.labels.contains_key(PROXY_NAME)
                && !service.labels.contains_key(HEADLESS)
        })
    }

    /// The Service port that a packet asks for. Where several claim one address and port, the oldest has it: kube-proxy leaves
    /// that open.
    fn asked(&self, packet: &Packet) -> Option<(&Service, &Port, Entry)> {
        let mut services: Vec<&Service> = self.proxied().collect();
        // kube-proxy's rule: in a family without a cluster address a Service has no other address either.
        let family = packet.to.is_ipv6();
        services.retain(|service| {
            let mut addresses = service.cluster_ips.iter().filter_map(|text| text::address(text));
            addresses.any(|address| address.is_ipv6() == family)
        });
        services.sort_by_key(|service| (service.created, &service.namespace, &service.name));
        let ports = services.into_iter().flat_map(|service| {
            let known = service
                .ports
                .iter()
                .filter(|port| Protocol::named(&port.protocol) == Some(packet.protocol));
            known.map(move |port| (service, port))
        });
        let mut found =
            ports.filter_map(|(service, port)| Some((service, port, self.entry(packet, service, port)?)));
        found.next()
    }

    fn entry(&self, packet: &Packet, service: &Service, port: &Port) -> Option<Entry> {
        let (address, number) = (packet.to.ip(), packet.to.port());
        if number == port.number {
            if has(&service.cluster_ips, address) {
                return Some(Entry::ClusterIp);
            }
            if has(&load_balancer_addresses(service), address) {
                return Some(Entry::LoadBalancer);
            }
            if self.settings.external_ips && has(&service.external_ips, address) {
                return Some(Entry::ExternalIp);
            }
        }
        let asked = port.node_port != 0 && number == port.node_port && self.serves_node_ports(packet);
        asked.then_some(Entry::NodePort)
    }

    /// kube-proxy's rule: NodePorts are served on the node's own addresses, as far as they were selected.
    fn serves_node_ports(&self, packet: &Packet) -> bool {
        let asked = packet.to.ip();
        // Loopback addresses are no such addresses. Where it is switched on, the host may ask 127.0.0.1 instead of the address that the
        // node is known by: kube-proxy has this in its iptables form alone.
        let address = match (asked.is_loopback(), packet.source.place) {
            (false, _) => asked,
            (true, Place::Host) if asked.is_ipv4() && self.settings.localhost_node_ports => {
                let Some(primary) = self.primary(asked) else {
                    return false;
                };
                primary
            }
            (true, _) => return false,
        };
        let selected = match &self.settings.node_port_addresses {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => self.primary(address) == Some(address),
            // A family that the networks do not name is not limited.
            NodePortAddresses::Networks(texts) => {
                let all = texts.iter().filter_map(|text| text::network(text));
                let own: Vec<Network> = all.filter(|network| network.is_of_family(address)).collect();
                own.is_empty() || own.iter().any(|network| network.contains(address))
            }
        };
        self.node.addresses.contains(&address) && selected
    }

    /// The address that the node is known by, in the family of another one.
    fn primary(&self, like: IpAddr) -> Option<IpAddr> {
        let mut own = self.node.addresses.iter().copied();
        own.find(|address| address.is_ipv4() == like.is_ipv4())
    }

    fn decide(&self, packet: &Packet, service: &Service, port: &Port, entry: Entry) -> Verdict {
        // kube-proxy's rule: source ranges are asked first, for a load balancer's addresses only.
        if entry == Entry::LoadBalancer && !self.is_let_in(service, packet) {
            return Verdict::Drop;
        }
        let sets = self.sets(service, port, packet.to.is_ipv6());
        // kube-proxy's rule: without an endpoint anywhere everybody is refused, whatever the policy.
        if !sets.anywhere {
            return Verdict::Reject;
        }
        let (local, masquerade) = self.policy(packet.source.place, service, entry);
        let Sets {
            cluster, local: near, ..
        } = sets;
        let set = if local { near } else { cluster };
        // kube-proxy's rule: an endpoint elsewhere that the policy Local keeps this client from means silence.
        if set.is_empty() {
            return Verdict::Drop;
        }
        // kube-proxy's rule: with affinity the client keeps its endpoint, as long as it is in the set.
        let kept = packet
            .remembered
            .filter(|kept| service.affinity.is_some() && set.contains(kept));
        let admitted = set.into_iter().filter(|one| kept.is_none_or(|kept| kept == *one));
        let mark = |endpoint: SocketAddr| {
            // kube-proxy's rule: an endpoint that asks itself is always masqueraded.
            let mark = if endpoint.ip() == packet.source.address {
                Masquerade::Hairpin
            } else if masquerade {
                Masquerade::Yes
            } else {
                Masquerade::No
            };
            (endpoint, mark)
        };
        Verdict::Translate(admitted.map(mark).collect())
    }

    /// Whether the Local set is used, and whether the source is hidden.
    fn policy(&self, place: Place, service: &Service, entry: Entry) -> (bool, bool) {
        match (entry, service.external_local, place) {
            // kube-proxy's rule: the internal policy is for cluster addresses alone. Who is no pod of the cluster is masqueraded
            // there, and with masqueradeAll everybody is.
            (Entry::ClusterIp, _, Place::Pod | Place::RemotePod) => {
                (service.internal_local, self.settings.masquerade_all)
            }
            (Entry::ClusterIp, _, Place::Host | Place::Outside) => (service.internal_local, true),
            // kube-proxy's rule: with the external policy Cluster every way in from outside is masqueraded, even for pods.
            (_, false, _) => (false, true),
            // kube-proxy's rule: with the external policy Local pods are treated as if they had gone out and come back by a load
            // balancer that knows every node: any endpoint, no masquerade.
            (_, true, Place::Pod | Place::RemotePod) => (false, false),
            // kube-proxy's rule: and so is the host, with masquerade.
            (_, true, Place::Host) => (false, true),
            // kube-proxy's rule: everybody else gets the endpoints of this node, and is seen as who they are.
            (_, true, Place::Outside) => (true, false),
        }
    }

    /// kube-proxy's rule: ranges of the other family do not count; none left, or one that means everything, lets everybody in. Where the
    /// node itself is let in, so are the load balancer's own addresses, which a node may carry.
    fn is_let_in(&self, service: &Service, packet: &Packet) -> bool {
        let source = packet.source.address;
        let all = service
            .source_ranges
            .iter()
            .filter_map(|text| text::network(text));
        let ranges: Vec<Network> = all.filter(|range| range.is_of_family(packet.to.ip())).collect();
        if ranges.is_empty() || ranges.iter().any(Network::is_everything) {
            return true;
        }
        let within = |address: IpAddr| ranges.iter().any(|range| range.contains(address));
        let node_is_let_in = self.primary(packet.to.ip()).is_some_and(within);
        within(source) || (node_is_let_in && has(&load_balancer_addresses(service), source))
    }
}

/// kube-proxy's rule: of a load balancer's places only addresses count, and only where it delivers packets as they are (`VIP`, or
/// nothing said). Behind a `Proxy` everybody must go through it.
fn load_balancer_addresses(service: &Service) -> Vec<String> {
    let direct = |mode: Option<&str>| mode.is_none_or(|mode| mode == "VIP");
    let places = service
        .ingress
        .iter()
        .filter(|place| direct(place.mode.as_deref()));
    places.filter_map(|place| place.ip.clone()).collect()
}

fn has(texts: &[String], address: IpAddr) -> bool {
    texts.iter().any(|text| text::address(text) == Some(address))
}
