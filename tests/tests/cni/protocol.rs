//! The protocol: variables, codes, versions, greetings, the other name of the binary.

use serde_json::{Value, json};

use crate::lab::{Answer, Lab, Pod, address, conf, plugin, pod};

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn the_result_has_the_shape_of_the_version_asked_for() {
    let lab = Lab::new();
    for version in VERSIONS {
        lab.netns("a");
        let conf = conf(json!({"cniVersion": version, "dns": {"nameservers": ["10.96.0.10"]}}));
        let result = lab.call("ADD", Some(&pod("a")), &conf).expect(version);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
        if version < "0.3.0" {
            assert!(result["ip4"]["ip"].as_str().unwrap().ends_with("/32"));
            assert_eq!(result["ip4"]["gateway"], "169.254.1.1");
            assert_eq!(result["ip4"]["routes"][0]["dst"], "0.0.0.0/0");
            assert!(result.get("ips").is_none() && result.get("interfaces").is_none());
        } else {
            assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
            assert_eq!(
                result["ips"][0]["version"].as_str(),
                (version < "1.0.0").then_some("4")
            );
            assert_eq!(result["interfaces"][1]["mtu"].is_u64(), version >= "1.1.0");
        }
        let mut check = conf.clone();
        check["prevResult"] = result;
        let answer = lab.call("CHECK", Some(&pod("a")), &check);
        if version < "0.4.0" {
            answer.expect_code(1, version);
        } else {
            answer.expect(version);
        }
        lab.call("DEL", Some(&pod("a")), &check).expect(version);
        lab.sh("umount /run/netns/a && rm /run/netns/a");
    }
    lab.assert_clean();
}

/// Verb, variables that differ from a good call's, input, code.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, u64);

#[test]
fn every_malformed_call_gets_its_code() {
    let lab = Lab::new();
    lab.netns("a");
    let good = conf(json!({})).to_string();
    let cases: [Case<'_>; 21] = [
        ("ADD", &[("CNI_CONTAINERID", "")], &good, 4),
        ("ADD", &[("CNI_NETNS", "")], &good, 4),
        ("ADD", &[("CNI_IFNAME", "")], &good, 4),
        ("ADD", &[("CNI_PATH", "")], &good, 4),
        ("ADD", &[("CNI_CONTAINERID", "a/b")], &good, 4),
        ("ADD", &[("CNI_IFNAME", "much-too-long-a-name")], &good, 4),
        ("ADD", &[("CNI_IFNAME", "a:b")], &good, 4),
        ("ADD", &[("CNI_ARGS", "X=1")], &good, 4),
        ("ADD", &[("CNI_NETNS", "/run/netns/none")], &good, 8),
        ("ADD", &[("CNI_NETNS", "/run")], &good, 8),
        ("ADD", &[("CNI_NETNS", "/proc/self/ns/net")], &good, 8),
        ("DEL", &[("CNI_NETNS", "/proc/self/ns/net")], &good, 8),
        ("ADD", &[], "", 6),
        ("ADD", &[], "{", 6),
        ("ADD", &[], "[]", 6),
        ("DEL", &[], "nonsense", 6),
        ("ADD", &[], r#"{"cniVersion":"1.0.0","type":"x"}"#, 7),
        ("ADD", &[], r#"{"cniVersion":"1.0.0","name":"../x"}"#, 7),
        ("ADD", &[], r#"{"cniVersion":"1.0.0","name":"x"}"#, 7),
        ("ADD", &[], r#"{"cniVersion":"7.0.0","name":"x"}"#, 1),
        ("FLY", &[], &good, 4),
    ];
    for (verb, variables, input, code) in cases {
        let mut call = lab.prepare(verb, Some(&pod("a")));
        for (name, value) in variables {
            call.env(name, value);
        }
        let message = lab
            .feed(call, input.as_bytes())
            .expect_code(code, &format!("{verb} {variables:?} {input}"));
        assert!(!message.trim().is_empty());
    }
    assert_eq!(lab.links(), Vec::<String>::new());
    assert_eq!(lab.records().len(), 0);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let lab = Lab::new();
    lab.netns("a");
    for (extra, code) in [
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]}}),
            2,
        ),
        (
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 1000, "ingressBurst": 10}}}),
            2,
        ),
        (json!({"ipam": {"type": "host-local"}}), 2),
        (json!({"podcidr": "10.0.0.0/8"}), 2),
        (json!({"podCIDR": "fd00::/64"}), 2),
        (json!({"podCIDR": "10.244.0.1/24"}), 7),
        (json!({"podCIDR": "10.96.0.0/12"}), 7),
    ] {
        let message = lab
            .call("ADD", Some(&pod("a")), &conf(extra.clone()))
            .expect_code(code, &extra.to_string());
        let key = extra.as_object().unwrap().keys().next().unwrap();
        assert!(
            message.contains(key.as_str()) || key == "runtimeConfig",
            "{message}"
        );
    }
    // Verbs that the configuration's version does not have yet.
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        lab.call(verb, Some(&pod("a")), &conf(json!({"cniVersion": version})))
            .expect_code(1, verb);
    }
    assert_eq!(lab.links(), Vec::<String>::new());
    assert_eq!(lab.records().len(), 0);
}

#[test]
fn missing_variables_are_named_all_at_once() {
    let lab = Lab::new();
    let message = lab.feed(lab.prepare("ADD", None), b"{}").expect_code(4, "ADD");
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn version_answers_whatever_else_is_said_and_no_command_gets_a_greeting() {
    let lab = Lab::new();
    let fillers = Pod {
        id: "-",
        netns: "dummy".into(),
        ifname: "a name:with/all",
    };
    let answer = lab
        .feed(lab.prepare("VERSION", Some(&fillers)), b"not json")
        .expect("VERSION");
    assert_eq!(answer["supportedVersions"], json!(VERSIONS));
    let output = lab
        .command(plugin())
        .env_clear()
        .env("CNI_COMMAND", "")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("CNI keelson-cni plugin v"), "{text}");
    assert!(
        text.contains("CNI protocol versions supported: 0.1.0, 0.2.0"),
        "{text}"
    );
}

#[test]
fn a_chained_add_hands_on_what_came_before() {
    let lab = Lab::new();
    lab.netns("a");
    let earlier = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "net7", "sandbox": "/run/netns/a"}],
        "ips": [{"address": "10.7.0.2/24", "interface": 0}], "routes": [{"dst": "10.7.0.0/16", "mtu": 1300}]});
    let result = lab
        .call("ADD", Some(&pod("a")), &conf(json!({"prevResult": earlier})))
        .expect("ADD");
    assert_eq!(result["interfaces"][0]["name"], "net7");
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["routes"][0]["mtu"], 1300);
    lab.check("a", &result).expect("CHECK");
}

#[test]
fn status_prepares_the_node_and_tells_when_it_cannot() {
    let lab = Lab::new();
    lab.call("STATUS", None, &conf(json!({})))
        .expect("STATUS on a fresh node");
    assert_eq!(lab.endpoints().len(), 0, "the programs are loaded");
    lab.call("STATUS", None, &conf(json!({"bpf": "/proc/nowhere"})))
        .expect_code(50, "no bpffs");
    lab.add("a");
    lab.call("STATUS", None, &conf(json!({"bpf": "/proc/nowhere"})))
        .expect_code(51, "no bpffs, and pods");
    lab.call("STATUS", None, &conf(json!({}))).expect("STATUS");
}

#[test]
fn an_uplink_that_appears_later_is_attached_by_the_next_call() {
    let lab = Lab::new();
    lab.add("a");
    let pins = || {
        std::fs::read_dir(lab.dataplane().generation().path.join("links"))
            .unwrap()
            .count()
    };
    let before = pins();
    lab.sh("ip link add up9 type veth peer name world9 && ip link set world9 up && ip link set up9 up");
    lab.sh("ip addr add 192.168.79.1/24 dev up9");
    lab.call("STATUS", None, &conf(json!({}))).expect("STATUS");
    assert_eq!(pins(), before + 2, "ingress and egress of the new uplink");
}

#[test]
fn a_changed_configuration_reaches_the_programs_with_the_next_call() {
    let lab = Lab::new();
    lab.add("a");
    let node = lab.dataplane().node().unwrap();
    assert_eq!(
        (node.nodeport_min, node.flags & keelson_abi::NODE_SNAT_PODS),
        (30_000, keelson_abi::NODE_SNAT_PODS)
    );
    let changed = conf(json!({"nodePortRange": "31000-31999", "snat": false}));
    lab.call("STATUS", None, &changed).expect("STATUS");
    let node = lab.dataplane().node().unwrap();
    assert_eq!(
        (
            node.nodeport_min,
            node.nodeport_max,
            node.flags & keelson_abi::NODE_SNAT_PODS
        ),
        (31_000, 31_999, 0)
    );
}

#[test]
fn loopback_is_the_same_binary_by_another_name() {
    let lab = Lab::new();
    lab.netns("a");
    lab.sh(&format!(
        "mkdir /run/bin && ln -s {} /run/bin/loopback",
        plugin().display()
    ));
    let call = |verb: &str, conf: &Value| -> Answer {
        let mut call = lab.command("/run/bin/loopback");
        call.env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", "/run/bin");
        call.env("CNI_CONTAINERID", "a")
            .env("CNI_NETNS", "/run/netns/a")
            .env("CNI_IFNAME", "lo");
        call.stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        lab.feed(call, conf.to_string().as_bytes())
    };
    for version in VERSIONS {
        let mut conf = json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"});
        let result = call("ADD", &conf).expect(version);
        assert!(lab.pod_sh("a", "ip link show lo").contains("UP"));
        if version >= "0.3.0" {
            assert_eq!(result["interfaces"][0]["name"], "lo");
            assert_eq!(address(&result).to_string(), "127.0.0.1");
        }
        if version >= "0.4.0" {
            conf["prevResult"] = result;
            call("CHECK", &conf).expect(version);
            lab.pod_sh("a", "ip link set lo down");
            call("CHECK", &conf).expect_code(101, version);
        }
        call("DEL", &conf).expect(version);
        assert!(!lab.pod_sh("a", "ip link show lo").contains("UP"));
    }
    lab.sh("umount /run/netns/a && rm /run/netns/a");
    call("DEL", &json!({"cniVersion": "1.0.0", "name": "cni-loopback"})).expect("DEL without a namespace");
    let greeting = lab.command("/run/bin/loopback").env_clear().output().unwrap();
    assert!(
        String::from_utf8(greeting.stderr)
            .unwrap()
            .starts_with("CNI loopback plugin v")
    );
    assert!(!lab.path("/run/keelson").exists(), "loopback has no state");
}
