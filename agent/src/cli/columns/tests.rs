//! Rows, by tables.

use serde_json::json;

use super::*;

const NOW: &str = "2026-01-02T00:10:00Z";
const CREATED: &str = "2026-01-02T00:04:48Z";

fn view(resource: Resource, wide: bool) -> View {
    View {
        resource,
        endpoints: false,
        wide,
        now: NOW.parse().expect("a time"),
    }
}

fn row(resource: Resource, object: &Value) -> String {
    view(resource, false).row(object).join("|")
}

fn wide(resource: Resource, object: &Value) -> String {
    view(resource, true).row(object).join("|")
}

/// A pod of these containers with this status.
fn pod(containers: usize, init: Value, status: Value) -> Value {
    let containers: Vec<Value> = (0..containers)
        .map(|number| json!({ "name": format!("c{number}") }))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "p", "creationTimestamp": CREATED },
        "spec": { "containers": containers, "initContainers": init, "nodeName": "n1" },
        "status": status,
    })
}

fn running(name: &str, ready: bool) -> Value {
    json!({ "name": name, "ready": ready, "restartCount": 0, "image": "", "imageID": "", "state": { "running": {} } })
}

fn waiting(name: &str, reason: &str, restarts: i32) -> Value {
    let last = if restarts > 0 {
        json!({ "terminated": { "exitCode": 1, "finishedAt": "2026-01-02T00:09:30Z" } })
    } else {
        json!({})
    };
    json!({ "name": name, "ready": false, "restartCount": restarts, "image": "", "imageID": "",
            "state": { "waiting": { "reason": reason } }, "lastState": last })
}

fn ended(name: &str, code: i32, reason: &str) -> Value {
    json!({ "name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": { "terminated": { "exitCode": code, "reason": reason } } })
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn a_pods_status_is_the_one_word_kubectl_shows() {
    let plain = json!([]);
    let one_init = json!([{ "name": "i0" }]);
    let sidecar = json!([{ "name": "i0", "restartPolicy": "Always" }]);
    let mut sidecar_runs = running("i0", true);
    sidecar_runs["started"] = json!(true);
    let ready = json!([{ "type": "Ready", "status": "True" }, { "type": "Initialized", "status": "True" }]);
    for (object, expected) in [
        (pod(1, plain.clone(), json!({})), "p|0/1|Pending|0|5m12s"),
        (
            pod(
                1,
                plain.clone(),
                json!({ "phase": "Pending", "containerStatuses": [waiting("c0", "ContainerCreating", 0)] }),
            ),
            "p|0/1|ContainerCreating|0|5m12s",
        ),
        (
            pod(
                2,
                plain.clone(),
                json!({ "phase": "Running", "containerStatuses": [running("c0", true), running("c1", false)] }),
            ),
            "p|1/2|Running|0|5m12s",
        ),
        (
            pod(
                1,
                plain.clone(),
                json!({ "phase": "Running", "containerStatuses": [waiting("c0", "CrashLoopBackOff", 3)] }),
            ),
            "p|0/1|CrashLoopBackOff|3 (30s ago)|5m12s",
        ),
        (
            pod(
                1,
                plain.clone(),
                json!({ "phase": "Pending", "containerStatuses": [waiting("c0", "ImagePullBackOff", 0)] }),
            ),
            "p|0/1|ImagePullBackOff|0|5m12s",
        ),
        (
            pod(
                1,
                plain.clone(),
                json!({ "phase": "Succeeded", "containerStatuses": [ended("c0", 0, "Completed")] }),
            ),
            "p|0/1|Completed|0|5m12s",
        ),
        (
            pod(
                1,
                plain.clone(),
                json!({ "phase": "Failed", "containerStatuses": [ended("c0", 2, "Error")] }),
            ),
            "p|0/1|Error|0|5m12s",
        ),
        (
            pod(
                1,
                plain.clone(),
                json!({ "phase": "Failed", "containerStatuses": [ended("c0", 7, "")] }),
            ),
            "p|0/1|ExitCode:7|0|5m12s",
        ),
        (
            pod(
                1,
                plain.clone(),
                json!({ "phase": "Failed", "reason": "Evicted" }),
            ),
            "p|0/1|Evicted|0|5m12s",
        ),
        // One of two has ended well: what still runs decides.
        (
            pod(
                2,
                plain.clone(),
                json!({ "phase": "Running", "conditions": ready, "containerStatuses": [ended("c0", 0, "Completed"), running("c1", true)] }),
            ),
            "p|1/2|Running|0|5m12s",
        ),
        (
            pod(
                2,
                plain,
                json!({ "phase": "Running", "containerStatuses": [ended("c0", 0, "Completed"), running("c1", true)] }),
            ),
            "p|1/2|NotReady|0|5m12s",
        ),
        (
            pod(
                1,
                one_init.clone(),
                json!({ "phase": "Pending", "initContainerStatuses": [running("i0", false)],
                "containerStatuses": [waiting("c0", "PodInitializing", 0)] }),
            ),
            "p|0/1|Init:0/1|0|5m12s",
        ),
        (
            pod(
                1,
                one_init.clone(),
                json!({ "phase": "Pending", "initContainerStatuses": [waiting("i0", "CrashLoopBackOff", 2)],
                "containerStatuses": [waiting("c0", "PodInitializing", 0)] }),
            ),
            "p|0/1|Init:CrashLoopBackOff|2 (30s ago)|5m12s",
        ),
        (
            pod(
                1,
                one_init.clone(),
                json!({ "phase": "Pending", "initContainerStatuses": [ended("i0", 1, "Error")],
                "containerStatuses": [waiting("c0", "PodInitializing", 0)] }),
            ),
            "p|0/1|Init:Error|0|5m12s",
        ),
        (
            pod(
                1,
                one_init,
                json!({ "phase": "Pending", "initContainerStatuses": [ended("i0", 0, "Completed")],
                "containerStatuses": [waiting("c0", "PodInitializing", 0)] }),
            ),
            "p|0/1|PodInitializing|0|5m12s",
        ),
        (
            pod(
                1,
                sidecar,
                json!({ "phase": "Running", "initContainerStatuses": [sidecar_runs], "containerStatuses": [running("c0", true)] }),
            ),
            "p|2/2|Running|0|5m12s",
        ),
    ] {
        assert_eq!(row(Resource::Pods, &object), expected, "{object}");
    }
}

#[test]
fn a_pod_that_is_to_end_is_terminating_until_it_is_over() {
    let status = |phase: &str| json!({ "phase": phase, "podIP": "10.244.0.7", "containerStatuses": [running("c0", true)] });
    let mut object = pod(1, json!([]), status("Running"));
    object["metadata"]["deletionTimestamp"] = json!(NOW);
    assert_eq!(
        wide(Resource::Pods, &object),
        "p|1/1|Terminating|0|5m12s|10.244.0.7|n1|<none>|<none>"
    );
    object["status"] = json!({ "phase": "Succeeded", "containerStatuses": [ended("c0", 0, "Completed")] });
    assert_eq!(row(Resource::Pods, &object), "p|0/1|Completed|0|5m12s");
}

#[test]
fn services_show_where_they_are_reached() {
    let service =
        |spec: Value| json!({ "metadata": { "name": "s", "creationTimestamp": CREATED }, "spec": spec });
    for (spec, expected) in [
        (
            json!({ "type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{ "port": 80, "protocol": "TCP" }], "selector": { "app": "web", "tier": "a" } }),
            "s|ClusterIP|10.96.0.1|<none>|80/TCP|5m12s|app=web,tier=a",
        ),
        (
            json!({ "type": "NodePort", "clusterIP": "10.96.0.1", "ports": [{ "port": 80, "nodePort": 30080, "protocol": "TCP" }, { "port": 53, "nodePort": 30053, "protocol": "UDP" }] }),
            "s|NodePort|10.96.0.1|<none>|80:30080/TCP,53:30053/UDP|5m12s|<none>",
        ),
        (
            json!({ "clusterIP": "None", "ports": [] }),
            "s|ClusterIP|None|<none>|<none>|5m12s|<none>",
        ),
        (
            json!({ "type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] }),
            "s|LoadBalancer|10.96.0.1|<pending>|80/TCP|5m12s|<none>",
        ),
        (
            json!({ "type": "ClusterIP", "externalIPs": ["192.0.2.1", "192.0.2.2"], "ports": [{ "port": 80 }] }),
            "s|ClusterIP|<none>|192.0.2.1,192.0.2.2|80/TCP|5m12s|<none>",
        ),
    ] {
        assert_eq!(
            wide(Resource::Services, &service(spec.clone())),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn a_peer_shows_its_pods_and_how_they_are_reached() {
    let peer = json!({
        "metadata": { "name": "x", "creationTimestamp": CREATED },
        "spec": { "podCIDRs": ["10.244.2.0/24"], "addresses": ["192.0.2.2", "192.0.2.3"] },
        "status": { "routes": [{ "podCIDR": "10.244.2.0/24", "way": "Tunnel", "via": "192.0.2.2" }], "refused": ["why"] },
    });
    let row = wide(Resource::Peers, &peer);
    assert_eq!(row, "x|10.244.2.0/24|192.0.2.2,192.0.2.3|Refused,Tunnel|5m12s");
}

#[test]
fn other_kinds_have_kubectls_columns() {
    let meta = json!({ "name": "x", "creationTimestamp": CREATED });
    let deployment = json!({ "metadata": meta, "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } },
        "template": { "spec": { "containers": [{ "name": "a", "image": "i:1" }, { "name": "b", "image": "j:2" }] } } },
        "status": { "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2 } });
    let node = json!({ "metadata": { "name": "n1", "creationTimestamp": CREATED }, "spec": { "unschedulable": true },
        "status": { "conditions": [{ "type": "Ready", "status": "False" }], "addresses": [{ "type": "InternalIP", "address": "192.0.2.9" }],
            "nodeInfo": { "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://1.6.20", "kernelVersion": "6.18", "kubeProxyVersion": "",
                "kubeletVersion": "v0.1.0", "machineID": "", "operatingSystem": "linux", "osImage": "Debian", "systemUUID": "" } } });
    let manifest = |objects: Value, errors: Value| json!({ "metadata": { "name": "web.yaml" }, "status": { "objects": objects, "errors": errors } });
    for (resource, object, expected) in [
        (
            Resource::Deployments,
            deployment,
            "x|2/3|1|2|5m12s|a,b|i:1,j:2|app=web",
        ),
        (
            Resource::ConfigMaps,
            json!({ "metadata": meta, "data": { "a": "1", "b": "2" } }),
            "x|2|5m12s",
        ),
        (
            Resource::Secrets,
            json!({ "metadata": meta, "data": { "a": "MQ==" } }),
            "x|Opaque|1|5m12s",
        ),
        (
            Resource::Nodes,
            node,
            "n1|NotReady,SchedulingDisabled|<none>|5m12s|v0.1.0|192.0.2.9|<none>|Debian|6.18|containerd://1.6.20",
        ),
        (
            Resource::Manifests,
            manifest(json!(["Pod default/a"]), json!([])),
            "web.yaml|Pod default/a|Good|",
        ),
        (
            Resource::Manifests,
            manifest(json!(["Pod default/a"]), json!(["bad", "worse"])),
            "web.yaml|Pod default/a|LastGood|bad; worse",
        ),
        (
            Resource::Manifests,
            manifest(json!([]), json!(["bad"])),
            "web.yaml|<none>|Refused|bad",
        ),
        (
            Resource::Namespaces,
            json!({ "metadata": { "name": "default" }, "status": { "phase": "Active" } }),
            "default|Active|<none>",
        ),
    ] {
        assert_eq!(wide(resource, &object), expected);
        assert_eq!(
            view(resource, true).headers().len(),
            view(resource, true).row(&object).len(),
            "{resource}"
        );
    }
}

#[test]
fn endpoints_show_who_is_ready_and_slices_show_all() {
    let endpoint =
        |address: &str, ready: bool| json!({ "addresses": [address], "conditions": { "ready": ready } });
    let slice = json!({ "metadata": { "name": "web-x1", "creationTimestamp": CREATED, "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": [{ "port": 8080 }],
        "endpoints": [endpoint("10.244.0.2", true), endpoint("10.244.0.3", false), endpoint("10.244.0.4", true)] });
    let mut old = view(Resource::EndpointSlices, false);
    old.endpoints = true;
    assert_eq!(
        old.row(&slice).join("|"),
        "web|10.244.0.2:8080,10.244.0.4:8080|5m12s"
    );
    assert_eq!(
        row(Resource::EndpointSlices, &slice),
        "web-x1|IPv4|8080|10.244.0.2,10.244.0.3,10.244.0.4|5m12s"
    );
    let many: Vec<Value> = (1..=5)
        .map(|number| endpoint(&format!("10.244.0.{number}"), true))
        .collect();
    let slice = json!({ "metadata": { "name": "x" }, "addressType": "IPv4", "endpoints": many });
    assert_eq!(
        row(Resource::EndpointSlices, &slice),
        "x|IPv4|<unset>|10.244.0.1,10.244.0.2,10.244.0.3 + 2 more...|<unknown>"
    );
}

#[test]
fn events_say_how_often_and_since_when() {
    let event = |count: i32| {
        json!({ "metadata": { "name": "e" }, "type": "Warning", "reason": "BackOff", "message": "a\nb ", "count": count,
        "involvedObject": { "kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}" },
        "firstTimestamp": CREATED, "lastTimestamp": "2026-01-02T00:09:55Z", "source": { "component": "keelson" } })
    };
    assert_eq!(row(Resource::Events, &event(1)), "5s|Warning|BackOff|pod/p|a b");
    assert_eq!(
        row(Resource::Events, &event(4)),
        "5s (x4 over 5m12s)|Warning|BackOff|pod/p|a b"
    );
    assert_eq!(
        wide(Resource::Events, &event(4)),
        "5s (x4 over 5m12s)|Warning|BackOff|pod/p|spec.containers{c}|keelson|a b|5m12s|4|e"
    );
}

#[test]
fn an_object_that_makes_no_sense_is_shown_with_its_name() {
    let shown = row(
        Resource::Pods,
        &json!({ "metadata": { "name": "odd" }, "spec": 5 }),
    );
    assert!(shown.starts_with("odd|cannot be shown: "), "{shown}");
}
