//! From a cluster to the maps that the agent's planner makes of it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use keelson_core::{
    object::Key,
    service::{
        node::{NodePortAddresses, NodeView},
        plan::{GUARD, Observed, Plan, WATERMARK, Write},
        state::Services,
    },
};
use keelson_tests::oracle::{self, Cluster, kubernetes};

use crate::reader::Maps;

/// The objects of a cluster, by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    pub services: BTreeMap<Key, Arc<Service>>,
    pub slices: BTreeMap<Key, Arc<EndpointSlice>>,
}

impl Objects {
    pub fn of(cluster: &Cluster) -> Self {
        let services = cluster.services.iter();
        let slices = cluster.slices.iter();
        Self {
            services: services
                .map(|one| {
                    (
                        Key::new(&one.namespace, &one.name),
                        Arc::new(kubernetes::service(one)),
                    )
                })
                .collect(),
            slices: slices
                .map(|one| {
                    (
                        Key::new(&one.namespace, &one.name),
                        Arc::new(kubernetes::slice(one)),
                    )
                })
                .collect(),
        }
    }
}

/// The node as the agent sees it.
pub fn node_view(cluster: &Cluster) -> NodeView {
    let node = &cluster.node;
    let first = |six: bool| {
        node.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv6() == six)
    };
    let networks = |texts: &[String]| {
        texts
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect()
    };
    let node_ports = match &cluster.settings.node_port_addresses {
        oracle::NodePortAddresses::All => {
            NodePortAddresses::Networks(networks(&["0.0.0.0/0".to_owned(), "::/0".to_owned()]))
        }
        oracle::NodePortAddresses::Primary => NodePortAddresses::Primary,
        oracle::NodePortAddresses::Networks(texts) => NodePortAddresses::Networks(networks(texts)),
    };
    NodeView {
        name: node.name.clone(),
        zone: node.zone.clone(),
        primary: [first(false), first(true)].into_iter().flatten().collect(),
        addresses: node.addresses.iter().copied().collect(),
        node_ports,
        service_networks: networks(&cluster.settings.service_networks),
        external_ips: cluster.settings.external_ips,
        localhost_node_ports: cluster.settings.localhost_node_ports,
        ..NodeView::default()
    }
}

/// A planner that knows a cluster's objects and nothing of any map.
pub fn informed(cluster: &Cluster) -> Services {
    let mut services = Services::default();
    services.set_node(node_view(cluster));
    let objects = Objects::of(cluster);
    for (key, service) in objects.services {
        services.set_service(&key, Some(service));
    }
    for (key, slice) in objects.slices {
        services.set_slice(&key, Some(slice));
    }
    services
}

/// The plan from empty maps.
pub fn first_plan(cluster: &Cluster) -> Plan {
    let mut services = informed(cluster);
    services.observe(Observed::default(), 1);
    services.plan().plan
}

/// The maps that follow from a plan, written by nobody but this test.
pub fn write(maps: &mut Maps, write: &Write) {
    match write {
        Write::RemoveFrontend(key) => drop(maps.frontends.remove(key)),
        Write::PutFrontend(key, value) => drop(maps.frontends.insert(*key, *value)),
        Write::RemoveBackend(key) => drop(maps.backends.remove(key)),
        Write::PutBackend(key, value) => drop(maps.backends.insert(*key, *value)),
        Write::RemoveMember(key) => drop(maps.members.remove(key)),
        Write::PutMember(key, value) => drop(maps.members.insert(*key, *value)),
        Write::RemoveRange(key) => drop(maps.ranges.remove(key)),
        Write::PutRange(key) => drop(maps.ranges.insert(*key)),
        Write::RemoveMaglev(key) => drop(maps.tables.remove(key)),
        Write::PutMaglev(key, _) => drop(maps.tables.insert(*key)),
    }
}

/// Maps as an agent that starts anew reads them.
pub fn observed(maps: &Maps) -> Observed {
    Observed {
        frontends: maps.frontends.clone(),
        backends: maps.backends.clone(),
        members: maps
            .members
            .iter()
            .map(|(key, value)| ((key.service, *key), *value))
            .collect(),
        maglev: maps.tables.clone(),
        ranges: maps
            .ranges
            .iter()
            .map(|key| (u32::from_be(key.service_be), *key))
            .collect(),
    }
}

/// The maps of a cluster, without the entry that only remembers ids.
pub fn maps_of(cluster: &Cluster) -> Maps {
    let mut maps = Maps::default();
    for step in &first_plan(cluster).writes {
        write(&mut maps, step);
    }
    maps
}

/// Whether an entry of `frontend` is one that clients ask.
pub fn is_asked(key: &keelson_abi::FrontendKey, frontend: &keelson_abi::Frontend) -> bool {
    *key != WATERMARK && frontend.service != GUARD
}
