//! The agent's decision: objects in, maps out, and the maps read back as their layout documents them.

use std::collections::BTreeSet;

use keelson_abi::FrontendKey;
use keelson_tests::oracle::{
    Cluster, Protocol,
    generate::{self, Ask, ip},
};

use crate::{planned, reader::Maps};

/// Every packet gets the same verdict, from the same endpoints, with the same masquerade.
fn agrees(cluster: &Cluster, maps: &Maps, ask: &Ask) -> Result<(), String> {
    let packet = ask.packet(cluster);
    let expected = cluster.verdict(&packet);
    let found = maps.verdict(cluster, &packet)?;
    if expected == found {
        return Ok(());
    }
    Err(format!(
        "{packet:?}\nkube-proxy: {expected:?}\nthe maps:   {found:?}"
    ))
}

/// Datagram flows may stay with exactly the endpoints that serve, or that new ones are given.
fn members_agree(cluster: &Cluster, maps: &Maps) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let mut services: Vec<_> = cluster.proxied().collect();
    services.sort_by_key(|service| (service.created, &service.name));
    for service in services {
        for (text, port) in service
            .cluster_ips
            .iter()
            .flat_map(|text| service.ports.iter().map(move |port| (text, port)))
        {
            let Some(protocol) = Protocol::named(&port.protocol) else {
                continue;
            };
            let key = FrontendKey {
                addr: ip(text).into(),
                port_be: port.number.to_be(),
                proto: protocol.number(),
                reserved: 0,
            };
            // A younger Service's is not there.
            if !seen.insert(key) {
                continue;
            }
            let sets = cluster.sets(service, port, ip(text).is_ipv6());
            let found = maps.members_of(&key);
            if protocol != Protocol::Udp && service.affinity.is_none() {
                continue;
            }
            let found = found.ok_or_else(|| format!("{text}:{} keeps no list of members", port.number))?;
            let kept = |endpoint: &&std::net::SocketAddr| {
                sets.serving.contains(*endpoint)
                    || sets.cluster.contains(*endpoint)
                    || sets.local.contains(*endpoint)
            };
            if !found.iter().all(|endpoint| kept(&endpoint)) || !sets.serving.is_subset(&found) {
                return Err(format!(
                    "members of {text}:{}: {found:?}, serving: {:?}",
                    port.number, sets.serving
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn the_maps_say_what_kube_proxy_would_do() -> Result<(), String> {
    let cases = generate::cases(4_000, 120_000);
    generate::check_packets("decision", cases, |cluster, asks| {
        let maps = planned::maps_of(cluster);
        maps.check(&cluster.node.addresses)?;
        members_agree(cluster, &maps)?;
        asks.iter().try_for_each(|ask| agrees(cluster, &maps, ask))
    })
}
