//! What of each Service stands in the maps, read back from there.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;
use keelson_abi::{
    FRONTEND_EXTERNAL, FRONTEND_LOCAL, FRONTEND_NODE_PORT, FRONTEND_RANGES, FRONTEND_RESET_GONE, Frontend,
    FrontendKey,
};
use serde::{Deserialize, Serialize};

use super::words;
use crate::object::Key;

/// One address and port that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// What clients ask for.
    pub address: SocketAddr,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIP`.
    pub entry: String,
    /// Endpoints of the Cluster policy.
    pub endpoints: u32,
    /// Endpoints of the Local policy.
    pub local_endpoints: u32,
    /// `Cluster`, `Local`.
    pub policy: String,
    /// Session affinity, seconds; 0 = none.
    pub affinity_seconds: u32,
    /// Endpoints are chosen by a Maglev table.
    pub maglev: bool,
    /// Only some sources are let in.
    pub source_ranges: bool,
    /// Connections to an endpoint that goes are reset.
    pub reset_gone: bool,
}

/// By Service, in the order of addresses and ports. What no Service asks for any more is left out.
pub fn programmed(
    frontends: &[(FrontendKey, Frontend)],
    services: &BTreeMap<Key, Arc<Service>>,
) -> BTreeMap<Key, Vec<Served>> {
    let entries = Entries::of(services);
    let mut all: BTreeMap<Key, Vec<Served>> = BTreeMap::new();
    for (key, frontend) in frontends {
        let Some((name, entry)) = entries.find(key, frontend) else {
            continue;
        };
        all.entry(name.clone()).or_default().push(Served {
            address: SocketAddr::new(key.addr.into(), u16::from_be(key.port_be)),
            protocol: words::protocol(key.proto).to_owned(),
            entry: entry.to_owned(),
            endpoints: frontend.count,
            local_endpoints: frontend.local_count,
            policy: if frontend.flags & FRONTEND_LOCAL != 0 {
                "Local"
            } else {
                "Cluster"
            }
            .to_owned(),
            affinity_seconds: frontend.affinity_seconds,
            maglev: frontend.maglev != 0,
            source_ranges: frontend.flags & FRONTEND_RANGES != 0,
            reset_gone: frontend.flags & FRONTEND_RESET_GONE != 0,
        });
    }
    for served in all.values_mut() {
        served.sort_by(|a, b| (a.address, &a.protocol).cmp(&(b.address, &b.protocol)));
    }
    all
}

/// Who asks for what. The oldest of several has it.
struct Entries<'a> {
    addresses: HashMap<(IpAddr, i32, &'a str), (&'a Key, &'static str)>,
    node_ports: HashMap<(i32, &'a str), &'a Key>,
}

impl<'a> Entries<'a> {
    fn of(services: &'a BTreeMap<Key, Arc<Service>>) -> Self {
        let mut oldest: Vec<_> = services.iter().collect();
        oldest.sort_by_key(|(key, service)| {
            let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, *key)
        });
        let mut entries = Self {
            addresses: HashMap::new(),
            node_ports: HashMap::new(),
        };
        for (key, service) in oldest {
            entries.add(key, service);
        }
        entries
    }

    fn add(&mut self, key: &'a Key, service: &'a Service) {
        let Some(spec) = &service.spec else { return };
        let ingress = service
            .status
            .iter()
            .flat_map(|status| status.load_balancer.iter())
            .flat_map(|balancer| balancer.ingress.iter().flatten())
            .filter_map(|ingress| ingress.ip.as_ref());
        let cluster = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        let addresses: Vec<(IpAddr, &'static str)> = cluster
            .map(|text| (text, "ClusterIP"))
            .chain(ingress.map(|text| (text, "LoadBalancer")))
            .chain(
                spec.external_ips
                    .iter()
                    .flatten()
                    .map(|text| (text, "ExternalIP")),
            )
            .filter_map(|(text, entry)| Some((text.parse().ok()?, entry)))
            .collect();
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            for (address, entry) in &addresses {
                self.addresses
                    .entry((*address, port.port, protocol))
                    .or_insert((key, entry));
            }
            if let Some(number) = port.node_port.filter(|number| *number > 0) {
                self.node_ports.entry((number, protocol)).or_insert(key);
            }
        }
    }

    fn find(&self, key: &FrontendKey, frontend: &Frontend) -> Option<(&'a Key, &'static str)> {
        let port = i32::from(u16::from_be(key.port_be));
        let protocol = words::protocol(key.proto);
        let by_address = self
            .addresses
            .get(&(IpAddr::from(key.addr), port, protocol))
            .copied();
        let node_port = frontend.flags & (FRONTEND_NODE_PORT | FRONTEND_EXTERNAL) != 0;
        by_address.or_else(|| {
            let key = self.node_ports.get(&(port, protocol)).filter(|_| node_port)?;
            Some((*key, "NodePort"))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(value: serde_json::Value) -> (Key, Arc<Service>) {
        let service: Service = serde_json::from_value(value).expect("a Service");
        (Key::of(&service.metadata), Arc::new(service))
    }

    fn key(text: &str, proto: u8) -> FrontendKey {
        let address: SocketAddr = text.parse().expect("an address");
        FrontendKey {
            addr: address.ip().into(),
            port_be: address.port().to_be(),
            proto,
            reserved: 0,
        }
    }

    #[test]
    fn what_stands_in_the_maps_is_told_by_service_and_entry() {
        let web = json!({
            "metadata": { "name": "web", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": {
                "clusterIP": "10.96.0.1",
                "externalIPs": ["203.0.113.9"],
                "ports": [{ "port": 80, "nodePort": 30080 }, { "port": 80, "protocol": "UDP" }],
            },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] } },
        });
        let later = json!({
            "metadata": { "name": "later", "namespace": "shop", "creationTimestamp": "2026-01-02T00:00:00Z" },
            "spec": { "clusterIP": "10.96.0.2", "externalIPs": ["203.0.113.9"], "ports": [{ "port": 80 }] },
        });
        let services = [service(later), service(web)].into();
        let external = Frontend {
            count: 3,
            local_count: 1,
            flags: FRONTEND_EXTERNAL | FRONTEND_LOCAL,
            ..Frontend::default()
        };
        let cluster = Frontend {
            count: 3,
            affinity_seconds: 60,
            ..Frontend::default()
        };
        let frontends = [
            (key("198.51.100.1:30080", 6), external),
            (key("192.0.2.9:80", 6), external),
            (key("203.0.113.9:80", 6), external),
            (key("10.96.0.1:80", 6), cluster),
            (key("10.96.0.1:80", 17), cluster),
            (key("10.96.0.2:80", 6), cluster),
            (key("10.96.0.7:80", 6), cluster),
            // What refuses undefined ports.
            (key("10.96.0.1:0", 0), Frontend::default()),
        ];
        let found = programmed(&frontends, &services);
        let entries = |name: &str| -> Vec<(String, String)> {
            let served = found[&Key::new("shop", name)].iter();
            served
                .map(|one| (format!("{}/{}", one.address, one.protocol), one.entry.clone()))
                .collect()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            entries("web"),
            [
                pair("10.96.0.1:80/TCP", "ClusterIP"),
                pair("10.96.0.1:80/UDP", "ClusterIP"),
                pair("192.0.2.9:80/TCP", "LoadBalancer"),
                pair("198.51.100.1:30080/TCP", "NodePort"),
                pair("203.0.113.9:80/TCP", "ExternalIP"),
            ]
        );
        assert_eq!(entries("later"), [pair("10.96.0.2:80/TCP", "ClusterIP")]);
        assert_eq!(found.len(), 2, "what nobody asks for is nobody's");
        let web = &found[&Key::new("shop", "web")];
        assert_eq!((web[0].policy.as_str(), web[0].affinity_seconds), ("Cluster", 60));
        assert_eq!(
            (web[2].policy.as_str(), web[2].endpoints, web[2].local_endpoints),
            ("Local", 3, 1)
        );
    }
}
