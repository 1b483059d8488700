//! A node with three pods, a client outside, and a second node with a pod behind a smaller MTU.
//!
//! ```text
//! p1 10.244.1.11 ─ vp1 ┐                                     ┌ client 192.168.50.9 (no route to pods)
//! p2 10.244.1.12 ─ vp2 ┤ node ─ up0 192.168.50.1 ── switch ──┤
//! p3 10.244.1.13 ─ vp3 ┘ (MTU 1300 on p3)                    └ other 192.168.50.2 ─ MTU 1300 ─ q1 10.244.2.11
//! ```
//! Every address has a twin in IPv6: `10.244.1.11` is `fd00:a:f4:1::b`, see [`six`]; and so has every Service.
//! `rp_filter` is 1 and forwarding 0 everywhere but where the dataplane (or the plugin, for pod links) sets it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use keelson_dataplane::{
    Dataplane, NodeSettings, Paths,
    abi::{
        Addr, BACKEND_BLOCK, BACKEND_NODE, Backend, BackendBlock, BackendKey, Endpoint, FRONTEND_EXTERNAL,
        FRONTEND_NODE_PORT, Frontend, FrontendKey, PREFIX_LOCAL_PODS, PREFIX_NODE_ADDRESS, PREFIX_PEER_PODS,
        PREFIX_SERVICES, Prefix,
    },
};
use nix::mount::{MsFlags, mount};

use crate::room::Room;

pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 9);
pub const P1: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
pub const P2: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 12);
pub const P3: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 13);
pub const Q1: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 11);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Everything.
pub struct Topology {
    pub p1: Room,
    pub p2: Room,
    pub p3: Room,
    pub client: Room,
    pub other: Room,
    pub q1: Room,
    /// Held open: the namespace ends with its room.
    _switch: Room,
    pub dataplane: Arc<Dataplane>,
    pub node: Room,
    services: AtomicU32,
}

/// Where a Service's packets go.
#[derive(Clone, Copy)]
pub enum To {
    Pod(Ipv4Addr, u16),
    Node(u16),
}

fn settings() -> NodeSettings {
    NodeSettings {
        pod_cidrs: ["10.244.1.0/24", "fd00:a:f4:1::/64"]
            .map(|net| net.parse().expect("CIDR"))
            .to_vec(),
        service_cidrs: ["10.96.0.0/16", "fd00:a:60::/48"]
            .map(|net| net.parse().expect("CIDR"))
            .to_vec(),
        ..NodeSettings::default()
    }
}

impl Topology {
    /// Builds it and loads the programs.
    pub fn new() -> Self {
        Self::of(settings())
    }

    /// Builds it with programs that run nowhere before connections are taken over.
    pub fn beside_another_proxy() -> Self {
        Self::of(NodeSettings {
            cluster_cidrs: ["10.244.0.0/16", "fd00:a:f4::/48"]
                .map(|net| net.parse().expect("CIDR"))
                .to_vec(),
            take_over: true,
            ..settings()
        })
    }

    fn of(settings: NodeSettings) -> Self {
        let [node, switch, client, other, q1, p1, p2, p3] = std::array::from_fn(|_| Room::new());
        for room in [&node, &switch, &client, &other, &q1, &p1, &p2, &p3] {
            room.set("conf/all/rp_filter 1\nconf/default/rp_filter 1\nip_forward 0");
            // Rate limits of ICMP would make refusals look like time-outs.
            room.set("icmp_ratelimit 0\nicmp_msgs_per_sec 100000");
        }
        outside(&node, &switch, &client, &other, &q1);
        let taking_over = settings.take_over;
        if taking_over {
            // Another plugin's network is there already, and forwards.
            node.set("ip_forward 1\n../ipv6/conf/all/forwarding 1");
        }
        let dataplane = load(&node, settings);
        let topology = Self {
            p1,
            p2,
            p3,
            client,
            other,
            q1,
            _switch: switch,
            dataplane,
            node,
            services: AtomicU32::new(1),
        };
        if !taking_over {
            topology.set_prefixes();
        }
        topology.pod(&topology.p1, "vp1", P1, 1500, 1);
        topology.pod(&topology.p2, "vp2", P2, 1500, 2);
        topology.pod(&topology.p3, "vp3", P3, 1300, 3);
        topology
    }

    /// The networks of the node, and of the other node's pods, which no setting names yet.
    fn set_prefixes(&self) {
        self.with(|dataplane| {
            let prefixes = [
                ("10.244.1.0/24", PREFIX_LOCAL_PODS),
                ("10.244.2.0/24", PREFIX_PEER_PODS),
                ("10.96.0.0/16", PREFIX_SERVICES),
                ("192.168.50.1/32", PREFIX_NODE_ADDRESS),
                ("172.20.0.1/32", PREFIX_NODE_ADDRESS),
                ("fd00:a:f4:1::/64", PREFIX_LOCAL_PODS),
                ("fd00:a:f4:2::/64", PREFIX_PEER_PODS),
                ("fd00:a:60::/48", PREFIX_SERVICES),
                ("fd00:c0:a8:32::1/128", PREFIX_NODE_ADDRESS),
                ("fd00:ac:14::1/128", PREFIX_NODE_ADDRESS),
            ];
            let prefixes = prefixes.map(|(net, kind)| (net.parse().expect("prefix"), Prefix::of(kind)));
            dataplane.set_prefixes(&prefixes).expect("prefixes");
        });
    }

    /// Lets the dataplane see devices that came later.
    pub fn follow_devices(&self) {
        self.with(|dataplane| dataplane.configure(&settings()).expect("configured"));
        self.set_prefixes();
    }

    /// Runs something with the dataplane in the node's namespaces.
    pub fn with<T: Send + 'static>(&self, job: impl FnOnce(&Dataplane) -> T + Send + 'static) -> T {
        let dataplane = Arc::clone(&self.dataplane);
        self.node.run(move || job(&dataplane))
    }

    fn pod(&self, pod: &Room, link: &str, address: Ipv4Addr, mtu: u32, epoch: u32) {
        wire_pod(&self.node, &self.dataplane, pod, link, (address, mtu, epoch));
    }

    /// Changes a pod's endpoint entry.
    pub fn edit_pod(&self, address: Ipv4Addr, edit: impl FnOnce(&mut Endpoint) + Send + 'static) {
        self.with(move |dataplane| {
            let mut endpoint = dataplane.endpoint(addr(address)).expect("read").expect("exists");
            edit(&mut endpoint);
            for address in [addr(address), IpAddr::V6(six(address)).into()] {
                dataplane.put_endpoint(address, &endpoint).expect("written");
            }
        });
    }

    /// A Service with frontends (address, port, protocol) and endpoints; its id.
    pub fn service(&self, frontends: &[(Ipv4Addr, u16, u8)], to: &[To]) -> u32 {
        let service = self.services.fetch_add(1, Ordering::Relaxed);
        self.rewrite_service(service, frontends, to, 1);
        service
    }

    /// Gives a Service other endpoints under a new revision and generation, in both families.
    pub fn rewrite_service(&self, service: u32, frontends: &[(Ipv4Addr, u16, u8)], to: &[To], revision: u32) {
        for (service, twin) in [(service, false), (service | TWIN, true)] {
            let address = move |address: Ipv4Addr| -> Addr {
                if twin {
                    IpAddr::V6(six(address)).into()
                } else {
                    addr(address)
                }
            };
            let (frontends, to) = (frontends.to_vec(), to.to_vec());
            self.with(move |dataplane| {
                put_backends(dataplane, service, revision, &to, address);
                put_frontends(dataplane, service, revision, &frontends, to.len(), address);
            });
        }
    }

    /// Value of a counter.
    pub fn counter(&self, index: u32) -> u64 {
        self.with(move |dataplane| dataplane.counters().expect("counters")[index as usize])
    }

    /// Index and MAC of one of the node's devices.
    pub fn link(&self, link: &str) -> (u32, [u8; 6]) {
        let (ifindex, mac, _) = link_of(&self.node, link);
        (ifindex, mac)
    }
}

/// Where a node's dataplane lives, in its namespaces.
pub fn paths() -> Paths {
    let base = PathBuf::from("/run");
    Paths {
        bpffs: base.join("bpf"),
        run: base.join("keelson"),
    }
}

/// Loads the programs in a node's namespaces.
pub fn load(node: &Room, settings: NodeSettings) -> Arc<Dataplane> {
    node.run(move || {
        // A bpffs and a folder for the lock that vanish with the namespace.
        mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("tmpfs");
        let paths = paths();
        std::fs::create_dir_all(&paths.run).expect("folder");
        std::fs::create_dir_all(&paths.bpffs).expect("folder");
        let loaded = if settings.take_over {
            Dataplane::upgrade(&paths, &settings)
        } else {
            Dataplane::ensure(&paths, &settings)
        };
        Arc::new(loaded.expect("dataplane"))
    })
}

/// A pod's link, as the plugin makes it, and its endpoint entry.
pub fn wire_pod(
    node: &Room,
    dataplane: &Arc<Dataplane>,
    pod: &Room,
    link: &str,
    (address, mtu, epoch): (Ipv4Addr, u32, u32),
) {
    node.ip(&format!(
        "link add {link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}
         link set {link} up",
        pod.tid
    ));
    pod.ip("link set eth0 up");
    let (ifindex, host_mac, netnsid) = link_of(node, link);
    let (_, pod_mac, _) = link_of(pod, "eth0");
    node.ip(&format!(
        "route add {address}/32 dev {link}
         neigh add {address} lladdr {mac} dev {link} nud permanent
         route add {twin}/128 dev {link}
         neigh add {twin} lladdr {mac} dev {link} nud permanent",
        mac = text(pod_mac),
        twin = six(address),
    ));
    pod.ip(&format!(
        "addr add {address}/32 dev eth0
         route add 169.254.1.1 dev eth0 scope link
         route add default via 169.254.1.1 dev eth0
         neigh add 169.254.1.1 lladdr {mac} dev eth0 nud permanent
         addr add {twin}/128 dev eth0 nodad
         route add fe80::1/128 dev eth0
         route add default via fe80::1 dev eth0
         neigh add fe80::1 lladdr {mac} dev eth0 nud permanent",
        mac = text(host_mac),
        twin = six(address),
    ));
    node.set(&format!(
        "conf/{link}/forwarding 1
         ../ipv6/conf/{link}/forwarding 1
         ../ipv6/conf/{link}/force_forwarding 1"
    ));
    let (ingress, egress) = dataplane.blocks();
    node.must(&format!(
        "tc qdisc add dev {link} ingress_block {ingress} egress_block {egress} clsact"
    ));
    let dataplane = Arc::clone(dataplane);
    node.run(move || {
        dataplane.ensure_block_filters().expect("filters");
        let endpoint = Endpoint {
            ifindex,
            epoch,
            netnsid,
            pod_mac,
            host_mac,
            ..Endpoint::default()
        };
        for address in [addr(address), IpAddr::V6(six(address)).into()] {
            dataplane.put_endpoint(address, &endpoint).expect("endpoint");
        }
    });
}

/// Everything beyond the node's uplink.
fn outside(node: &Room, switch: &Room, client: &Room, other: &Room, q1: &Room) {
    switch.ip("link add br0 type bridge\nlink set br0 up");
    for (room, link, address) in [
        (node, "up0", NODE),
        (client, "eth0", CLIENT),
        (other, "eth0", OTHER),
    ] {
        let port = format!("to{}", address.octets()[3]);
        switch.ip(&format!(
            "link add {port} type veth peer name {link} netns {}
             link set {port} master br0 up",
            room.tid
        ));
        room.ip(&format!(
            "link set {link} up
             addr add {address}/24 dev {link}
             addr add {}/64 dev {link} nodad",
            six(address)
        ));
    }
    other.ip(&format!(
        "link add vq1 mtu 1300 type veth peer name eth0 mtu 1300 netns {}
         link set vq1 up
         addr add 10.244.2.1/24 dev vq1
         addr add fd00:a:f4:2::1/64 dev vq1 nodad
         route add 10.244.1.0/24 via {NODE}
         route add fd00:a:f4:1::/64 via {}",
        q1.tid,
        six(NODE)
    ));
    other.set("ip_forward 1\n../ipv6/conf/all/forwarding 1");
    q1.ip(&format!(
        "link set eth0 up
         addr add {Q1}/24 dev eth0
         addr add {}/64 dev eth0 nodad
         route add default via 10.244.2.1
         route add default via fd00:a:f4:2::1",
        six(Q1)
    ));
    node.ip(&format!(
        "route add 10.244.2.0/24 via {OTHER}
         route add default via {OTHER}
         route add fd00:a:f4:2::/64 via {twin}
         route add default via {twin}",
        twin = six(OTHER)
    ));
}

/// Index, MAC and peer's namespace id of a link.
fn link_of(room: &Room, link: &str) -> (u32, [u8; 6], i32) {
    let listed: serde_json::Value =
        serde_json::from_str(&room.must(&format!("ip -j link show dev {link}"))).expect("JSON");
    let link = &listed[0];
    let mut mac = [0; 6];
    let text = link["address"].as_str().expect("MAC");
    for (byte, part) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).expect("hex");
    }
    let netnsid = link["link_netnsid"].as_i64().unwrap_or(-1);
    (
        link["ifindex"].as_u64().expect("index") as u32,
        mac,
        netnsid as i32,
    )
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An address as the maps hold it.
pub fn addr(address: Ipv4Addr) -> Addr {
    IpAddr::V4(address).into()
}

/// Service ids of the twins.
pub const TWIN: u32 = 1 << 28;

/// The twin of an address.
pub fn six(address: Ipv4Addr) -> Ipv6Addr {
    match address.octets().map(u16::from) {
        [169, 254, 1, last] => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last),
        [a, b, c, d] => Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, d),
    }
}

pub fn put_backends(
    dataplane: &Dataplane,
    service: u32,
    revision: u32,
    to: &[To],
    address: impl Fn(Ipv4Addr) -> Addr,
) {
    for (number, chunk) in to.chunks(BACKEND_BLOCK as usize).enumerate() {
        let mut block = BackendBlock::default();
        for (slot, to) in block.slots.iter_mut().zip(chunk) {
            let (endpoint, port, flags) = match *to {
                To::Pod(address, port) => (address, port, 0),
                To::Node(port) => (NODE, port, BACKEND_NODE),
            };
            *slot = Backend {
                addr: address(endpoint),
                port_be: port.to_be(),
                flags,
            };
        }
        let key = BackendKey {
            service,
            revision,
            block: number as u32,
        };
        dataplane.put_backend(&key, &block).expect("backend");
    }
}

pub fn put_frontends(
    dataplane: &Dataplane,
    service: u32,
    revision: u32,
    frontends: &[(Ipv4Addr, u16, u8)],
    count: usize,
    address: impl Fn(Ipv4Addr) -> Addr,
) {
    for (asked, port, proto) in frontends {
        let key = FrontendKey {
            addr: address(*asked),
            port_be: port.to_be(),
            proto: *proto,
            reserved: 0,
        };
        let vip = asked.octets()[..2] == [10, 96];
        let flags = if vip {
            0
        } else {
            FRONTEND_EXTERNAL | FRONTEND_NODE_PORT
        };
        let frontend = Frontend {
            service,
            revision,
            count: count as u32,
            generation: revision,
            flags,
            ..Frontend::default()
        };
        dataplane.put_frontend(&key, &frontend).expect("frontend");
        if vip {
            let any = FrontendKey {
                port_be: 0,
                proto: 0,
                ..key
            };
            dataplane.put_frontend(&any, &frontend).expect("frontend");
        }
    }
}
