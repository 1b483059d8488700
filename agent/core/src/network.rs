//! The node's networks: what must not overlap, and how pods of other nodes are reached. (The node's address and prefixes are decided in
//! the dataplane's own `node` room, which the plugin shares.)

pub mod node_ports;
pub mod peers;

use ipnet::IpNet;

/// The networks the configuration names: one of each family at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks<'a> {
    /// Addresses of this node's pods; none where another plugin makes the pods' links.
    pub pods: &'a [IpNet],
    /// Addresses of Services.
    pub services: &'a [IpNet],
}

/// Two networks that hold the same addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overlap {
    /// Pods and Services.
    #[error(
        "podCIDR {pods} and serviceCIDR {services} overlap; give them networks of their own in the node's configuration"
    )]
    Own {
        /// Pod network.
        pods: IpNet,
        /// Service network.
        services: IpNet,
    },
    /// One of ours and a network the node is attached to.
    #[error(
        "{field} {ours} overlaps {theirs} of device {device}; choose another network in the node's configuration"
    )]
    Uplink {
        /// `podCIDR` or `serviceCIDR`.
        field: &'static str,
        /// Our network.
        ours: IpNet,
        /// The device's network.
        theirs: IpNet,
        /// The device.
        device: String,
    },
}

/// The first pair of networks that overlap: traffic to one would be taken for the other. `attached` are the node's own addresses
/// with their networks, by device.
pub fn overlap<'a>(
    networks: Networks<'_>,
    attached: impl IntoIterator<Item = (&'a str, IpNet)>,
) -> Option<Overlap> {
    let Networks { pods, services } = networks;
    let meet = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
    let pairs = pods
        .iter()
        .flat_map(|pods| services.iter().map(|services| (*pods, *services)));
    for (pods, services) in pairs {
        if meet(pods, services) {
            return Some(Overlap::Own { pods, services });
        }
    }
    let fields = || {
        let pods = pods.iter().map(|net| ("podCIDR", *net));
        pods.chain(services.iter().map(|net| ("serviceCIDR", *net)))
    };
    attached.into_iter().find_map(|(device, address)| {
        let theirs = address.trunc();
        let (field, ours) = fields().find(|(_, ours)| meet(*ours, theirs))?;
        Some(Overlap::Uplink {
            field,
            ours,
            theirs,
            device: device.to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| net(text)).collect()
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("address")
    }

    fn found(pods: &[&str], services: &[&str], attached: &[(&'static str, &str)]) -> Option<Overlap> {
        let (pods, services) = (nets(pods), nets(services));
        let networks = Networks {
            pods: &pods,
            services: &services,
        };
        overlap(
            networks,
            attached.iter().map(|(device, text)| (*device, net(text))),
        )
    }

    #[test]
    fn an_uplink_within_or_around_our_networks_is_refused_by_name() {
        let (pods, services) = (["10.244.0.0/24", "fd00:1::/64"], ["10.96.0.0/16", "fd00:2::/112"]);
        let uplink = ("eth0", "192.168.1.1/24");
        for theirs in [
            "10.244.0.7/28",
            "10.0.0.1/8",
            "10.96.3.4/24",
            "fd00:1::9/72",
            "fd00::1/16",
        ] {
            let found = found(&pods, &services, &[uplink, ("eth1", theirs)]);
            let message = found.expect("an overlap").to_string();
            assert!(message.contains("eth1"), "{message}");
        }
        assert_eq!(
            found(&pods, &services, &[uplink, ("eth1", "2001:db8::1/64")]),
            None
        );
    }

    #[test]
    fn pods_and_services_need_networks_of_their_own() {
        let both = found(&["10.244.0.0/24"], &["10.244.0.0/16"], &[]);
        assert!(matches!(both, Some(Overlap::Own { .. })));
        let six = found(
            &["10.244.0.0/24", "fd00::/64"],
            &["10.96.0.0/16", "fd00::/112"],
            &[],
        );
        assert!(matches!(six, Some(Overlap::Own { .. })));
    }

    #[test]
    fn where_another_plugin_makes_the_pods_links_their_devices_are_no_concern() {
        let bridge = ("cni0", "10.244.0.1/24");
        assert_eq!(found(&[], &["10.96.0.0/16"], &[bridge]), None);
        assert!(found(&["10.244.0.0/24"], &["10.96.0.0/16"], &[bridge]).is_some());
    }
}
