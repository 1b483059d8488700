//! Packets: who asks what. Everything is an index into what the cluster has, so that packet and cluster shrink apart.

use std::net::{IpAddr, SocketAddr};

use proptest::{prelude::*, sample::Index};

use super::{
    ip,
    places::{CLUSTER_IPS, EXTERNAL, NODE, OUTSIDE, PODS, REMOTE_PODS, UNALLOCATED},
};
use crate::oracle::{Cluster, Packet, Place, Port, Protocol, Service, Source};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody of a kind.
    Of(Place),
    /// An endpoint of the Service asked.
    Endpoint,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A cluster address of a Service.
    ClusterIp,
    /// Its NodePort, on one of the node's addresses.
    NodePort,
    /// Its NodePort under 127.0.0.1.
    Loopback,
    /// A load balancer's address.
    LoadBalancer,
    /// An external address.
    ExternalIp,
    /// A port that no Service has, on one of all these addresses.
    WrongPort,
    /// An address of the Service network that nobody has.
    Unallocated,
    /// An endpoint itself.
    Direct,
}

/// A packet, before the cluster it is sent in is known.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who.
    pub who: Who,
    /// What.
    pub target: Target,
    service: Index,
    port: Index,
    address: Index,
    client: Index,
    kept: Option<Index>,
    protocol: Option<Protocol>,
}

/// Any packet.
pub fn ask() -> impl Strategy<Value = Ask> {
    let who = prop_oneof![
        3 => Just(Who::Of(Place::Pod)),
        1 => Just(Who::Endpoint),
        2 => Just(Who::Of(Place::RemotePod)),
        2 => Just(Who::Of(Place::Host)),
        3 => Just(Who::Of(Place::Outside)),
    ];
    let target = prop_oneof![
        6 => Just(Target::ClusterIp),
        5 => Just(Target::NodePort),
        1 => Just(Target::Loopback),
        4 => Just(Target::LoadBalancer),
        3 => Just(Target::ExternalIp),
        1 => Just(Target::WrongPort),
        1 => Just(Target::Unallocated),
        1 => Just(Target::Direct),
    ];
    let protocol = prop_oneof![
        12 => Just(None),
        1 => prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)].prop_map(Some),
    ];
    let indices = (any::<Index>(), any::<Index>(), any::<Index>(), any::<Index>());
    let kept = proptest::option::weighted(0.3, any::<Index>());
    (who, target, indices, kept, protocol).prop_map(
        |(who, target, (service, port, address, client), kept, protocol)| Ask {
            who,
            target,
            service,
            port,
            address,
            client,
            kept,
            protocol,
        },
    )
}

impl Ask {
    /// The packet, in this cluster.
    pub fn packet(&self, cluster: &Cluster) -> Packet {
        let nobody = (Service::default(), Port::default());
        let service = pick(&cluster.services, &self.service).unwrap_or(&nobody.0);
        let port = pick(&service.ports, &self.port).unwrap_or(&nobody.1);
        let to = self.to(service, port);
        let sets = cluster.sets(service, port, to.is_ipv6());
        let serving: Vec<SocketAddr> = sets.serving.into_iter().collect();
        let direct = self.target == Target::Direct;
        let known = Protocol::named(&port.protocol).unwrap_or(Protocol::Tcp);
        let to = match pick(&serving, &self.address) {
            Some(endpoint) if direct => *endpoint,
            _ => to,
        };
        Packet {
            source: self.source(&serving, to.ip()),
            to,
            protocol: self.protocol.unwrap_or(known),
            remembered: self.kept.and_then(|kept| pick(&serving, &kept).copied()),
        }
    }

    fn to(&self, service: &Service, port: &Port) -> SocketAddr {
        let own = |texts: &[String]| {
            let real: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            pick(&real, &self.address).copied()
        };
        let any = |texts: &[&str]| pick(texts, &self.address).map_or(ip(""), |text| ip(text));
        let balancers: Vec<String> = service
            .ingress
            .iter()
            .filter_map(|place| place.ip.clone())
            .collect();
        let (address, number) = match self.target {
            Target::ClusterIp => (
                own(&service.cluster_ips).unwrap_or_else(|| any(&CLUSTER_IPS)),
                port.number,
            ),
            Target::NodePort => (any(&reachable(service)), port.node_port),
            Target::Loopback => (IpAddr::from([127, 0, 0, 1]), port.node_port),
            Target::LoadBalancer => (own(&balancers).unwrap_or_else(|| any(&EXTERNAL)), port.number),
            Target::ExternalIp => (
                own(&service.external_ips).unwrap_or_else(|| any(&EXTERNAL)),
                port.number,
            ),
            Target::WrongPort => (any(&[&CLUSTER_IPS[..], &EXTERNAL[..], &NODE[..]].concat()), 4242),
            Target::Unallocated => (any(&UNALLOCATED), port.number),
            Target::Direct => (any(&PODS), 8080),
        };
        // Port 0 is nobody's.
        SocketAddr::new(address, if number == 0 { 4243 } else { number })
    }

    fn source(&self, serving: &[SocketAddr], to: IpAddr) -> Source {
        let of_family = |texts: &[&str]| -> Vec<IpAddr> {
            let all = texts.iter().map(|text| ip(text));
            all.filter(|address| address.is_ipv4() == to.is_ipv4()).collect()
        };
        let pods = of_family(&PODS);
        let endpoints: Vec<IpAddr> = serving
            .iter()
            .map(SocketAddr::ip)
            .filter(|ip| pods.contains(ip))
            .collect();
        let place = match self.who {
            Who::Of(place) => place,
            Who::Endpoint => Place::Pod,
        };
        let pool = match place {
            Place::Pod if self.who == Who::Endpoint && !endpoints.is_empty() => endpoints,
            Place::Pod => pods,
            Place::RemotePod => of_family(&REMOTE_PODS),
            Place::Host => of_family(&NODE),
            Place::Outside => of_family(&OUTSIDE),
        };
        // A process of the host has the address that the node is known by.
        let chosen = if place == Place::Host {
            pool.first()
        } else {
            pick(&pool, &self.client)
        };
        Source {
            place,
            address: chosen.copied().unwrap_or(to),
        }
    }
}

/// The node's addresses in the families that a Service has.
fn reachable(service: &Service) -> Vec<&'static str> {
    let has = |six: bool| service.cluster_ips.iter().any(|text| text.contains(':') == six);
    let own = NODE.iter().copied().filter(|text| has(text.contains(':')));
    let own: Vec<&str> = own.collect();
    if own.is_empty() { NODE.to_vec() } else { own }
}

fn pick<'a, T>(from: &'a [T], index: &Index) -> Option<&'a T> {
    (!from.is_empty()).then(|| index.get(from))
}
