//! DEL and GC.

use std::{collections::HashSet, fs::OpenOptions, os::fd::AsRawFd, time::Duration};

use keelson_cni::{
    gc::{Wanted, collect},
    netlink::Netlink,
    netns::boot_clock_ms,
    store::Deadline,
};
use serde_json::{Value, json};

use crate::lab::{Lab, Pod, conf, pod};

#[test]
fn del_succeeds_in_every_odd_case() {
    let lab = Lab::new();
    let gone = |netns: &str| Pod {
        id: "a",
        netns: netns.into(),
        ifname: "eth0",
    };
    // Nothing was ever made, not even a folder.
    lab.call("DEL", Some(&gone("")), &conf(json!({})))
        .expect("DEL on a fresh node");
    let result = lab.add("a");
    lab.del("a");
    lab.assert_clean();
    lab.pod_sh("a", "! ip link show eth0 2>/dev/null");
    lab.del("a");
    lab.assert_clean();
    type Damage = fn(&Lab);
    let odd: [(&str, Damage); 7] = [
        ("the namespace's path is gone", |lab| {
            drop(lab.sh("umount /run/netns/a && rm /run/netns/a"))
        }),
        ("the path is an ordinary file", |lab| {
            drop(lab.sh("umount /run/netns/a"))
        }),
        ("the link is gone", |lab| {
            drop(lab.pod_sh("a", "ip link delete eth0"))
        }),
        ("the record is gone", |lab| {
            drop(lab.sh("rm /run/keelson/cni/keelson/attachments/*"))
        }),
        ("the record is garbage", |lab| {
            drop(lab.sh("for f in /run/keelson/cni/keelson/attachments/*; do echo x > $f; done"))
        }),
        ("the store is gone", |lab| drop(lab.sh("rm -r /run/keelson"))),
        ("the pool is torn", |lab| {
            drop(lab.sh("truncate -s 70 /run/keelson/cni/keelson/pool"))
        }),
    ];
    for (what, damage) in odd {
        lab.sh("umount /run/netns/a 2>/dev/null; rm -f /run/netns/a");
        lab.add("a");
        damage(&lab);
        lab.call("DEL", Some(&pod("a")), &conf(json!({}))).expect(what);
        // A namespace without a path takes its links along, a little later.
        crate::lab::until(what, || lab.links().is_empty());
        lab.assert_clean();
    }
    // With the last result, by an empty path, with an older configuration, with settings that make no sense.
    lab.sh("umount /run/netns/a 2>/dev/null; rm -f /run/netns/a");
    lab.add("a");
    let odd = conf(json!({"cniVersion": "0.4.0", "prevResult": result, "podCIDR": "what?", "podCidr": 7}));
    lab.call("DEL", Some(&gone("")), &odd).expect("DEL");
    lab.assert_clean();
}

#[test]
fn del_of_one_pod_leaves_another_that_an_old_result_names() {
    let lab = Lab::new();
    let a = lab.add("a");
    // A result from long ago: the address has a new owner.
    let b = pod("b");
    lab.call("DEL", Some(&b), &conf(json!({"prevResult": a})))
        .expect("DEL");
    lab.check("a", &a).expect("CHECK of a");
}

#[test]
fn a_namespace_that_ends_first_leaves_an_address_that_del_releases() {
    let lab = Lab::new();
    lab.add("a");
    lab.sh("umount /run/netns/a && rm /run/netns/a");
    crate::lab::until("the link goes with its namespace", || lab.links().is_empty());
    assert_eq!(lab.in_use(), 1);
    let answer = lab.call(
        "DEL",
        Some(&Pod {
            id: "a",
            netns: String::new(),
            ifname: "eth0",
        }),
        &conf(json!({})),
    );
    answer.expect("DEL");
    lab.assert_clean();
}

fn gc(lab: &Lab, network: &str, extra: Value) {
    let mut all = conf(extra);
    all["name"] = network.into();
    lab.call("GC", None, &all).expect("GC");
}

#[test]
fn gc_removes_whom_the_runtime_does_not_name_and_nobody_when_it_names_none() {
    let lab = Lab::new();
    let a = lab.add("a");
    lab.add("b");
    let other = conf(json!({"name": "second", "podCIDR": "10.245.0.0/24"}));
    let c = Pod {
        id: "a",
        netns: "/run/netns/a".into(),
        ifname: "net1",
    };
    // A second network in the same pod may not bring a second default route.
    lab.netns("c");
    let c = Pod {
        netns: "/run/netns/c".into(),
        ..c
    };
    lab.call("ADD", Some(&c), &other)
        .expect("ADD to the second network");
    gc(&lab, "keelson", json!({}));
    assert_eq!(lab.links().len(), 3, "no list, no removal");
    gc(
        &lab,
        "keelson",
        json!({"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}),
    );
    assert_eq!(lab.links().len(), 2);
    lab.check("a", &a).expect("CHECK of the one that stays");
    gc(&lab, "keelson", json!({"cni.dev/valid-attachments": null}));
    assert_eq!(lab.links().len(), 1, "null is an empty list");
    assert_eq!(lab.in_use(), 0);
    gc(&lab, "second", json!({"cni.dev/attachments": []}));
    lab.assert_clean();
    gc(&lab, "keelson", json!({"cni.dev/valid-attachments": []}));
}

#[test]
fn gc_keeps_off_what_is_in_flight_and_sweeps_what_lost_its_record() {
    let lab = Lab::new();
    lab.add("a");
    let path = lab.records().pop().unwrap();
    let file = OpenOptions::new().read(true).open(&path).unwrap();
    // SAFETY: flock takes a descriptor and no memory.
    assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0);
    gc(&lab, "keelson", json!({"cni.dev/valid-attachments": []}));
    assert_eq!(
        (lab.links().len(), lab.records().len()),
        (1, 1),
        "locked means in flight"
    );
    drop(file);
    std::fs::remove_file(&path).unwrap();
    gc(&lab, "keelson", json!({"cni.dev/valid-attachments": []}));
    lab.assert_clean();
    // A link that only looks like ours.
    lab.sh("ip link add kl0000000000001 type veth peer name other && ip link set kl0000000000001 alias other:keelson/a");
    gc(&lab, "keelson", json!({"cni.dev/valid-attachments": []}));
    lab.sh("ip link show kl0000000000001");
}

#[test]
fn an_agent_sweeps_up_pods_that_its_runtime_forgot_and_nobody_else() {
    let lab = Lab::new();
    for (id, args) in [
        (
            "gone",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=gone",
        ),
        (
            "known",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=known",
        ),
        ("other", "IgnoreUnknown=1"),
    ] {
        lab.netns(id);
        let mut call = lab.prepare("ADD", Some(&pod(id)));
        call.env("CNI_ARGS", args);
        lab.feed(call, conf(json!({})).to_string().as_bytes())
            .expect("ADD");
    }
    let sweep = |as_of_ms: u64| {
        let (run, paths) = (lab.path("/run/keelson"), lab.dataplane());
        lab.on_node(move || {
            let mut node = Netlink::open("the node").unwrap();
            let store = keelson_cni::node::open_store(&run, "keelson", &node).unwrap();
            let these = HashSet::from([("known".to_owned(), "eth0".to_owned())]);
            let wanted = Wanted::OnlyAsOf { these, as_of_ms };
            let deadline = Deadline::after(Duration::from_secs(5));
            let now_ms = boot_clock_ms().unwrap();
            collect(&store, &wanted, &mut node, Some(&paths), now_ms, deadline).unwrap()
        })
    };
    let report = sweep(0);
    assert_eq!(
        (report.attachments.len(), lab.links().len()),
        (0, 3),
        "younger than the list: {report:?}"
    );
    let report = sweep(boot_clock_ms().unwrap());
    let removed: Vec<&str> = report
        .attachments
        .iter()
        .map(|key| key.container.as_str())
        .collect();
    assert_eq!((removed, report.failures), (vec!["gone"], vec![]));
    assert_eq!(
        (lab.links().len(), lab.endpoints().len(), lab.in_use()),
        (2, 2, 2)
    );
    // An entry whose link is gone without a DEL.
    lab.pod_sh("other", "ip link delete eth0");
    assert_eq!(sweep(boot_clock_ms().unwrap()).endpoints.len(), 1);
    assert_eq!(lab.endpoints().len(), 1);
}
