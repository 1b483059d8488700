//! ADD and CHECK.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::lab::{Lab, address, conf, pod};

#[test]
fn two_pods_talk_by_icmp_and_tcp_with_no_agent_running() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a"), lab.add("b"));
    assert_ne!(address(&a), address(&b));
    lab.pod_sh("a", &format!("ping -c 2 -i 0.2 -W 2 {}", address(&b)));
    lab.pod_sh("b", &format!("ping -c 2 -i 0.2 -W 2 {}", address(&a)));
    // The node reaches its pods, and they reach it.
    lab.sh(&format!("ping -c 1 -W 2 {}", address(&a)));
    lab.pod_sh("a", "ping -c 1 -W 2 192.168.77.1");
    let (ready, listening) = mpsc::channel();
    let server = lab.inside("b", move || {
        let listener = TcpListener::bind(("0.0.0.0", 8080)).unwrap();
        ready.send(()).unwrap();
        let (mut stream, client) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        client.ip()
    });
    listening.recv_timeout(Duration::from_secs(10)).unwrap();
    let to = address(&b);
    let client = lab.inside("a", move || {
        let mut stream = TcpStream::connect((to, 8080)).unwrap();
        stream.write_all("hello".repeat(50_000).as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(client.join().unwrap(), "HELLO".repeat(50_000));
    assert_eq!(
        server.join().unwrap(),
        IpAddr::V4(address(&a)),
        "the server sees the pod's own address"
    );
}

#[test]
fn the_pod_has_exactly_what_the_result_says() {
    let lab = Lab::new();
    let result = lab.add("a");
    let ip = address(&result);
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], "/run/netns/a");
    assert_eq!(result["interfaces"][1]["mtu"], 1440, "the uplink's");
    let link = lab.pod_sh("a", "ip -o link show eth0");
    assert!(
        link.contains("mtu 1440") && link.contains(result["interfaces"][1]["mac"].as_str().unwrap()),
        "{link}"
    );
    assert!(
        lab.pod_sh("a", "ip -o -4 addr show eth0")
            .contains(&format!("inet {ip}/32"))
    );
    assert!(
        lab.pod_sh("a", "ip route")
            .starts_with("default via 169.254.1.1 dev eth0")
    );
    let host = result["interfaces"][0]["name"].as_str().unwrap();
    assert_eq!(lab.links(), [host]);
    assert!(
        lab.sh("ip route")
            .contains(&format!("{ip} dev {host} proto 107 scope link"))
    );
    assert!(lab.sh(&format!("ip neigh show dev {host}")).contains("PERMANENT"));
    assert_eq!(
        lab.sh(&format!("cat /proc/sys/net/ipv4/conf/{host}/forwarding"))
            .trim(),
        "1"
    );
    assert!(
        lab.sh(&format!("ip link show {host}"))
            .contains("alias keelson:keelson/a/eth0")
    );
    assert_eq!(lab.endpoints(), [IpAddr::V4(ip)]);
}

#[test]
fn a_repeated_add_gets_the_same_answer_and_changes_nothing() {
    let lab = Lab::new();
    let first = lab.add("a");
    let index = lab.sh("ip -o link show type veth | grep ' kl'");
    assert_eq!(lab.add("a"), first);
    assert_eq!(
        lab.sh("ip -o link show type veth | grep ' kl'"),
        index,
        "the link is the same"
    );
    // The same container in a new namespace: made anew, with its address.
    lab.sh("umount /run/netns/a && rm /run/netns/a");
    lab.netns("a");
    assert_eq!(lab.add("a"), first);
    assert_eq!(lab.links().len(), 1);
    lab.check("a", &first).expect("CHECK");
}

#[test]
fn check_names_every_damage_and_a_repeated_add_repairs_it() {
    let lab = Lab::new();
    let result = lab.add("a");
    let ip = address(&result);
    let host = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let host_mac = result["interfaces"][0]["mac"].as_str().unwrap();
    assert_eq!(lab.check("a", &result).expect("CHECK"), Value::Null);
    let node: [(String, &str); 8] = [
        (format!("ip link set {host} down"), "is down"),
        (format!("ip link delete {host}"), "is gone"),
        (format!("ip link set {host} alias someone"), "belongs to"),
        (format!("ip link set {host} address 0e:00:00:00:00:01"), "has MAC"),
        (format!("tc qdisc del dev {host} clsact"), "not bound"),
        (format!("ip route del {ip}"), "does not lead to"),
        (format!("ip route replace {ip} dev up0"), "does not lead to"),
        (format!("ip neigh del {ip} dev {host}"), "no permanent neighbour"),
    ];
    let pod_side: [(String, &str); 7] = [
        ("ip link set eth0 down".into(), "eth0 is down"),
        (format!("ip addr del {ip}/32 dev eth0"), "does not have"),
        ("ip route del default".into(), "no default route"),
        ("ip route del 169.254.1.1".into(), "no route to the gateway"),
        (
            "ip neigh del 169.254.1.1 dev eth0".into(),
            "no permanent neighbour 169.254.1.1",
        ),
        (
            "ip link set eth0 address 0a:00:00:00:00:01".into(),
            "eth0 has MAC",
        ),
        (
            format!(
                "ip neigh replace 169.254.1.1 dev eth0 lladdr {}",
                host_mac.replace("0e:", "02:")
            ),
            "no permanent neighbour",
        ),
    ];
    let cases = node
        .into_iter()
        .map(|c| (true, c))
        .chain(pod_side.into_iter().map(|c| (false, c)));
    for (on_node, (damage, words)) in cases {
        if on_node {
            lab.sh(&damage)
        } else {
            lab.pod_sh("a", &damage)
        };
        let message = lab.check("a", &result).expect_code(101, &damage);
        assert!(message.contains(words), "{damage}: {message}");
        repaired(&lab, &result, &damage);
    }
}

#[test]
fn check_names_damage_to_the_programs_and_their_maps_and_a_repeated_add_repairs_it() {
    let lab = Lab::new();
    let result = lab.add("a");
    let ip = address(&result);
    lab.dataplane().remove_endpoint(IpAddr::V4(ip).into()).unwrap();
    let message = lab.check("a", &result).expect_code(101, "entry removed");
    assert!(message.contains("no endpoint entry"), "{message}");
    repaired(&lab, &result, "entry removed");
    let mut entry = lab.dataplane().endpoint(IpAddr::V4(ip).into()).unwrap().unwrap();
    entry.ifindex += 1;
    lab.dataplane()
        .put_endpoint(IpAddr::V4(ip).into(), &entry)
        .unwrap();
    let message = lab.check("a", &result).expect_code(101, "entry wrong");
    assert!(message.contains("the endpoint entry"), "{message}");
    repaired(&lab, &result, "entry wrong");
    for block in [keelson_abi::BLOCK_INGRESS, keelson_abi::BLOCK_EGRESS] {
        lab.sh(&format!("tc filter del block {block}"));
        let message = lab.check("a", &result).expect_code(101, "filter removed");
        assert!(message.contains("programs are not on"), "{message}");
        repaired(&lab, &result, "filter removed");
    }
}

fn repaired(lab: &Lab, result: &Value, damage: &str) {
    assert_eq!(&lab.add("a"), result, "after {damage}");
    lab.check("a", result).expect(damage);
}

#[test]
fn check_compares_with_what_the_runtime_remembers() {
    let lab = Lab::new();
    let result = lab.add("a");
    lab.call("CHECK", Some(&pod("a")), &conf(json!({})))
        .expect_code(7, "no prevResult");
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.244.0.99/32".into();
    assert!(
        lab.check("a", &other)
            .expect_code(101, "address")
            .contains("does not have")
    );
    let mut other = result.clone();
    other["interfaces"][1]["name"] = "eth7".into();
    assert!(
        lab.check("a", &other)
            .expect_code(101, "interface")
            .contains("no interface eth0")
    );
    let mut other = result.clone();
    other["interfaces"][1]["mac"] = "02:00:00:00:00:07".into();
    assert!(lab.check("a", &other).expect_code(101, "mac").contains("MAC"));
    // What a later plugin of the chain added is none of ours.
    let mut more = result.clone();
    more["interfaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "ifb0"}));
    more["routes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"dst": "10.9.0.0/16"}));
    lab.check("a", &more).expect("CHECK with more");
    lab.del("a");
    lab.check("a", &result).expect_code(3, "after DEL");
}

#[test]
fn thirty_adds_at_once_get_thirty_addresses_and_thirty_dels_leave_nothing() {
    let lab = Lab::new();
    let ids: Vec<String> = (0..30).map(|i| format!("p{i}")).collect();
    ids.iter().for_each(|id| lab.netns(id));
    // Not even the programs are loaded: thirty first comers.
    let results: Vec<Value> = thread::scope(|scope| {
        let lab = &lab;
        let calls: Vec<_> = ids
            .iter()
            .map(|id| scope.spawn(move || lab.call("ADD", Some(&pod(id)), &conf(json!({}))).expect("ADD")))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let distinct: HashSet<_> = results.iter().map(address).collect();
    assert_eq!(distinct.len(), 30);
    assert_eq!(lab.in_use(), 30);
    for (id, result) in ids.iter().zip(&results) {
        lab.check(id, result).expect("CHECK");
    }
    lab.pod_sh("p0", &format!("ping -c 1 -W 2 {}", address(&results[29])));
    thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| lab.del(id));
        }
    });
    lab.assert_clean();
}

#[test]
fn a_foreign_interface_of_that_name_is_an_error_and_nothing_is_kept() {
    let lab = Lab::new();
    lab.netns("a");
    lab.pod_sh("a", "ip link add eth0 type veth peer name eth9");
    let message = lab
        .call("ADD", Some(&pod("a")), &conf(json!({})))
        .expect_code(101, "foreign eth0");
    assert!(
        message.contains("eth0 already exists in /run/netns/a"),
        "{message}"
    );
    lab.assert_clean();
    assert!(
        lab.pod_sh("a", "ip -o link show eth0").contains("eth0"),
        "it is left alone"
    );
}

#[test]
fn a_failure_after_the_link_was_made_takes_everything_back() {
    let lab = Lab::new();
    lab.netns("a");
    // The default route is taken: the fourth request in the pod fails.
    lab.pod_sh(
        "a",
        "ip link add net9 type veth peer name net8 && ip addr add 10.9.0.1/24 dev net9 && ip link set net9 up",
    );
    lab.pod_sh("a", "ip route add default dev net9");
    let message = lab
        .call("ADD", Some(&pod("a")), &conf(json!({})))
        .expect_code(5, "second default route");
    assert!(
        message.contains("default route") && message.contains("File exists"),
        "{message}"
    );
    lab.assert_clean();
    lab.pod_sh("a", "! ip link show eth0 2>/dev/null");
}

#[test]
fn an_address_and_a_mac_can_be_asked_for() {
    let lab = Lab::new();
    lab.netns("a");
    let mut call = lab.prepare("ADD", Some(&pod("a")));
    call.env(
        "CNI_ARGS",
        "IgnoreUnknown=1;IP=10.244.0.77;MAC=02:00:00:00:00:77;OTHER=x",
    );
    let result = lab
        .feed(call, conf(json!({})).to_string().as_bytes())
        .expect("ADD");
    assert_eq!(address(&result).to_string(), "10.244.0.77");
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:77");
    lab.check("a", &result).expect("CHECK");
    lab.netns("b");
    let taken = conf(json!({"runtimeConfig": {"ips": ["10.244.0.77/24"]}}));
    lab.call("ADD", Some(&pod("b")), &taken)
        .expect_code(7, "taken address");
    let b = lab.add("b");
    lab.pod_sh("b", &format!("ping -c 1 -W 2 {}", address(&result)));
    assert_ne!(address(&b), address(&result));
}

#[test]
fn an_exhausted_pool_says_its_size_and_what_is_in_use() {
    let lab = Lab::new();
    let small = conf(json!({"podCIDR": "10.244.0.0/30"}));
    for id in ["a", "b", "c"] {
        lab.netns(id);
    }
    lab.call("ADD", Some(&pod("a")), &small).expect("ADD");
    lab.call("STATUS", None, &small).expect("STATUS");
    lab.call("ADD", Some(&pod("b")), &small).expect("ADD");
    let message = lab
        .call("ADD", Some(&pod("c")), &small)
        .expect_code(100, "third of two");
    assert!(
        message.contains("10.244.0.0/30") && message.contains("2 addresses, 2 in use, 0 cooling"),
        "{message}"
    );
    lab.call("STATUS", None, &small)
        .expect_code(50, "STATUS when exhausted");
    lab.call("DEL", Some(&pod("b")), &small).expect("DEL");
    let message = lab
        .call("ADD", Some(&pod("c")), &small)
        .expect_code(11, "cooling");
    assert!(
        message.contains("1 in use, 1 cooling") && message.contains("ready in"),
        "{message}"
    );
    lab.call("STATUS", None, &small)
        .expect("STATUS: an address is about to be ready");
    assert_eq!(lab.links().len(), 1);
}
