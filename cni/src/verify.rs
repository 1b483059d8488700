//! Compares an attachment with what the machine shows. Observing is a door; the comparison is pure.

use std::net::{IpAddr, Ipv4Addr};

use keelson_abi::{Addr, Endpoint};

use crate::{
    attach::{GATEWAY, Wiring},
    datapath::Datapath,
    error::Result,
    mac::Mac,
    netlink::{Netlink, link::Link, observe::Ipv4Route},
};

/// What the machine shows of an attachment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// The host's end.
    pub host: Option<Link>,
    /// Blocks that it is bound to.
    pub blocks: (Option<u32>, Option<u32>),
    /// Whether each block has a program.
    pub programs: (bool, bool),
    /// The route that packets to the pod take.
    pub host_route: Option<Ipv4Route>,
    /// What the host takes for the pod's MAC.
    pub host_neighbour: Option<Mac>,
    /// The pod's end.
    pub pod: Option<Link>,
    /// Addresses of the pod's end.
    pub pod_addresses: Vec<(Ipv4Addr, u8)>,
    /// Routes in the pod.
    pub pod_routes: Vec<Ipv4Route>,
    /// What the pod takes for the gateway's MAC.
    pub pod_neighbour: Option<Mac>,
    /// The programs' entry for the address.
    pub endpoint: Option<Endpoint>,
}

/// Looks at everything that ADD makes.
pub fn observe(
    wiring: &Wiring,
    node: &mut Netlink,
    pod: &mut Netlink,
    datapath: &dyn Datapath,
) -> Result<Observed> {
    let mut seen = Observed {
        host: node.link(&wiring.key.host_ifname())?,
        host_route: node.route_to(wiring.address)?,
        pod: pod.link(&wiring.key.ifname)?,
        endpoint: datapath.endpoint(Addr::from(IpAddr::V4(wiring.address)))?,
        programs: (
            node.block_has_program(datapath.blocks().0)?,
            node.block_has_program(datapath.blocks().1)?,
        ),
        ..Observed::default()
    };
    if let Some(host) = &seen.host {
        seen.blocks = node.bound_blocks(host.index)?;
        seen.host_neighbour = node.permanent_neighbour(host.index, wiring.address)?;
    }
    if let Some(link) = &seen.pod {
        seen.pod_addresses = pod.addresses(link.index)?;
        seen.pod_routes = pod
            .routes()?
            .into_iter()
            .filter(|route| route.device == link.index)
            .collect();
        seen.pod_neighbour = pod.permanent_neighbour(link.index, GATEWAY)?;
    }
    Ok(seen)
}

/// What is not as ADD made it, in words. Empty = all well. The MTU and more addresses and routes are left to whoever
/// comes later in the chain.
#[must_use]
pub fn differences(wiring: &Wiring, blocks: (u32, u32), seen: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    host_differences(wiring, blocks, seen, &mut found);
    pod_differences(wiring, seen, &mut found);
    let Some(host) = &seen.host else { return found };
    // The namespace's number may be given late; everything else is exact.
    match &seen.endpoint {
        None => found.push(format!(
            "the programs have no endpoint entry for {}",
            wiring.address
        )),
        Some(entry)
            if (Endpoint {
                netnsid: entry.netnsid,
                flags: entry.flags,
                ..wiring.endpoint(host)
            }) != *entry =>
        {
            found.push(format!(
                "the endpoint entry of {} is {entry:?}, not {:?}",
                wiring.address,
                wiring.endpoint(host)
            ));
        }
        Some(_) => {}
    }
    found
}

fn host_differences(wiring: &Wiring, blocks: (u32, u32), seen: &Observed, found: &mut Vec<String>) {
    let name = wiring.key.host_ifname();
    let Some(host) = &seen.host else {
        found.push(format!("the host's link {name} is gone"));
        return;
    };
    if host.alias != wiring.key.alias() {
        found.push(format!("the host's link {name} belongs to {:?}", host.alias));
    }
    if !host.up {
        found.push(format!("the host's link {name} is down"));
    }
    if host.mac != wiring.host_mac {
        found.push(format!(
            "the host's link {name} has MAC {}, not {}",
            host.mac, wiring.host_mac
        ));
    }
    if seen.blocks != (Some(blocks.0), Some(blocks.1)) {
        found.push(format!(
            "the host's link {name} is not bound to the kernel programs"
        ));
    }
    if seen.programs != (true, true) {
        found.push("the kernel programs are not on the node's tc blocks".to_owned());
    }
    if seen.host_neighbour != Some(wiring.pod_mac) {
        found.push(format!(
            "the host has no permanent neighbour {} at {}",
            wiring.address, wiring.pod_mac
        ));
    }
    if seen
        .host_route
        .is_none_or(|r| r.destination != (wiring.address, 32) || r.device != host.index)
    {
        found.push(format!(
            "the host's route to {} does not lead to {name}",
            wiring.address
        ));
    }
}

fn pod_differences(wiring: &Wiring, seen: &Observed, found: &mut Vec<String>) {
    let name = &wiring.key.ifname;
    let Some(pod) = &seen.pod else {
        found.push(format!("the pod's interface {name} is gone"));
        return;
    };
    if !pod.up {
        found.push(format!("the pod's interface {name} is down"));
    }
    if pod.mac != wiring.pod_mac {
        found.push(format!(
            "the pod's interface {name} has MAC {}, not {}",
            pod.mac, wiring.pod_mac
        ));
    }
    if let Some(host) = &seen.host
        && (pod.peer != Some(host.index) || host.peer != Some(pod.index))
    {
        found.push(format!(
            "the pod's interface {name} is not the other end of {}",
            host.name
        ));
    }
    if !seen.pod_addresses.contains(&(wiring.address, 32)) {
        found.push(format!(
            "the pod's interface {name} does not have {}/32",
            wiring.address
        ));
    }
    let routed = |destination, gateway| {
        seen.pod_routes
            .iter()
            .any(|r| r.destination == destination && r.gateway == gateway && r.device == pod.index)
    };
    if !routed((GATEWAY, 32), None) {
        found.push(format!("the pod has no route to the gateway {GATEWAY} by {name}"));
    }
    if !routed((Ipv4Addr::UNSPECIFIED, 0), Some(GATEWAY)) {
        found.push(format!(
            "the pod has no default route through {GATEWAY} by {name}"
        ));
    }
    if seen.pod_neighbour != Some(wiring.host_mac) {
        found.push(format!(
            "the pod has no permanent neighbour {GATEWAY} at {}",
            wiring.host_mac
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    const BLOCKS: (u32, u32) = (1, 2);

    fn wiring() -> Wiring {
        let key = Key {
            network: "n".into(),
            container: "c".into(),
            ifname: "eth0".into(),
        };
        let hash = key.hash();
        Wiring {
            key,
            address: Ipv4Addr::new(10, 0, 0, 2),
            epoch: 5,
            pod_mac: Mac::of_pod(hash),
            host_mac: Mac::of_host(hash),
            mtu: 1500,
            netns_cookie: 9,
        }
    }

    fn whole() -> Observed {
        let w = wiring();
        let host = Link {
            index: 10,
            name: w.key.host_ifname(),
            alias: w.key.alias(),
            mac: w.host_mac,
            mtu: 1500,
            up: true,
            peer: Some(2),
            peer_netnsid: Some(0),
        };
        let route = |ip: [u8; 4], length, gateway, device| Ipv4Route {
            destination: (ip.into(), length),
            gateway,
            device,
            ours: true,
        };
        Observed {
            endpoint: Some(w.endpoint(&host)),
            blocks: (Some(1), Some(2)),
            programs: (true, true),
            host_route: Some(route([10, 0, 0, 2], 32, None, 10)),
            host_neighbour: Some(w.pod_mac),
            pod: Some(Link {
                index: 2,
                name: "eth0".into(),
                mac: w.pod_mac,
                up: true,
                peer: Some(10),
                ..Link::default()
            }),
            pod_addresses: vec![(w.address, 32)],
            pod_routes: vec![
                route([169, 254, 1, 1], 32, None, 2),
                route([0; 4], 0, Some(GATEWAY), 2),
            ],
            pod_neighbour: Some(w.host_mac),
            host: Some(host),
        }
    }

    #[test]
    fn a_whole_attachment_has_no_differences() {
        assert_eq!(differences(&wiring(), BLOCKS, &whole()), Vec::<String>::new());
    }

    #[test]
    fn every_damage_is_named() {
        type Damage = fn(&mut Observed);
        let cases: [(&str, Damage); 17] = [
            ("is gone", |o| o.host = None),
            ("belongs to", |o| o.host.as_mut().unwrap().alias.clear()),
            ("is down", |o| o.host.as_mut().unwrap().up = false),
            ("has MAC", |o| o.host.as_mut().unwrap().mac = Mac::default()),
            ("not bound", |o| o.blocks = (Some(1), None)),
            ("programs are not on", |o| o.programs.1 = false),
            ("no permanent neighbour", |o| o.host_neighbour = None),
            ("does not lead", |o| o.host_route = None),
            ("does not lead", |o| o.host_route.as_mut().unwrap().device = 11),
            ("eth0 is gone", |o| o.pod = None),
            ("eth0 is down", |o| o.pod.as_mut().unwrap().up = false),
            ("not the other end", |o| o.pod.as_mut().unwrap().peer = Some(99)),
            ("does not have 10.0.0.2/32", |o| {
                o.pod_addresses = vec![(Ipv4Addr::new(10, 0, 0, 2), 24)]
            }),
            ("no route to the gateway", |o| o.pod_routes.truncate(0)),
            ("no default route", |o| o.pod_routes.truncate(1)),
            ("no endpoint entry", |o| o.endpoint = None),
            ("the endpoint entry", |o| o.endpoint.as_mut().unwrap().epoch += 1),
        ];
        for (words, damage) in cases {
            let mut seen = whole();
            damage(&mut seen);
            let found = differences(&wiring(), BLOCKS, &seen);
            assert!(found.iter().any(|f| f.contains(words)), "{words}: {found:?}");
        }
    }
}
