//! Frontends and their endpoints on this node: what the maps should hold, without ids and revisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::EndpointSlice,
};
use keelson_abi::{BACKEND_NODE, Backend, FRONTEND_DROP, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey};

use super::{
    select::{self, Endpoint, Place},
    slices::SERVICE_NAME,
};
use crate::object::Key;

/// Another proxy serves this Service.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Nothing is programmed for this Service.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// This node, as far as Services see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Every address that NodePorts are served on, and that makes an endpoint one of the node's own.
    pub addresses: Vec<IpAddr>,
}

/// Frontends that share one set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `namespace/name:port`, for people.
    pub name: String,
    /// What clients ask for, and the `FRONTEND_*` flags of each.
    pub frontends: BTreeMap<FrontendKey, u32>,
    /// The endpoints chosen, each once.
    pub backends: BTreeSet<BackendAddress>,
    /// ClientIP affinity, seconds; 0 = none.
    pub affinity_seconds: u32,
}

/// An endpoint in the order-free form that sets are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendAddress {
    /// Address.
    pub address: IpAddr,
    /// Port, host byte order.
    pub port: u16,
    /// The endpoint is an address of this node.
    pub node: bool,
}

impl From<BackendAddress> for Backend {
    fn from(backend: BackendAddress) -> Self {
        Self {
            addr: backend.address.into(),
            port_be: backend.port.to_be(),
            flags: if backend.node { BACKEND_NODE } else { 0 },
        }
    }
}

/// All that the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Groups in a stable order.
    pub groups: Vec<Group>,
    /// Known Service addresses: their undefined ports are refused.
    pub guards: BTreeSet<IpAddr>,
}

/// The desired maps of this node.
pub fn desired(
    services: &BTreeMap<Key, Arc<Service>>,
    slices: &BTreeMap<Key, Arc<EndpointSlice>>,
    node: &NodeView,
) -> Desired {
    let mut by_service: BTreeMap<Key, Vec<&EndpointSlice>> = BTreeMap::new();
    for (key, slice) in slices {
        if let Some(name) = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(SERVICE_NAME))
            && slice.address_type != "FQDN"
        {
            by_service
                .entry(Key::new(&key.namespace, name))
                .or_default()
                .push(slice);
        }
    }
    let mut desired = Desired::default();
    for (key, service) in services.iter().filter(|(_, service)| is_proxied(service)) {
        let slices = by_service.get(key).map(Vec::as_slice).unwrap_or_default();
        let addresses = cluster_addresses(service);
        for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
            desired
                .groups
                .extend(groups_of_port(key, service, port, &addresses, slices, node));
        }
        desired.guards.extend(addresses);
    }
    desired
}

/// Whether a Service has an address that is programmed at all.
fn is_proxied(service: &Service) -> bool {
    let labelled = |name| {
        service
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(name))
    };
    let external_name = service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
    !external_name
        && !labelled(SERVICE_PROXY_NAME)
        && !labelled(HEADLESS)
        && !cluster_addresses(service).is_empty()
}

/// `clusterIPs`, or `clusterIP` where only that is set; nothing for headless Services.
fn cluster_addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let single = spec.cluster_ip.iter();
    let several = spec.cluster_ips.iter().flatten();
    let addresses: BTreeSet<IpAddr> = single
        .chain(several)
        .filter_map(|text| text.parse().ok())
        .collect();
    addresses.into_iter().collect()
}

fn groups_of_port(
    key: &Key,
    service: &Service,
    port: &ServicePort,
    addresses: &[IpAddr],
    slices: &[&EndpointSlice],
    node: &NodeView,
) -> Vec<Group> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some((proto, number)) = protocol(port).zip(u16::try_from(port.port).ok()) else {
        return Vec::new();
    };
    let place = Place {
        node: &node.name,
        zone: node.zone.as_deref(),
    };
    let choice = select::categorize(&endpoints(port, slices, node), place);
    let node_port = port
        .node_port
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0);
    let frontend = |addr: IpAddr, port: u16| FrontendKey {
        addr: addr.into(),
        port_be: port.to_be(),
        proto,
        reserved: 0,
    };
    let internal = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external = spec.external_traffic_policy.as_deref() == Some("Local");
    let name = format!(
        "{key}:{}",
        port.name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("port")
    );
    let cluster_keys = addresses.iter().map(|addr| (frontend(*addr, number), 0));
    let node_keys = node_port.into_iter().flat_map(|number| {
        node.addresses
            .iter()
            .map(move |addr| (frontend(*addr, number), FRONTEND_EXTERNAL | FRONTEND_NODE_PORT))
    });
    let group = |name: String, keys: Vec<(FrontendKey, u32)>, local: bool| {
        let chosen = if local { &choice.local } else { &choice.cluster };
        let drop = if local && chosen.is_empty() && choice.anywhere {
            FRONTEND_DROP
        } else {
            0
        };
        Group {
            name,
            frontends: keys.into_iter().map(|(key, flags)| (key, flags | drop)).collect(),
            backends: chosen.iter().map(|endpoint| backend(endpoint, node)).collect(),
            affinity_seconds: affinity(service),
        }
    };
    if internal == external {
        return vec![group(name, cluster_keys.chain(node_keys).collect(), internal)];
    }
    // The two policies choose from different sets, so the addresses inside and outside are two groups.
    let outside: Vec<_> = node_keys.collect();
    let mut groups = vec![group(name.clone(), cluster_keys.collect(), internal)];
    if !outside.is_empty() {
        groups.push(group(format!("{name} (external)"), outside, external));
    }
    groups
}

fn backend(endpoint: &Endpoint, node: &NodeView) -> BackendAddress {
    BackendAddress {
        address: endpoint.address,
        port: endpoint.port,
        node: node.addresses.contains(&endpoint.address),
    }
}

/// The endpoints of one Service port, by port name; several slices are merged, an endpoint that is not terminating wins
/// over the same address in another slice that is.
fn endpoints(port: &ServicePort, slices: &[&EndpointSlice], node: &NodeView) -> Vec<Endpoint> {
    let wanted = (
        port.name.as_deref().unwrap_or_default(),
        port.protocol.as_deref().unwrap_or("TCP"),
    );
    let mut merged: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in slices {
        let matching = slice.ports.iter().flatten().find(|port| {
            (
                port.name.as_deref().unwrap_or_default(),
                port.protocol.as_deref().unwrap_or("TCP"),
            ) == wanted
        });
        let Some(number) = matching
            .and_then(|port| port.port)
            .and_then(|number| u16::try_from(number).ok())
        else {
            continue;
        };
        for endpoint in slice
            .endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| parse(endpoint, number, node))
        {
            merged
                .entry((endpoint.address, endpoint.port))
                .and_modify(|known| {
                    if known.terminating && !endpoint.terminating {
                        *known = endpoint.clone();
                    }
                })
                .or_insert(endpoint);
        }
    }
    merged.into_values().collect()
}

/// Only the first address counts; absent conditions mean ready, serving and not terminating.
fn parse(
    endpoint: &k8s_openapi::api::discovery::v1::Endpoint,
    port: u16,
    node: &NodeView,
) -> Option<Endpoint> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    Some(Endpoint {
        address,
        port,
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(node.name.as_str()),
        node_hints: hints
            .iter()
            .flat_map(|h| h.for_nodes.iter().flatten())
            .map(|hint| hint.name.clone())
            .collect(),
        zone_hints: hints
            .iter()
            .flat_map(|h| h.for_zones.iter().flatten())
            .map(|hint| hint.name.clone())
            .collect(),
    })
}

/// IPPROTO_* of a port; `None` for a protocol the dataplane does not know.
fn protocol(port: &ServicePort) -> Option<u8> {
    match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn affinity(service: &Service) -> u32 {
    let Some(spec) = service
        .spec
        .as_ref()
        .filter(|spec| spec.session_affinity.as_deref() == Some("ClientIP"))
    else {
        return 0;
    };
    let client_ip = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip
        .and_then(|client_ip| client_ip.timeout_seconds)
        .unwrap_or(10_800);
    u32::try_from(seconds).unwrap_or(10_800)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointConditions;

    use super::*;
    use crate::service::{
        slices::slices,
        test_objects::{pod, service},
    };

    fn node() -> NodeView {
        NodeView {
            name: "n1".into(),
            zone: None,
            addresses: vec![IpAddr::from([192, 168, 50, 1])],
        }
    }

    fn computed(
        edit: impl FnOnce(&mut Service),
        pods: Vec<(Key, Arc<k8s_openapi::api::core::v1::Pod>)>,
    ) -> Desired {
        let (key, mut object) = service("web", "10.96.0.1");
        edit(Arc::make_mut(&mut object));
        let services = BTreeMap::from([(key, object)]);
        let slices = slices(&services, &pods.into_iter().collect());
        let slices = slices
            .into_iter()
            .map(|(key, slice)| (key, Arc::new(slice)))
            .collect();
        desired(&services, &slices, &node())
    }

    fn with_node_port(service: &mut Service) {
        let spec = service.spec.as_mut().expect("spec");
        spec.type_ = Some("NodePort".into());
        spec.ports.as_mut().expect("ports")[0].node_port = Some(30080);
    }

    fn key(addr: [u8; 4], port: u16) -> FrontendKey {
        FrontendKey {
            addr: IpAddr::from(addr).into(),
            port_be: port.to_be(),
            proto: 6,
            reserved: 0,
        }
    }

    #[test]
    fn a_node_port_stands_beside_the_cluster_address_with_the_same_endpoints() {
        let desired = computed(with_node_port, vec![pod("a", "10.244.0.5", true)]);
        assert_eq!(desired.groups.len(), 1);
        let group = &desired.groups[0];
        assert_eq!(group.frontends.get(&key([10, 96, 0, 1], 80)), Some(&0));
        assert_eq!(
            group.frontends.get(&key([192, 168, 50, 1], 30080)),
            Some(&(FRONTEND_EXTERNAL | FRONTEND_NODE_PORT))
        );
        let ports: Vec<_> = group.backends.iter().map(|backend| backend.port).collect();
        assert_eq!(ports, [8080]);
        assert!(desired.guards.contains(&IpAddr::from([10, 96, 0, 1])));
    }

    #[test]
    fn an_endpoint_on_the_nodes_own_address_is_marked() {
        let desired = computed(|_| {}, vec![pod("host", "192.168.50.1", true)]);
        assert!(desired.groups[0].backends.iter().all(|backend| backend.node));
    }

    #[test]
    fn a_service_without_endpoints_keeps_its_frontend_so_that_it_refuses() {
        let desired = computed(|_| {}, vec![pod("a", "10.244.0.5", false)]);
        assert_eq!(desired.groups[0].frontends.len(), 1);
        assert!(desired.groups[0].backends.is_empty());
    }

    #[test]
    fn headless_external_name_and_foreign_proxy_services_are_not_programmed() {
        let headless = |service: &mut Service| {
            let spec = service.spec.as_mut().expect("spec");
            spec.cluster_ip = Some("None".into());
            spec.cluster_ips = Some(vec!["None".into()]);
        };
        let label = |name: &'static str| {
            move |service: &mut Service| {
                service.metadata.labels = Some(BTreeMap::from([(name.to_owned(), String::new())]));
            }
        };
        assert_eq!(computed(headless, Vec::new()), Desired::default());
        assert_eq!(
            computed(label(SERVICE_PROXY_NAME), Vec::new()),
            Desired::default()
        );
        assert_eq!(computed(label(HEADLESS), Vec::new()), Desired::default());
        let external = |service: &mut Service| {
            service.spec.as_mut().expect("spec").type_ = Some("ExternalName".into());
        };
        assert_eq!(computed(external, Vec::new()), Desired::default());
    }

    #[test]
    fn a_local_external_policy_without_a_local_endpoint_drops_instead_of_refusing() {
        let (slice_key, far) = {
            let (key, object) = service("web", "10.96.0.1");
            let services = BTreeMap::from([(key, object)]);
            slices(&services, &BTreeMap::from([pod("a", "10.244.1.5", true)]))
                .pop_first()
                .expect("slice")
        };
        let mut far = far;
        far.endpoints.as_mut().expect("endpoints")[0].node_name = Some("n2".into());
        let (service_key, mut object) = service("web", "10.96.0.1");
        with_node_port(Arc::make_mut(&mut object));
        Arc::make_mut(&mut object)
            .spec
            .as_mut()
            .expect("spec")
            .external_traffic_policy = Some("Local".into());
        let desired = desired(
            &BTreeMap::from([(service_key, object)]),
            &BTreeMap::from([(slice_key, Arc::new(far))]),
            &node(),
        );
        assert_eq!(desired.groups.len(), 2);
        assert_eq!(desired.groups[0].backends.len(), 1);
        assert!(desired.groups[1].backends.is_empty());
        assert_eq!(
            desired.groups[1].frontends.get(&key([192, 168, 50, 1], 30080)),
            Some(&(FRONTEND_EXTERNAL | FRONTEND_NODE_PORT | FRONTEND_DROP))
        );
    }

    #[test]
    fn the_same_endpoint_in_two_slices_counts_once_and_prefers_the_one_that_stays() {
        let (key, object) = service("web", "10.96.0.1");
        let services = BTreeMap::from([(key, object)]);
        let (slice_key, stays) = slices(&services, &BTreeMap::from([pod("a", "10.244.0.5", true)]))
            .pop_first()
            .expect("slice");
        let mut leaves = stays.clone();
        leaves.endpoints.as_mut().expect("endpoints")[0].conditions = Some(EndpointConditions {
            ready: Some(false),
            serving: Some(true),
            terminating: Some(true),
        });
        let other = Key::new("default", "a-written-by-hand");
        let slices = BTreeMap::from([(slice_key, Arc::new(stays)), (other, Arc::new(leaves))]);
        let desired = desired(&services, &slices, &node());
        assert_eq!(desired.groups[0].backends.len(), 1);
    }

    #[test]
    fn affinity_has_the_timeout_of_the_service() {
        let sticky = |service: &mut Service| {
            service.spec.as_mut().expect("spec").session_affinity = Some("ClientIP".into());
        };
        assert_eq!(computed(sticky, Vec::new()).groups[0].affinity_seconds, 10_800);
    }
}
