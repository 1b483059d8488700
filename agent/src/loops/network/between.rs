//! Pods of other nodes: from what is configured and who the peers are to the dataplane's words, and what came of it to the peers.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use keelson_core::network::peers::{self, Own, Peer, Plan, object};
use keelson_dataplane::{Between, NodeSettings, PeerPods, Tunnel, Uplink, Way, node::node_address};

use tokio::sync::watch;
use tracing::warn;

use super::settings;
use crate::{
    config::{Config, PodNetwork},
    context::Context,
    events::{self, Subject},
    world::Revisions,
};

/// What the dataplane is told.
#[derive(Clone, Debug)]
pub struct Told {
    /// All of it.
    pub settings: NodeSettings,
    /// What the part about other nodes follows from.
    pub plan: Plan,
}

/// As configured, and as follows from the peers of the world. Before the manifests were listed once nobody knows the peers: what is
/// there stays.
pub fn told(ctx: &Context, uplinks: &[Uplink]) -> Told {
    let (peers, listed) = ctx.world.read(|objects| {
        let peers: Vec<Peer> = objects.peers.values().map(|peer| peer.peer()).collect();
        (peers, objects.revisions.listed > 0)
    });
    let plan = plan(&ctx.config, uplinks, &peers);
    let mut settings = settings(&ctx.config);
    apply(&ctx.config, &plan, &mut settings);
    if !listed {
        settings.between = None;
    }
    Told { settings, plan }
}

/// Until the peers are others, or known at last.
pub async fn concerned(revisions: &mut watch::Receiver<Revisions>, seen: Revisions) {
    let moved = |now: &Revisions| (now.peers, now.listed) != (seen.peers, seen.listed);
    if revisions.wait_for(moved).await.is_err() {
        // The world is gone, and with it the reason to wake.
        std::future::pending::<()>().await;
    }
}

/// Tell each peer how its pods are reached; of what is refused there is an event, once.
pub fn report(ctx: &Context, plan: &Plan) {
    ctx.world.update(|objects| {
        let mut told = Vec::new();
        for (key, peer) in &mut objects.peers {
            let status = object::status(plan, &key.name);
            if peer.status.as_ref() == Some(&status) {
                continue;
            }
            let subject = Subject {
                kind: "KeelsonPeer",
                key: key.clone(),
                uid: peer.metadata.uid.clone(),
                field: None,
            };
            told.extend(status.refused.iter().map(|why| (subject.clone(), why.clone())));
            Arc::make_mut(peer).status = Some(status);
            objects.revisions.peers += 1;
        }
        for (subject, why) in told {
            warn!("{why}");
            let event = events::event(subject, events::WARNING, "NotReached", &why, Timestamp::now());
            objects.record(event);
        }
    });
}

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
