//! Three nodes, two of them on one network and the third behind a router, and a client outside.
//!
//! ```text
//! a1 10.244.1.11 ─ node a 192.168.50.1 ─┐
//! b1 10.244.2.11 ─ node b 192.168.50.2 ─┼─ bridge and router .254 ─── node c 192.168.60.3 ─ c1 10.244.3.11
//!                client 192.168.50.9 ─┘
//! ```
//! Every address has a twin in IPv6. What each node is told is planned as the agent plans it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ipnet::IpNet;
use keelson::{
    config::Config,
    loops::network::{between, settings},
};
use keelson_core::network::peers::{Mode, Peer, Plan};
use keelson_dataplane::{
    Dataplane, NodeSettings,
    abi::{Addr, Prefix},
};

use crate::{
    room::Room,
    topology::{TCP, To, UDP, load, paths, put_backends, put_frontends, six, wire_pod},
};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 9);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// How the nodes are connected.
#[derive(Clone, Copy)]
pub struct Shape {
    pub mode: Mode,
    pub mtu: u32,
    /// Whether the nodes have no IPv4 addresses.
    pub only_v6: bool,
}

impl Shape {
    pub fn of(mode: Mode) -> Self {
        Self {
            mode,
            mtu: 1500,
            only_v6: false,
        }
    }
}

/// A node with one pod.
pub struct Member {
    pub room: Room,
    pub pod: Room,
    pub dataplane: Arc<Dataplane>,
    config: Config,
    number: u8,
    net: u8,
    /// Of its pod's link.
    pub mtu: u32,
}

pub struct Cluster {
    pub nodes: [Member; 3],
    pub client: Room,
    pub router: Room,
    services: AtomicU32,
}

/// Address of the node of that number on the network of that number.
pub fn node_address(number: u8, net: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, net, number)
}

pub fn pod_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number, 11)
}

/// The node's own address among its pods'.
pub fn first_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number, 1)
}

impl Member {
    fn new(number: u8, net: u8, router: &Room, shape: Shape) -> Self {
        let (room, pod) = (Room::new(), Room::new());
        strict(&room);
        strict(&pod);
        attach(
            router,
            &room,
            &format!("n{number}"),
            node_address(number, net),
            shape,
        );
        let nets = |list: [String; 2]| list.map(|net| net.parse().expect("CIDR"));
        let pods = nets([
            format!("10.244.{number}.0/24"),
            format!("fd00:a:f4:{number:x}::/64"),
        ]);
        let config = Config {
            node_name: format!("node-{number}"),
            pod_cidr: format!("10.244.{number}.0/24").parse().expect("CIDR"),
            pod_cidrs: pods.to_vec(),
            service_cidrs: nets(["10.96.0.0/16".to_owned(), "fd00:a:60::/48".to_owned()]).to_vec(),
            pod_routing: shape.mode,
            pod_cidr_given: true,
            ..Config::default()
        };
        let (plan, settings) = planned(&room, &config, &[]);
        let dataplane = load(&room, settings);
        Self {
            room,
            pod,
            dataplane,
            config,
            number,
            net,
            mtu: plan.pod_mtu.unwrap_or(shape.mtu),
        }
    }

    /// What other nodes know of it.
    pub fn peer(&self) -> Peer {
        let address = node_address(self.number, self.net);
        Peer {
            name: self.config.node_name.clone(),
            pods: self.config.pod_cidrs.clone(),
            addresses: self.addresses(address),
        }
    }

    fn addresses(&self, address: Ipv4Addr) -> Vec<IpAddr> {
        let has_v4 = self.room.must("ip -4 -o addr show dev eth0").contains("inet ");
        let four = has_v4.then_some(IpAddr::V4(address));
        four.into_iter().chain([IpAddr::V6(six(address))]).collect()
    }

    pub fn has_v4(&self) -> bool {
        self.peer().addresses.iter().any(IpAddr::is_ipv4)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Plans and applies what these peers make of the node.
    pub fn follow(&self, peers: &[Peer]) -> Plan {
        self.follow_as(&self.config, peers)
    }

    /// The same with another configuration.
    pub fn follow_as(&self, config: &Config, peers: &[Peer]) -> Plan {
        let (plan, settings) = planned(&self.room, config, peers);
        self.configure(settings);
        plan
    }

    /// What the plugin does where no agent runs.
    pub fn as_the_plugin(&self) {
        let mut settings = settings(&self.config);
        settings.mtu = self.mtu;
        self.configure(settings);
    }

    fn configure(&self, settings: NodeSettings) {
        self.with(move |dataplane| dataplane.configure(&settings).map(drop))
            .expect("configured");
    }

    /// Networks as the programs know them.
    pub fn prefixes(&self) -> Vec<(IpNet, Prefix)> {
        self.with(|dataplane| dataplane.prefixes().expect("prefixes"))
    }

    pub fn remove_all(&self) {
        self.room
            .run(|| Dataplane::remove_all(&paths()).expect("removed"));
    }

    /// As `keelson proxy --cleanup` does, once the pods are gone.
    pub fn clean_up(&self) {
        self.with(|dataplane| {
            for (address, _) in dataplane.endpoints().expect("endpoints") {
                dataplane.remove_endpoint(address).expect("removed");
            }
        });
        self.room
            .run(|| Dataplane::clean_up(&paths()).map(drop).expect("cleaned"));
    }

    fn with<T: Send + 'static>(&self, job: impl FnOnce(&Dataplane) -> T + Send + 'static) -> T {
        let dataplane = Arc::clone(&self.dataplane);
        self.room.run(move || job(&dataplane))
    }

    /// Value of a counter.
    pub fn counter(&self, index: u32) -> u64 {
        self.with(move |dataplane| dataplane.counters().expect("counters")[index as usize])
    }

    pub fn pod_address(&self) -> Ipv4Addr {
        pod_address(self.number)
    }

    pub fn address(&self) -> Ipv4Addr {
        node_address(self.number, self.net)
    }

    pub fn first_address(&self) -> Ipv4Addr {
        first_address(self.number)
    }

    /// A Service whose frontends this node translates, in both families.
    pub fn service(&self, id: u32, frontend: Ipv4Addr, port: u16, to: &[To]) {
        for twin in [false, true] {
            let id = id * 2 + u32::from(twin);
            let address = move |address: Ipv4Addr| -> Addr {
                if twin {
                    IpAddr::V6(six(address)).into()
                } else {
                    IpAddr::V4(address).into()
                }
            };
            let (dataplane, to) = (Arc::clone(&self.dataplane), to.to_vec());
            self.room.run(move || {
                let frontends = [(frontend, port, TCP), (frontend, port, UDP)];
                put_backends(&dataplane, id, 1, &to, address);
                put_frontends(&dataplane, id, 1, &frontends, to.len(), address);
            });
        }
    }
}

impl Cluster {
    /// Every node knows every other.
    pub fn new(shape: Shape) -> Self {
        let cluster = Self::strangers(shape);
        cluster.meet();
        cluster
    }

    /// No node knows another.
    pub fn strangers(shape: Shape) -> Self {
        let (router, client) = (Room::new(), Room::new());
        router.ip(&format!(
            "link add br50 mtu {mtu} type bridge\nlink set br50 up
             link add br60 mtu {mtu} type bridge\nlink set br60 up",
            mtu = shape.mtu
        ));
        for net in [50, 60] {
            let address = node_address(254, net);
            router.ip(&format!(
                "addr add {address}/24 dev br{net}\naddr add {}/64 dev br{net} nodad",
                six(address)
            ));
        }
        router.set("ip_forward 1\n../ipv6/conf/all/forwarding 1");
        strict(&client);
        attach(
            &router,
            &client,
            "client",
            CLIENT,
            Shape {
                only_v6: false,
                ..shape
            },
        );
        let nodes = [(1, 50), (2, 50), (3, 60)].map(|(number, net)| Member::new(number, net, &router, shape));
        for member in &nodes {
            let place = (member.pod_address(), member.mtu, u32::from(member.number));
            wire_pod(&member.room, &member.dataplane, &member.pod, "vp1", place);
        }
        Self {
            nodes,
            client,
            router,
            services: AtomicU32::new(1),
        }
    }

    /// Tells every node of every other.
    pub fn meet(&self) {
        let peers: Vec<Peer> = self.nodes.iter().map(Member::peer).collect();
        for member in &self.nodes {
            member.follow(&peers);
        }
    }

    /// A Service on all nodes.
    pub fn service(&self, frontend: Ipv4Addr, port: u16, to: &[To]) {
        let id = self.services.fetch_add(1, Ordering::Relaxed);
        for member in &self.nodes {
            member.service(id, frontend, port, to);
        }
    }
}

/// Plan and settings, as the agent makes them.
fn planned(room: &Room, config: &Config, peers: &[Peer]) -> (Plan, NodeSettings) {
    let (config, peers) = (config.clone(), peers.to_vec());
    room.run(move || {
        let mut settings = settings(&config);
        let uplinks = Dataplane::uplinks(&settings).expect("uplinks");
        let plan = between::plan(&config, &uplinks, &peers);
        between::apply(&config, &plan, &mut settings);
        (plan, settings)
    })
}

/// No forwarding and a strict source check everywhere, but where the dataplane sets it.
fn strict(room: &Room) {
    room.set("conf/all/rp_filter 1\nconf/default/rp_filter 1\nip_forward 0");
    room.set("icmp_ratelimit 0\nicmp_msgs_per_sec 100000");
}

/// Connects a room to the bridge of its network.
fn attach(router: &Room, room: &Room, name: &str, address: Ipv4Addr, shape: Shape) {
    let (mtu, net) = (shape.mtu, address.octets()[2]);
    let gateway = node_address(254, net);
    router.ip(&format!(
        "link add to-{name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}
         link set to-{name} master br{net} up",
        room.tid
    ));
    room.ip(&format!(
        "link set eth0 up
         addr add {}/64 dev eth0 nodad
         route add default via {}",
        six(address),
        six(gateway)
    ));
    if !shape.only_v6 {
        room.ip(&format!(
            "addr add {address}/24 dev eth0\nroute add default via {gateway}"
        ));
    }
}
