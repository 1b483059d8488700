//! Builds the groups of a Service: which addresses are asked under which policy, and which endpoints answer.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use keelson_abi::{
    BACKEND_NODE, Backend, FRONTEND_DROP, FRONTEND_EXTERNAL, FRONTEND_LOCAL, FRONTEND_MEMBERS,
    FRONTEND_NODE_PORT, FRONTEND_RANGES, FRONTEND_RESET_GONE, FrontendKey, MEMBER_CLUSTER, MEMBER_LOCAL,
};

use super::{
    address,
    desired::{Group, GroupId, Report, ServiceView, Settings},
    endpoints::{self, Skipped},
    health::HealthCheck,
    node::NodeView,
    select::{self, Choice, Endpoint, Place},
};

/// Endpoints that a table of 16-bit slots can name.
const MAGLEV_ENDPOINTS: usize = 65_535;
/// IPPROTO_UDP.
const UDP: u8 = 17;

/// The addresses of a Service in one family.
struct Addresses {
    v6: bool,
    cluster: IpAddr,
    external: BTreeSet<IpAddr>,
    balancer: BTreeSet<IpAddr>,
    ranges: BTreeSet<IpNet>,
}

/// One Service under construction.
pub(super) struct Builder<'a> {
    service: &'a Service,
    spec: &'a ServiceSpec,
    settings: Settings,
    slices: &'a [&'a EndpointSlice],
    node: &'a NodeView,
    skipped: Skipped,
    view: &'a mut ServiceView,
}

impl<'a> Builder<'a> {
    /// Nothing yet.
    pub(super) fn new(
        service: &'a Service,
        spec: &'a ServiceSpec,
        settings: Settings,
        slices: &'a [&'a EndpointSlice],
        node: &'a NodeView,
        view: &'a mut ServiceView,
    ) -> Self {
        Self {
            service,
            spec,
            settings,
            slices,
            node,
            skipped: Skipped::default(),
            view,
        }
    }

    /// All groups of one family. A family without a cluster address has none, whatever other addresses are there.
    pub(super) fn family(&mut self, cluster: IpAddr) {
        self.view.guards.insert(cluster);
        let addresses = self.addresses(cluster);
        for port in self.spec.ports.iter().flatten() {
            if let Some(group) = self.group(port, &addresses) {
                self.view.groups.push(group);
            }
        }
        self.health(addresses.v6);
    }

    /// Order and last words.
    pub(super) fn finish(self) {
        self.view.groups.sort_by_key(|group| group.id);
        if let Some(message) = self.skipped.message() {
            self.view.reports.insert(Report {
                reason: "UnusableEndpoint",
                message,
            });
        }
    }

    fn report(&mut self, reason: &'static str, message: String) {
        self.view.reports.insert(Report { reason, message });
    }

    fn addresses(&mut self, cluster: IpAddr) -> Addresses {
        let v6 = cluster.is_ipv6();
        let external = self.external_addresses(v6);
        let balancer = self.balancer_addresses(v6);
        let ranges = self.source_ranges(v6, &balancer);
        Addresses {
            v6,
            cluster,
            external,
            balancer,
            ranges,
        }
    }

    fn external_addresses(&mut self, v6: bool) -> BTreeSet<IpAddr> {
        let all = self.spec.external_ips.as_deref().unwrap_or_default();
        if !self.node.external_ips {
            if !all.is_empty() {
                let message =
                    "spec.externalIPs are not programmed: externalIPs is off in this node's configuration";
                self.report("ExternalIPsOff", message.into());
            }
            return BTreeSet::new();
        }
        let texts = all.iter().map(String::as_str);
        self.usable("spec.externalIPs", texts, v6)
    }

    /// Addresses that the load balancer passes on as they are. Where it is a proxy (`ipMode: Proxy`) packets must really go there.
    fn balancer_addresses(&mut self, v6: bool) -> BTreeSet<IpAddr> {
        let status = self.service.status.as_ref();
        let ingress = status
            .and_then(|status| status.load_balancer.as_ref())
            .and_then(|balancer| balancer.ingress.as_deref())
            .unwrap_or_default();
        let passed_on = ingress
            .iter()
            .filter(|one| one.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
        let texts = passed_on
            .filter_map(|one| one.ip.as_deref())
            .filter(|text| !text.is_empty());
        self.usable("status.loadBalancer.ingress", texts, v6)
    }

    fn usable<'t>(
        &mut self,
        field: &str,
        texts: impl Iterator<Item = &'t str>,
        v6: bool,
    ) -> BTreeSet<IpAddr> {
        let mut usable = BTreeSet::new();
        for text in texts {
            match address::parse(text) {
                Some(address) if !address::is_usable(address) => {
                    self.report(
                        "UnusableAddress",
                        format!("{field}: nothing can be served at {address}"),
                    );
                }
                Some(address) => {
                    if address.is_ipv6() == v6 {
                        usable.insert(address);
                    }
                }
                None => {
                    let text: String = text.chars().take(64).collect();
                    self.report("UnusableAddress", format!("{field}: {text:?} is not an address"));
                }
            }
        }
        usable
    }

    /// Empty = everybody is let in: no range of this family, or one that holds all of it.
    fn source_ranges(&mut self, v6: bool, balancer: &BTreeSet<IpAddr>) -> BTreeSet<IpNet> {
        let mut ranges = BTreeSet::new();
        for text in self.spec.load_balancer_source_ranges.iter().flatten() {
            match address::parse_network(text) {
                Some(net) if matches!(net, IpNet::V6(_)) == v6 => drop(ranges.insert(net)),
                Some(_) => {}
                None => {
                    let text: String = text.chars().take(64).collect();
                    let message = format!("spec.loadBalancerSourceRanges: {text:?} is not a network");
                    self.report("UnusableSourceRange", message);
                }
            }
        }
        if ranges.iter().any(|net| net.prefix_len() == 0) {
            return BTreeSet::new();
        }
        // A node that is let in may ask the address with that very address as its source.
        let node = self.node.primary(v6);
        if node.is_some_and(|node| ranges.iter().any(|net| net.contains(&node))) {
            ranges.extend(balancer.iter().map(|address| IpNet::from(*address)));
        }
        ranges
    }

    fn group(&mut self, port: &ServicePort, addresses: &Addresses) -> Option<Group> {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let Some(proto) = number_of(protocol) else {
            let protocol: String = protocol.chars().take(16).collect();
            self.report(
                "UnknownProtocol",
                format!("port {}: protocol {protocol:?}", port.port),
            );
            return None;
        };
        let Some(number) = u16::try_from(port.port).ok().filter(|number| *number != 0) else {
            self.report(
                "UnusablePort",
                format!("port {} is not within 1 to 65535", port.port),
            );
            return None;
        };
        let id = GroupId {
            v6: addresses.v6,
            proto,
            port: number,
        };
        if self.view.groups.iter().any(|group| group.id == id) {
            self.report(
                "UnusablePort",
                format!("port {number}/{protocol} stands there twice: the first one counts"),
            );
            return None;
        }
        let slices = self.slices.iter().copied();
        let name = port.name.as_deref().unwrap_or_default();
        let found = endpoints::of_port(name, protocol, addresses.v6, slices, self.node, &mut self.skipped);
        let place = Place {
            node: &self.node.name,
            zone: self.node.zone.as_deref(),
        };
        let choice = select::categorize(&found, place);
        let mut group = Group {
            id,
            frontends: std::collections::BTreeMap::new(),
            cluster: Vec::new(),
            local: Vec::new(),
            serving: Vec::new(),
            ranges: BTreeSet::new(),
            affinity_seconds: self.settings.affinity_seconds,
            maglev: self.settings.maglev,
        };
        self.frontends(&mut group, port, addresses, &choice);
        self.endpoints(&mut group, &choice, &found);
        Some(group)
    }

    fn frontends(&self, group: &mut Group, port: &ServicePort, addresses: &Addresses, choice: &Choice) {
        let GroupId {
            proto, port: number, ..
        } = group.id;
        let key = |addr: IpAddr, port: u16| FrontendKey {
            addr: addr.into(),
            port_be: port.to_be(),
            proto,
            reserved: 0,
        };
        let drop = if choice.local.is_empty() && choice.anywhere {
            FRONTEND_DROP
        } else {
            0
        };
        let local = |is: bool| if is { FRONTEND_LOCAL | drop } else { 0 };
        let mut every = 0;
        if proto == UDP || group.affinity_seconds > 0 || self.settings.reset_gone {
            every |= FRONTEND_MEMBERS;
        }
        if self.settings.reset_gone {
            every |= FRONTEND_RESET_GONE;
        }
        let outside = every | FRONTEND_EXTERNAL | local(self.settings.external_local);
        let mut ranges = 0;
        if !addresses.balancer.is_empty() && !addresses.ranges.is_empty() {
            ranges = FRONTEND_RANGES;
            group.ranges.clone_from(&addresses.ranges);
        }
        // Of an address that stands in several fields the most particular one counts.
        for address in &addresses.external {
            group.frontends.insert(key(*address, number), outside);
        }
        for address in &addresses.balancer {
            group.frontends.insert(key(*address, number), outside | ranges);
        }
        let node_port = port.node_port.and_then(|number| u16::try_from(number).ok());
        let loopback = if self.node.localhost_node_ports {
            FRONTEND_NODE_PORT
        } else {
            0
        };
        if let Some(number) = node_port.filter(|number| *number != 0) {
            for address in self.node.node_port_addresses(addresses.v6) {
                group.frontends.insert(key(address, number), outside | loopback);
            }
        }
        let inside = every | local(self.settings.internal_local);
        group.frontends.insert(key(addresses.cluster, number), inside);
    }

    /// Only the sets that somebody is given: the Cluster one unless all is internal and Local, the Local one where a policy says so.
    fn endpoints(&mut self, group: &mut Group, choice: &Choice, found: &[Endpoint]) {
        let accessible = group
            .frontends
            .values()
            .any(|flags| flags & FRONTEND_EXTERNAL != 0);
        let backends = |endpoints: &[Endpoint]| -> Vec<Backend> {
            endpoints
                .iter()
                .map(|endpoint| backend(endpoint, self.node))
                .collect()
        };
        if !self.settings.internal_local || accessible {
            group.cluster = backends(&choice.cluster);
        }
        if self.settings.internal_local || (self.settings.external_local && accessible) {
            group.local = backends(&choice.local);
        }
        group.serving = members(found, group, self.node);
        if group.maglev && group.cluster.len() > MAGLEV_ENDPOINTS {
            group.maglev = false;
            let message = format!(
                "port {}: {} endpoints are more than a Maglev table names ({MAGLEV_ENDPOINTS}); they are chosen at random",
                group.id.port,
                group.cluster.len()
            );
            self.report("TooManyEndpoints", message);
        }
    }

    fn health(&mut self, v6: bool) {
        if self.spec.type_.as_deref() != Some("LoadBalancer")
            || self.spec.external_traffic_policy.as_deref() != Some("Local")
        {
            return;
        }
        let port = self
            .spec
            .health_check_node_port
            .and_then(|port| u16::try_from(port).ok());
        let Some(port) = port.filter(|port| *port != 0) else {
            let message = "spec.healthCheckNodePort is not set: load balancers cannot ask whether this node has endpoints";
            return self.report("NoHealthCheckNodePort", message.into());
        };
        let ready = endpoints::local_ready(v6, self.slices.iter().copied(), self.node).len();
        let health = self.view.health.get_or_insert_with(|| HealthCheck {
            port,
            ..HealthCheck::default()
        });
        let addresses = self.node.health_check_addresses(v6);
        health
            .listeners
            .extend(addresses.into_iter().map(|address| (address, ready)));
    }
}

/// Every endpoint that serves or is chosen, with the sets it is in. All three lists have one order, so one walk is enough.
fn members(found: &[Endpoint], group: &Group, node: &NodeView) -> Vec<(Backend, u16)> {
    let (mut cluster, mut local) = (group.cluster.iter().peekable(), group.local.iter().peekable());
    let mut members = Vec::new();
    for endpoint in found {
        let one = backend(endpoint, node);
        let mut flags = 0;
        if cluster.next_if(|chosen| **chosen == one).is_some() {
            flags |= MEMBER_CLUSTER;
        }
        if local.next_if(|chosen| **chosen == one).is_some() {
            flags |= MEMBER_LOCAL;
        }
        if endpoint.serving || flags != 0 {
            members.push((one, flags));
        }
    }
    members
}

fn backend(endpoint: &Endpoint, node: &NodeView) -> Backend {
    let own = node.addresses.contains(&endpoint.address);
    Backend {
        addr: endpoint.address.into(),
        port_be: endpoint.port.to_be(),
        flags: if own { BACKEND_NODE } else { 0 },
    }
}

/// IPPROTO_* of a protocol; `None` for one that the dataplane does not know.
fn number_of(protocol: &str) -> Option<u8> {
    match protocol {
        "TCP" => Some(6),
        "UDP" => Some(UDP),
        "SCTP" => Some(132),
        _ => None,
    }
}
