//! Rules for Services.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Faults, Rules, field, item, names};

pub(super) fn check(service: &Service, rules: &Rules, faults: &mut Faults) {
    let Some(spec) = &service.spec else {
        return faults.add("spec", "is missing");
    };
    let kinds = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    faults.one_of("spec.type", spec.type_.as_deref(), &kinds);
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
    words(spec, faults);
    let affinity = spec.session_affinity_config.as_ref();
    let seconds = affinity.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    if seconds.is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
        let at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        faults.add(at, "must be within 1 to 86400");
    }
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        if text.parse::<IpAddr>().is_err() {
            faults.add(
                item("spec.externalIPs", index),
                format!("{text:?} is not an IP address"),
            );
        }
    }
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        if text.trim().parse::<IpNet>().is_err() {
            let at = item("spec.loadBalancerSourceRanges", index);
            faults.add(at, format!("{text:?} is not a network such as 192.0.2.0/24"));
        }
    }
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        faults.port("spec.healthCheckNodePort", port);
    }
    if spec.type_.as_deref() == Some("ExternalName") && spec.external_name.is_none() {
        faults.add("spec.externalName", "is needed when the type is ExternalName");
    }
    // Both are for controllers of load balancers, of which there is none here.
    let set = [
        ("loadBalancerClass", spec.load_balancer_class.is_some()),
        ("loadBalancerIP", spec.load_balancer_ip.is_some()),
    ];
    for (name, _) in set.into_iter().filter(|(_, set)| *set) {
        faults.add(field("spec", name), "is not supported by this version");
    }
}

/// Fields that are one word of a few.
fn words(spec: &ServiceSpec, faults: &mut Faults) {
    let policies = ["Cluster", "Local"];
    let families = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    let near = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    let fields: [(&str, &Option<String>, &[&str]); 5] = [
        (
            "spec.sessionAffinity",
            &spec.session_affinity,
            &["None", "ClientIP"],
        ),
        (
            "spec.internalTrafficPolicy",
            &spec.internal_traffic_policy,
            &policies,
        ),
        (
            "spec.externalTrafficPolicy",
            &spec.external_traffic_policy,
            &policies,
        ),
        ("spec.ipFamilyPolicy", &spec.ip_family_policy, &families),
        ("spec.trafficDistribution", &spec.traffic_distribution, &near),
    ];
    for (path, value, known) in fields {
        faults.one_of(path, value.as_deref(), known);
    }
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        faults.one_of(&item("spec.ipFamilies", index), Some(family), &["IPv4", "IPv6"]);
    }
}

fn cluster_ip(spec: &ServiceSpec, rules: &Rules, faults: &mut Faults) {
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let headless = |text: &String| text == "None";
    if spec.cluster_ip.as_ref().is_some_and(headless) && spec.type_.as_deref() != Some("ClusterIP") {
        faults.add(
            "spec.clusterIP",
            "a headless Service (None) must be of type ClusterIP",
        );
    }
    if !all.is_empty() && all.first() != spec.cluster_ip.as_ref() {
        faults.add("spec.clusterIPs", "must begin with what spec.clusterIP says");
    }
    let families: Vec<bool> = all.iter().map(|text| text.contains(':')).collect();
    if all.len() > 2 || matches!(families[..], [first, second] if first == second) {
        faults.add("spec.clusterIPs", "must hold one address, or one of each family");
    }
    let named = spec.cluster_ip.iter().filter(|text| !all.contains(text));
    for text in all.iter().chain(named).filter(|text| !headless(text)) {
        if let Some(fault) = outside(text, rules) {
            let path = if spec.cluster_ip.as_ref() == Some(text) {
                "spec.clusterIP"
            } else {
                "spec.clusterIPs"
            };
            faults.add(path, fault);
        }
    }
}

/// Why an address cannot be a cluster address.
fn outside(text: &str, rules: &Rules) -> Option<String> {
    let net = rules.service_cidr;
    match (text.parse::<IpAddr>(), rules.service_cidr_v6) {
        (Ok(IpAddr::V4(address)), _) => {
            let usable = net.contains(&address) && address != net.network() && address != net.broadcast();
            (!usable).then(|| format!("{text} is not a host address within the node's serviceCIDR {net}"))
        }
        (Ok(IpAddr::V6(address)), Some(net)) => {
            let usable = net.contains(&address) && address != net.network();
            (!usable).then(|| format!("{text} is not a host address within the node's service network {net}"))
        }
        (Ok(IpAddr::V6(_)), None) => Some(format!("{text} is IPv6, and serviceCIDRs has no such network")),
        (Err(_), _) => Some(format!("{text:?} is neither None nor an IP address")),
    }
}

fn ports(spec: &ServiceSpec, rules: &Rules, faults: &mut Faults) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let needed = spec.cluster_ip.as_deref() != Some("None") && spec.type_.as_deref() != Some("ExternalName");
    if ports.is_empty() && needed {
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
    let protocols = ["TCP", "UDP", "SCTP"];
    faults.one_of(&field(path, "protocol"), port.protocol.as_deref(), &protocols);
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
