//! Rules for Services.

use std::{collections::BTreeSet, net::Ipv4Addr};

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Faults, Rules, field, item, names};

pub(super) fn check(service: &Service, rules: &Rules, faults: &mut Faults) {
    let Some(spec) = &service.spec else {
        return faults.add("spec", "is missing");
    };
    faults.one_of("spec.type", spec.type_.as_deref(), &["ClusterIP", "NodePort"]);
    unsupported(spec, faults);
    cluster_ip(spec, rules, faults);
    for (key, value) in spec.selector.iter().flatten() {
        faults.check(
            field("spec.selector", key),
            names::qualified(key).or_else(|| names::label_value(value)),
        );
    }
    ports(spec, rules, faults);
}

/// What would change where packets go and is not implemented is refused: it must not run without it.
fn unsupported(spec: &ServiceSpec, faults: &mut Faults) {
    faults.one_of(
        "spec.sessionAffinity",
        spec.session_affinity.as_deref(),
        &["None"],
    );
    faults.one_of(
        "spec.internalTrafficPolicy",
        spec.internal_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    );
    faults.one_of(
        "spec.externalTrafficPolicy",
        spec.external_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    );
    faults.one_of(
        "spec.ipFamilyPolicy",
        spec.ip_family_policy.as_deref(),
        &["SingleStack"],
    );
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        faults.one_of(&item("spec.ipFamilies", index), Some(family), &["IPv4"]);
    }
    let set = [
        (
            "externalIPs",
            spec.external_ips.as_ref().is_some_and(|all| !all.is_empty()),
        ),
        ("externalName", spec.external_name.is_some()),
        (
            "healthCheckNodePort",
            spec.health_check_node_port.is_some_and(|port| port != 0),
        ),
        ("loadBalancerClass", spec.load_balancer_class.is_some()),
        ("loadBalancerIP", spec.load_balancer_ip.is_some()),
        (
            "loadBalancerSourceRanges",
            spec.load_balancer_source_ranges
                .as_ref()
                .is_some_and(|all| !all.is_empty()),
        ),
        ("trafficDistribution", spec.traffic_distribution.is_some()),
    ];
    for (name, _) in set.into_iter().filter(|(_, set)| *set) {
        faults.add(field("spec", name), "is not supported by this version");
    }
}

fn cluster_ip(spec: &ServiceSpec, rules: &Rules, faults: &mut Faults) {
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if !all.is_empty() && all != spec.cluster_ip.as_slice() {
        faults.add("spec.clusterIPs", "must hold exactly what spec.clusterIP says");
    }
    let Some(text) = spec.cluster_ip.as_deref() else {
        return;
    };
    if text == "None" {
        if spec.type_.as_deref() != Some("ClusterIP") {
            faults.add(
                "spec.clusterIP",
                "a headless Service (None) must be of type ClusterIP",
            );
        }
    } else {
        let net = rules.service_cidr;
        let usable = |address: &Ipv4Addr| {
            net.contains(address) && *address != net.network() && *address != net.broadcast()
        };
        match text.parse::<Ipv4Addr>() {
            Ok(address) if usable(&address) => {}
            Ok(_) => faults.add(
                "spec.clusterIP",
                format!("{text} is not a host address within the node's serviceCIDR {net}"),
            ),
            Err(_) => faults.add(
                "spec.clusterIP",
                format!("{text:?} is neither None nor an IPv4 address"),
            ),
        }
    }
}

fn ports(spec: &ServiceSpec, rules: &Rules, faults: &mut Faults) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        faults.add("spec.ports", "at least one port is needed");
    }
    let (mut seen_names, mut seen_ports, mut seen_node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = item("spec.ports", index);
        one_port(port, &path, rules, faults);
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            faults.add(field(&path, "name"), "is needed when there is more than one port");
        } else if !seen_names.insert(name) {
            faults.add(
                field(&path, "name"),
                format!("{name:?} is the name of another port"),
            );
        }
        if !seen_ports.insert((port.port, port.protocol.as_deref())) {
            faults.add(
                field(&path, "port"),
                "another port has the same number and protocol",
            );
        }
        if let Some(number) = port.node_port {
            let at = field(&path, "nodePort");
            if spec.type_.as_deref() == Some("ClusterIP") {
                faults.add(&at, "must not be set when the type is ClusterIP");
            }
            if !seen_node_ports.insert((number, port.protocol.as_deref())) {
                faults.add(&at, "another port has the same nodePort and protocol");
            }
        }
    }
}

fn one_port(port: &ServicePort, path: &str, rules: &Rules, faults: &mut Faults) {
    faults.port(field(path, "port"), port.port);
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        faults.check(field(path, "name"), names::label(name));
    }
    // The dataplane reads ports of TCP and UDP.
    faults.one_of(
        &field(path, "protocol"),
        port.protocol.as_deref(),
        &["TCP", "UDP"],
    );
    match &port.target_port {
        Some(IntOrString::Int(number)) => faults.port(field(path, "targetPort"), *number),
        Some(IntOrString::String(name)) => faults.check(field(path, "targetPort"), names::port(name)),
        None => {}
    }
    let (first, last) = rules.node_port_range;
    if let Some(number) = port.node_port
        && !(i32::from(first)..=i32::from(last)).contains(&number)
    {
        faults.add(
            field(path, "nodePort"),
            format!("{number} is outside the node's range {first} to {last}"),
        );
    }
}
