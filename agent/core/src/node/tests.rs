//! Tables of what a node says of itself.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

fn machine() -> Machine {
    Machine {
        host_name: "host".to_owned(),
        cpus: 2,
        memory: 24 << 30,
        architecture: "amd64".to_owned(),
        ..Machine::default()
    }
}

const FINE: Usage = Usage {
    memory_available: 1 << 30,
    disk: 1000 << 20,
    disk_available: 500 << 20,
    pids: 100,
    pids_most: 1000,
};

fn view<'a>(machine: &'a Machine, usage: Usage, reports: &[(&'a str, Option<Result<(), &str>>)]) -> View<'a> {
    let own = |report: &Option<Result<(), &str>>| report.map(|report| report.map_err(str::to_owned));
    View {
        name: "n1",
        uid: "u1",
        created: at(0),
        version: "0.1.0",
        runtime: "containerd://1.6.20",
        pod_cidrs: vec!["10.244.0.0/24".to_owned()],
        given: None,
        machine,
        usage: Some(usage),
        addresses: &[],
        reports: reports
            .iter()
            .map(|(name, report)| (*name, own(report)))
            .collect(),
    }
}

fn of(node: &Node, type_: &str) -> NodeCondition {
    let status = node.status.as_ref().expect("status");
    status
        .conditions
        .iter()
        .flatten()
        .find(|one| one.type_ == type_)
        .cloned()
        .expect("has it")
}

#[test]
fn a_node_shows_what_its_machine_is() {
    let machine = machine();
    let mut view = view(&machine, FINE, &[]);
    let addresses = ["192.0.2.1".parse().expect("address")];
    view.addresses = &addresses;
    let (node, _) = node(&Node::default(), &view, at(0));
    let value = serde_json::to_value(&node).expect("serialises");
    for (pointer, expected) in [
        ("/metadata/labels/kubernetes.io~1hostname", "n1"),
        ("/metadata/labels/kubernetes.io~1arch", "amd64"),
        ("/metadata/labels/kubernetes.io~1os", "linux"),
        ("/spec/podCIDR", "10.244.0.0/24"),
        ("/status/capacity/cpu", "2"),
        ("/status/capacity/memory", "25165824Ki"),
        ("/status/capacity/pods", "110"),
        ("/status/allocatable/ephemeral-storage", "1024000Ki"),
        ("/status/addresses/0/type", "InternalIP"),
        ("/status/addresses/0/address", "192.0.2.1"),
        ("/status/addresses/1/type", "Hostname"),
        ("/status/addresses/1/address", "host"),
        ("/status/nodeInfo/kubeletVersion", "v0.1.0"),
        ("/status/nodeInfo/containerRuntimeVersion", "containerd://1.6.20"),
    ] {
        assert_eq!(
            value.pointer(pointer).and_then(|value| value.as_str()),
            Some(expected),
            "{pointer}"
        );
    }
    let types: Vec<String> = node
        .status
        .expect("status")
        .conditions
        .into_iter()
        .flatten()
        .map(|condition| condition.type_)
        .collect();
    assert_eq!(types, ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
}

#[test]
fn a_node_is_ready_only_if_every_subsystem_says_so_and_else_says_why() {
    let machine = machine();
    let waits = view(&machine, FINE, &[("runtime", Some(Ok(()))), ("network", None)]);
    let (first, turns) = node(&Node::default(), &waits, at(0));
    let ready = of(&first, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("False", Some("KubeletNotReady"))
    );
    assert_eq!(ready.message.as_deref(), Some("network: has not reported yet"));
    assert!(turns.is_empty(), "not being ready yet is no news");

    let works = view(
        &machine,
        FINE,
        &[("runtime", Some(Ok(()))), ("network", Some(Ok(())))],
    );
    let (second, turns) = node(&first, &works, at(5));
    assert_eq!(turns, [Turn::Ready]);
    assert_eq!(of(&second, "Ready").reason.as_deref(), Some("KubeletReady"));

    let broken = view(
        &machine,
        FINE,
        &[
            ("network", Some(Err("no programs"))),
            ("runtime", Some(Err("gone"))),
        ],
    );
    let (third, turns) = node(&second, &broken, at(9));
    let message = "network: no programs; runtime: gone".to_owned();
    assert_eq!(of(&third, "Ready").message, Some(message.clone()));
    assert_eq!(turns, [Turn::NotReady(message)]);
    assert_eq!(of(&third, "Ready").last_transition_time, Some(Time(at(9))));
}

#[test]
fn shortages_are_told_when_they_come_and_when_they_go() {
    let machine = machine();
    let (first, turns) = node(&Node::default(), &view(&machine, FINE, &[]), at(0));
    assert_eq!(turns, [Turn::Ready]);
    for (usage, type_, reason, relief) in [
        (
            Usage {
                memory_available: (100 << 20) - 1,
                ..FINE
            },
            "MemoryPressure",
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
        ),
        (
            Usage {
                disk_available: 99 << 20,
                ..FINE
            },
            "DiskPressure",
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
        ),
        (
            Usage { pids: 901, ..FINE },
            "PIDPressure",
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
        ),
    ] {
        let (short, turns) = node(&first, &view(&machine, usage, &[]), at(10));
        assert_eq!(of(&short, type_).status, "True");
        assert!(
            matches!(&turns[..], [Turn::Pressure(told, _)] if told == reason),
            "{turns:?}"
        );
        assert_eq!(
            of(&short, "Ready").status,
            "True",
            "a shortage alone does not make a node unready"
        );
        let (fine, turns) = node(&short, &view(&machine, FINE, &[]), at(20));
        assert_eq!(
            (
                of(&fine, type_).status.as_str(),
                of(&fine, type_).reason.as_deref()
            ),
            ("False", Some(relief))
        );
        assert!(
            matches!(&turns[..], [Turn::Relief(told, _)] if told == relief),
            "{turns:?}"
        );
    }
    let unread = View {
        usage: None,
        ..view(&machine, FINE, &[])
    };
    assert_eq!(
        of(&node(&first, &unread, at(10)).0, "DiskPressure").status,
        "Unknown"
    );
}

#[test]
fn a_node_does_not_change_while_nothing_happens_but_is_confirmed_now_and_then() {
    let machine = machine();
    let (first, _) = node(&Node::default(), &view(&machine, FINE, &[]), at(0));
    let a_bit_less = Usage {
        memory_available: FINE.memory_available - 5_000_000,
        ..FINE
    };
    let (second, turns) = node(&first, &view(&machine, a_bit_less, &[]), at(299));
    assert_eq!((&second, turns.len()), (&first, 0));
    let (third, _) = node(&second, &view(&machine, a_bit_less, &[]), at(300));
    let condition = of(&third, "MemoryPressure");
    assert_eq!(condition.last_heartbeat_time, Some(Time(at(300))));
    assert_eq!(condition.last_transition_time, Some(Time(at(0))));
    assert_ne!(condition.message, of(&first, "MemoryPressure").message);
}

#[test]
fn what_a_manifest_says_of_the_node_stands_in_it() {
    let given: Node = serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": "n1",
            "labels": { "topology.kubernetes.io/zone": "a", "kubernetes.io/arch": "said" },
            "annotations": { "note": "x" },
        },
        "spec": {
            "podCIDR": "192.0.2.0/24",
            "taints": [{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }],
            "unschedulable": true,
        },
    }))
    .expect("a node");
    let machine = machine();
    let mut view = view(&machine, FINE, &[]);
    view.given = Some(&given);
    let (node, _) = node(&Node::default(), &view, at(0));
    let value = serde_json::to_value(&node).expect("serialises");
    for (pointer, expected) in [
        ("/metadata/labels/topology.kubernetes.io~1zone", "a"),
        ("/metadata/labels/kubernetes.io~1arch", "said"),
        ("/metadata/labels/kubernetes.io~1os", "linux"),
        ("/metadata/annotations/note", "x"),
        ("/spec/taints/0/key", "ToBeDeletedByClusterAutoscaler"),
        // What the node is configured with is not a manifest's to say.
        ("/spec/podCIDR", "10.244.0.0/24"),
    ] {
        assert_eq!(
            value.pointer(pointer).and_then(|found| found.as_str()),
            Some(expected),
            "{pointer}"
        );
    }
    assert_eq!(node.spec.and_then(|spec| spec.unschedulable), Some(true));
}
