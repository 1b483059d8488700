//! Pods of other nodes: from what is configured and who the peers are to the dataplane's words.

use std::net::IpAddr;

use keelson_core::network::peers::{self, Own, Peer, Plan};
use keelson_dataplane::{Between, NodeSettings, PeerPods, Tunnel, Uplink, Way, node::node_address};

use crate::config::{Config, PodNetwork};

/// How pods of these peers are reached by these uplinks.
pub fn plan(config: &Config, uplinks: &[Uplink], all: &[Peer]) -> Plan {
    // Those that the programs send the tunnel's packets from.
    let address = |v6| node_address(config.node_address, uplinks, v6);
    let addresses: Vec<IpAddr> = [false, true].into_iter().filter_map(address).collect();
    let uplinks: Vec<peers::Uplink> = uplinks.iter().map(uplink).collect();
    let (pods, services) = (config.all_pod_cidrs(), config.all_service_cidrs());
    let own = Own {
        name: &config.node_name,
        pods: &pods,
        services: &services,
        uplinks: &uplinks,
        addresses: &addresses,
    };
    peers::plan(&own, all, config.pod_routing)
}

fn uplink(uplink: &Uplink) -> peers::Uplink {
    peers::Uplink {
        ifindex: uplink.ifindex,
        name: uplink.name.clone(),
        mtu: uplink.mtu,
        addresses: uplink.addresses.clone(),
    }
}

/// The same in the dataplane's words, with the MTU that follows from it. Where another plugin makes the pods' links their ways
/// are its own.
pub fn apply(config: &Config, plan: &Plan, settings: &mut NodeSettings) {
    if config.pod_network == PodNetwork::Other {
        settings.between = Some(Between::default());
        return;
    }
    let network = |network: &peers::Network| PeerPods {
        pods: network.pods,
        endpoint: network.endpoint,
        way: match network.way {
            peers::Way::Direct { gateway, ifindex } => Way::Direct { gateway, ifindex },
            peers::Way::Tunnel => Way::Tunnel,
            peers::Way::Foreign => Way::Foreign,
        },
    };
    let tunnel = plan.tunnel.as_ref().map(|tunnel| Tunnel {
        vni: config.vxlan.id,
        port: config.vxlan.port,
        mtu: tunnel.mtu,
        addresses: tunnel.addresses.clone(),
    });
    settings.mtu = plan.pod_mtu.unwrap_or(settings.mtu);
    settings.between = Some(Between {
        networks: plan.networks.iter().map(network).collect(),
        tunnel,
    });
}
