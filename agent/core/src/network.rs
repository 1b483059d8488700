//! The node's networks: what must not overlap. (The node's address and prefixes are decided in the dataplane's own `node` room,
//! which the plugin shares.)

use ipnet::{IpNet, Ipv4Net};

/// The networks the configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    /// Addresses of this node's pods.
    pub pods: Ipv4Net,
    /// Addresses of Services.
    pub services: Ipv4Net,
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
        pods: Ipv4Net,
        /// Service network.
        services: Ipv4Net,
    },
    /// One of ours and a network the node is attached to.
    #[error(
        "{field} {ours} overlaps {theirs} of device {device}; choose another network in the node's configuration"
    )]
    Uplink {
        /// `podCIDR` or `serviceCIDR`.
        field: &'static str,
        /// Our network.
        ours: Ipv4Net,
        /// The device's network.
        theirs: IpNet,
        /// The device.
        device: String,
    },
}

/// The first pair of networks that overlap: traffic to one would be taken for the other. `attached` are the node's own addresses
/// with their networks, by device.
pub fn overlap<'a>(
    networks: Networks,
    attached: impl IntoIterator<Item = (&'a str, IpNet)>,
) -> Option<Overlap> {
    let Networks { pods, services } = networks;
    let meet = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
    if meet(pods.into(), services.into()) {
        return Some(Overlap::Own { pods, services });
    }
    let fields = [("podCIDR", pods), ("serviceCIDR", services)];
    attached.into_iter().find_map(|(device, address)| {
        let theirs = address.trunc();
        let (field, ours) = fields
            .into_iter()
            .find(|(_, ours)| meet((*ours).into(), theirs))?;
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

    fn networks() -> Networks {
        Networks {
            pods: "10.244.0.0/24".parse().expect("CIDR"),
            services: "10.96.0.0/16".parse().expect("CIDR"),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("address")
    }

    #[test]
    fn an_uplink_within_or_around_our_networks_is_refused_by_name() {
        for theirs in ["10.244.0.7/28", "10.0.0.1/8", "10.96.3.4/24"] {
            let found = overlap(
                networks(),
                [("eth0", net("192.168.1.1/24")), ("eth1", net(theirs))],
            );
            let message = found.expect("an overlap").to_string();
            assert!(message.contains("eth1"), "{message}");
        }
        assert_eq!(overlap(networks(), [("eth0", net("192.168.1.1/24"))]), None);
    }

    #[test]
    fn pods_and_services_need_networks_of_their_own() {
        let same = Networks {
            services: "10.244.0.0/16".parse().expect("CIDR"),
            ..networks()
        };
        assert!(matches!(overlap(same, []), Some(Overlap::Own { .. })));
    }
}
