//! Another service proxy's connections change hands and back: rules as kube-proxy's nftables mode writes them carry TCP and
//! UDP flows of every kind of client, then the programs do, then rules again. Not one is lost.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use keelson_dataplane::{
    Dataplane, Paths, TakenOver,
    abi::{FLOW_STUB, Flow, FlowKey},
};

use crate::{
    room::Room,
    talk::{PATIENCE, Seen, exchange_udp, greeting, serve_tcp, serve_udp},
    topology::{NODE, P2, Q1, TCP, To, Topology, UDP, VIP, six},
};

const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;
/// A Service whose endpoint is the node itself.
const HOST_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const HOST_NODE_PORT: u16 = 30090;
/// How long all flows together may take for one more round.
const ROUND: Duration = Duration::from_secs(40);

/// Endpoints: each server has a port of its own, which tells it apart.
const ENDPOINTS: [(Ipv4Addr, u16); 2] = [(P2, 8082), (Q1, 8084)];
const ON_NODE: u16 = 8090;

/// One flow that goes on and on.
enum Link {
    Tcp(TcpStream),
    /// Which server it was given.
    Udp(UdpSocket, u16),
}

impl Link {
    fn open(proto: u8, to: SocketAddr) -> io::Result<Self> {
        if proto == TCP {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            greeting(&mut stream)?;
            stream.set_nodelay(true)?;
            // A packet lost on the way is sent again, at the latest after a few seconds.
            stream.set_read_timeout(Some(Duration::from_secs(15)))?;
            return Ok(Self::Tcp(stream));
        }
        let any: IpAddr = if to.is_ipv6() {
            [0_u16; 8].into()
        } else {
            [0; 4].into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        let Seen { port, .. } = exchange_udp(&socket, 8, PATIENCE)?;
        Ok(Self::Udp(socket, port))
    }

    /// One more exchange, with the server that the flow has had all along.
    fn turn(&mut self, count: u32) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                let sent = u64::from(count).to_be_bytes();
                stream.write_all(&sent)?;
                let mut heard = [0; 8];
                stream.read_exact(&mut heard)?;
                (heard == sent)
                    .then_some(())
                    .ok_or_else(|| io::Error::other("another count came back"))
            }
            Self::Udp(socket, server) => {
                let seen = exchange_udp(socket, 8, PATIENCE)?;
                let moved = || io::Error::other(format!("server {} instead of {server}", seen.port));
                (seen.port == *server).then_some(()).ok_or_else(moved)
            }
        }
    }
}

/// Flows from one place, driven by a thread there.
struct Driver {
    what: String,
    rounds: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    fn start(room: &Room, what: &str, proto: u8, to: SocketAddr, flows: usize) -> Self {
        let mut driver = Self {
            what: format!("{what} to {to}, protocol {proto}"),
            rounds: Arc::default(),
            stop: Arc::default(),
            failure: Arc::default(),
            thread: None,
        };
        let (rounds, stop, failure) = (driver.rounds.clone(), driver.stop.clone(), driver.failure.clone());
        let thread = room.run(move || {
            // The thread inherits the namespace.
            thread::spawn(move || {
                let drive = || -> io::Result<()> {
                    let mut links: Vec<Link> = (0..flows)
                        .map(|_| Link::open(proto, to))
                        .collect::<io::Result<_>>()?;
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        count += 1;
                        for link in &mut links {
                            link.turn(count)?;
                        }
                        rounds.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(5));
                    }
                    Ok(())
                };
                if let Err(error) = drive() {
                    *failure.lock().expect("no panic") = Some(error.to_string());
                }
            })
        });
        driver.thread = Some(thread);
        driver
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Every flow answers twice more.
fn all_alive(drivers: &[Driver], when: &str) {
    let before: Vec<u32> = drivers
        .iter()
        .map(|driver| driver.rounds.load(Ordering::Relaxed))
        .collect();
    let end = Instant::now() + ROUND;
    for (driver, before) in drivers.iter().zip(before) {
        while driver.rounds.load(Ordering::Relaxed) < before + 2 {
            if let Some(failure) = &*driver.failure.lock().expect("no panic") {
                panic!("{when}: {}: {failure}", driver.what);
            }
            assert!(Instant::now() < end, "{when}: {}: silent", driver.what);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Rules as kube-proxy's nftables mode has them: verdict maps, marks for masquerading, a filter for what is invalid.
fn rules(t: &Topology) {
    let text = [false, true].map(table).concat();
    t.node.run(move || {
        use std::process::{Command, Stdio};
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nft runs");
        nft.stdin
            .take()
            .expect("piped")
            .write_all(text.as_bytes())
            .expect("written");
        assert!(nft.wait().expect("nft ends").success());
    });
}

/// The rules of one family.
fn table(v6: bool) -> String {
    let at = |address: Ipv4Addr| {
        if v6 {
            six(address).to_string()
        } else {
            address.to_string()
        }
    };
    let to = |address: Ipv4Addr, port: u16| {
        if v6 {
            format!("[{}]:{port}", six(address))
        } else {
            format!("{address}:{port}")
        }
    };
    let family = if v6 { "ip6" } else { "ip" };
    let (service, host) = (at(VIP), at(HOST_VIP));
    let (first, second) = (
        to(ENDPOINTS[0].0, ENDPOINTS[0].1),
        to(ENDPOINTS[1].0, ENDPOINTS[1].1),
    );
    let (node, own) = (at(NODE), to(NODE, ON_NODE));
    let each = chains(&first, &second, &own);
    format!(
        "table {family} kube-proxy {{
           {each}
           chain services {{
             {family} daddr {service} tcp dport {PORT} goto web-tcp
             {family} daddr {service} udp dport {PORT} goto web-udp
             {family} daddr {host} tcp dport {PORT} goto own-tcp
             {family} daddr {host} udp dport {PORT} goto own-udp
             {family} daddr {node} tcp dport {NODE_PORT} goto web-ext-tcp
             {family} daddr {node} udp dport {NODE_PORT} goto web-ext-udp
             {family} daddr {node} tcp dport {HOST_NODE_PORT} goto own-ext-tcp
             {family} daddr {node} udp dport {HOST_NODE_PORT} goto own-ext-udp
           }}
           chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
           chain output {{ type nat hook output priority -100; policy accept; jump services; }}
           chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;
             meta mark and 0x4000 != 0 masquerade; }}
           chain forward {{ type filter hook forward priority filter; policy accept; ct state invalid drop; }}
         }}\n"
    )
}

/// The chains that choose an endpoint, with and without masquerading.
fn chains(first: &str, second: &str, own: &str) -> String {
    let mut each = String::new();
    for proto in ["tcp", "udp"] {
        each += &format!(
            "chain web-{proto} {{
               numgen random mod 2 0 meta l4proto {proto} dnat to {first}
               meta l4proto {proto} dnat to {second}
             }}
             chain web-ext-{proto} {{ meta mark set meta mark or 0x4000; goto web-{proto}; }}
             chain own-{proto} {{ meta l4proto {proto} dnat to {own}; }}
             chain own-ext-{proto} {{ meta mark set meta mark or 0x4000; goto own-{proto}; }}\n"
        );
    }
    each
}

fn no_rules(t: &Topology) {
    t.node.must("nft delete table ip kube-proxy");
    t.node.must("nft delete table ip6 kube-proxy");
}

/// Servers, and the Services that the rules carry, in the maps as well.
fn services(t: &Topology) {
    for (room, port) in [(&t.p2, 8082), (&t.q1, 8084), (&t.node, ON_NODE)] {
        serve_tcp(room, port);
        serve_udp(room, port);
    }
    let ends: Vec<To> = ENDPOINTS
        .iter()
        .map(|(address, port)| To::Pod(*address, *port))
        .collect();
    for proto in [TCP, UDP] {
        t.service(&[(VIP, PORT, proto), (NODE, NODE_PORT, proto)], &ends);
        t.service(
            &[(HOST_VIP, PORT, proto), (NODE, HOST_NODE_PORT, proto)],
            &[To::Node(ON_NODE)],
        );
    }
}

/// Clients of every kind: `flows` each way, protocol and family.
fn drive(t: &Topology, flows: usize) -> Vec<Driver> {
    let mut drivers = Vec::new();
    for proto in [TCP, UDP] {
        for v6 in [false, true] {
            let at = |address: Ipv4Addr, port: u16| -> SocketAddr {
                if v6 {
                    (six(address), port).into()
                } else {
                    (address, port).into()
                }
            };
            for (room, what, to) in [
                (&t.p1, "a pod", at(VIP, PORT)),
                (&t.p1, "a pod", at(HOST_VIP, PORT)),
                (&t.client, "a client outside", at(NODE, NODE_PORT)),
                (&t.client, "a client outside", at(NODE, HOST_NODE_PORT)),
                (&t.node, "the host", at(VIP, PORT)),
            ] {
                drivers.push(Driver::start(room, what, proto, to, flows));
            }
        }
    }
    drivers
}

fn entries(t: &Topology) -> Vec<(FlowKey, Flow)> {
    let all = t.with(|dataplane| dataplane.flows().expect("flows"));
    all.into_iter()
        .filter(|(_, flow)| flow.flags & FLOW_STUB == 0)
        .collect()
}

fn changes_hands_and_back(flows: usize) {
    let t = Topology::beside_another_proxy();
    rules(&t);
    services(&t);
    let drivers = drive(&t, flows);
    all_alive(&drivers, "carried by rules");
    assert_eq!(entries(&t).len(), 0, "nothing runs yet");

    let report: TakenOver = t.with(|dataplane| dataplane.take_over().expect("taken over").expect("held"));
    assert_eq!(report.failures, Vec::<String>::new());
    assert!(report.tracker);
    assert_eq!(report.taken, drivers.len() * flows, "left: {:?}", report.left);
    all_alive(&drivers, "taken over, beside the rules");
    no_rules(&t);
    all_alive(&drivers, "taken over, alone");
    let again = t.with(|dataplane| dataplane.take_over().expect("taken over"));
    assert_eq!(again, None, "once");

    rules(&t);
    all_alive(&drivers, "rules are back");
    hand_back(&t, drivers.len() * flows);
    all_alive(&drivers, "handed back");
}

/// As a clean-up does where the pods are another plugin's; theirs go on without the plugin's programs.
fn hand_back(t: &Topology, flows: usize) {
    let back = t.with(|_| {
        let paths = Paths {
            bpffs: "/run/bpf".into(),
            run: "/run/keelson".into(),
        };
        let back = Dataplane::hand_back(&paths).expect("handed back");
        Dataplane::remove_all(&paths).expect("removed");
        back
    });
    for link in ["vp1", "vp2", "vp3"] {
        t.node.must(&format!("tc qdisc del dev {link} clsact"));
    }
    assert_eq!(back.failures, Vec::<String>::new());
    assert_eq!((back.given, back.kept), (flows, BTreeMap::new()));
}

#[test]
fn connections_of_another_proxy_go_on_here_and_there_again() {
    changes_hands_and_back(5);
}

/// 1,000 connections.
#[test]
#[ignore = "a thousand connections: for the long run"]
fn a_thousand_connections_change_hands_and_back() {
    changes_hands_and_back(50);
}
