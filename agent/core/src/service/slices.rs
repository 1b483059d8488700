//! EndpointSlices of Services with a selector, from the pods' status.
//!
//! One slice per distinct set of resolved ports: a named target port may be another number in each pod. The slices carry the
//! label of their manager, so that slices written by hand are told apart and left alone.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use sha2::{Digest, Sha256};

use crate::object::Key;

/// Label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names who writes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our value of [`MANAGED_BY`].
pub const MANAGER: &str = "keelson.dev/agent";

/// The slices of all Services with a selector, by key.
pub fn slices(
    services: &BTreeMap<Key, Arc<Service>>,
    pods: &BTreeMap<Key, Arc<Pod>>,
) -> BTreeMap<Key, EndpointSlice> {
    services
        .iter()
        .flat_map(|(key, service)| of_service(key, service, pods))
        .collect()
}

/// Whether a slice is one of ours.
pub fn is_ours(slice: &EndpointSlice) -> bool {
    slice
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|value| value == MANAGER)
}

fn of_service(key: &Key, service: &Service, pods: &BTreeMap<Key, Arc<Pod>>) -> Vec<(Key, EndpointSlice)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut by_ports: BTreeMap<(&'static str, Vec<ResolvedPort>), Vec<Endpoint>> = BTreeMap::new();
    for (pod_key, pod) in pods
        .iter()
        .filter(|(pod_key, _)| pod_key.namespace == key.namespace)
    {
        let labels = pod.metadata.labels.as_ref();
        let selected = selector
            .iter()
            .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value));
        let Some((addresses, endpoint)) = selected.then(|| endpoint(pod_key, pod, publish)).flatten() else {
            continue;
        };
        let ports = resolve(spec.ports.as_deref().unwrap_or_default(), pod);
        for address in addresses {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            if has_family(spec, family) {
                let endpoint = Endpoint {
                    addresses: vec![address.to_string()],
                    ..endpoint.clone()
                };
                by_ports
                    .entry((family, ports.clone()))
                    .or_default()
                    .push(endpoint);
            }
        }
    }
    if by_ports.is_empty() {
        // An empty slice says "no endpoint" and not "not known yet".
        by_ports.insert(("IPv4", Vec::new()), Vec::new());
    }
    by_ports
        .into_iter()
        .map(|((family, ports), endpoints)| slice(key, service, family, ports, endpoints))
        .collect()
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ResolvedPort {
    name: String,
    protocol: String,
    number: i32,
    app_protocol: Option<String>,
}

/// The Service's ports as numbers in this pod; a named port that the pod does not have is left out.
fn resolve(ports: &[ServicePort], pod: &Pod) -> Vec<ResolvedPort> {
    let resolve_one = |port: &ServicePort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let number = match &port.target_port {
            None | Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
        };
        Some(ResolvedPort {
            name: port.name.clone().unwrap_or_default(),
            protocol,
            number,
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.iter().filter_map(resolve_one).collect()
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

/// Whether a Service is of a family; one that does not say is of any.
fn has_family(spec: &ServiceSpec, family: &str) -> bool {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    families.is_empty() || families.iter().any(|own| own == family)
}

/// The addresses of a pod, the first of each family, and what they have in common as endpoints.
fn endpoint(key: &Key, pod: &Pod, publish_not_ready: bool) -> Option<(Vec<IpAddr>, Endpoint)> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let several = status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in status
        .pod_ip
        .as_deref()
        .into_iter()
        .chain(several)
        .filter_map(|text| text.parse().ok())
    {
        let address: IpAddr = address;
        if addresses.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return None;
    }
    let serving = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let spec = pod.spec.as_ref();
    let endpoint = Endpoint {
        conditions: Some(EndpointConditions {
            ready: Some(publish_not_ready || (serving && !terminating)),
            serving: Some(publish_not_ready || serving),
            terminating: Some(terminating),
        }),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        // Only headless Services with a matching subdomain publish host names.
        hostname: spec.and_then(|spec| spec.subdomain.as_ref().and(spec.hostname.clone())),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    };
    Some((addresses, endpoint))
}

fn slice(
    key: &Key,
    service: &Service,
    family: &str,
    ports: Vec<ResolvedPort>,
    endpoints: Vec<Endpoint>,
) -> (Key, EndpointSlice) {
    let name = format!("{}-{}", key.name, suffix(family, &ports));
    let labels = BTreeMap::from([
        (SERVICE_NAME.to_owned(), key.name.clone()),
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
    ]);
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Service".into(),
        name: key.name.clone(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: Some(key.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    let port = |port: ResolvedPort| EndpointPort {
        name: Some(port.name),
        protocol: Some(port.protocol),
        port: Some(port.number),
        app_protocol: port.app_protocol,
    };
    let slice = EndpointSlice {
        metadata,
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.into_iter().map(port).collect()),
    };
    (Key::new(&key.namespace, &name), slice)
}

/// The same ports always give the same name: a slice is updated, not replaced.
fn suffix(family: &str, ports: &[ResolvedPort]) -> String {
    let mut hash = Sha256::new();
    hash.update(family);
    for port in ports {
        hash.update(format!("/{}:{}:{}", port.name, port.protocol, port.number));
    }
    hash.finalize()
        .iter()
        .take(3)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::test_objects::{pod, service};

    fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
        slice.endpoints.as_deref().unwrap_or_default()
    }

    fn only(services: Vec<(Key, Arc<Service>)>, pods: Vec<(Key, Arc<Pod>)>) -> Vec<EndpointSlice> {
        slices(&services.into_iter().collect(), &pods.into_iter().collect())
            .into_values()
            .collect()
    }

    #[test]
    fn a_ready_pod_is_a_ready_endpoint() {
        let found = only(
            vec![service("web", "10.96.0.1")],
            vec![pod("a", "10.244.0.5", true)],
        );
        let endpoint = &endpoints(&found[0])[0];
        assert_eq!(endpoint.addresses, ["10.244.0.5"]);
        assert_eq!(endpoint.conditions.as_ref().and_then(|c| c.ready), Some(true));
        assert_eq!(
            found[0].ports.as_ref().map(|ports| ports[0].port),
            Some(Some(8080))
        );
    }

    #[test]
    fn a_pod_of_two_families_is_an_endpoint_in_each_that_the_service_has() {
        let (pod_key, mut both) = pod("a", "10.244.0.5", true);
        let status = Arc::make_mut(&mut both).status.as_mut().expect("status");
        let ip = |text: &str| k8s_openapi::api::core::v1::PodIP { ip: text.into() };
        status.pod_ips = Some(vec![ip("10.244.0.5"), ip("fd00:244::5")]);
        for (families, expected) in [
            (None, vec!["10.244.0.5", "fd00:244::5"]),
            (Some(vec!["IPv4"]), vec!["10.244.0.5"]),
            (Some(vec!["IPv6"]), vec!["fd00:244::5"]),
            (Some(vec!["IPv6", "IPv4"]), vec!["10.244.0.5", "fd00:244::5"]),
        ] {
            let (key, mut web) = service("web", "10.96.0.1");
            let families = families.map(|all: Vec<&str>| all.into_iter().map(Into::into).collect());
            Arc::make_mut(&mut web).spec.as_mut().expect("spec").ip_families = families;
            let found = only(vec![(key, web)], vec![(pod_key.clone(), both.clone())]);
            let mut addresses: Vec<_> = found
                .iter()
                .map(|slice| endpoints(slice)[0].addresses[0].as_str())
                .collect();
            addresses.sort_unstable();
            assert_eq!(addresses, expected);
        }
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let (key, mut leaving) = pod("a", "10.244.0.5", true);
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        Arc::make_mut(&mut leaving).metadata.deletion_timestamp = Some(time);
        let found = only(vec![service("web", "10.96.0.1")], vec![(key, leaving)]);
        let conditions = endpoints(&found[0])[0].conditions.clone().expect("conditions");
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
    }

    #[test]
    fn pods_of_another_namespace_or_label_or_without_address_are_no_endpoints() {
        let (_, other) = pod("a", "10.244.0.5", true);
        let (plain_key, mut unlabelled) = pod("b", "10.244.0.6", true);
        Arc::make_mut(&mut unlabelled).metadata.labels = None;
        let (none_key, mut addressless) = pod("c", "10.244.0.7", true);
        Arc::make_mut(&mut addressless)
            .status
            .as_mut()
            .expect("status")
            .pod_ip = None;
        let pods = vec![
            (Key::new("elsewhere", "a"), other),
            (plain_key, unlabelled),
            (none_key, addressless),
        ];
        let found = only(vec![service("web", "10.96.0.1")], pods);
        assert_eq!(found.len(), 1, "an empty slice says that there is no endpoint");
        assert!(endpoints(&found[0]).is_empty());
    }

    #[test]
    fn a_named_target_port_is_resolved_in_each_pod() {
        let (key, mut named) = service("web", "10.96.0.1");
        let ports = Arc::make_mut(&mut named)
            .spec
            .as_mut()
            .and_then(|spec| spec.ports.as_mut())
            .expect("ports");
        ports[0].target_port = Some(IntOrString::String("http".into()));
        let (pod_key, mut moved) = pod("b", "10.244.0.6", true);
        let container = &mut Arc::make_mut(&mut moved).spec.as_mut().expect("spec").containers[0];
        container.ports.as_mut().expect("ports")[0].container_port = 9090;
        let found = only(
            vec![(key, named)],
            vec![pod("a", "10.244.0.5", true), (pod_key, moved)],
        );
        let mut numbers: Vec<_> = found
            .iter()
            .filter_map(|slice| slice.ports.as_ref()?[0].port)
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [8080, 9090]);
    }

    #[test]
    fn the_name_of_a_slice_does_not_change_with_its_endpoints() {
        let one = only(
            vec![service("web", "10.96.0.1")],
            vec![pod("a", "10.244.0.5", true)],
        );
        let two = only(
            vec![service("web", "10.96.0.1")],
            vec![pod("a", "10.244.0.5", true), pod("b", "10.244.0.6", true)],
        );
        assert_eq!(one[0].metadata.name, two[0].metadata.name);
    }
}
