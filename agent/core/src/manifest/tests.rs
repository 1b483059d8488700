//! Tables of what manifests mean and why they are refused; properties of merging.

mod merging;
mod planning;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    decode::decode,
    document::{Document, field, item},
    object::Object,
    validate::Rules,
};

fn rules() -> Rules {
    Rules {
        node_name: "n1".to_owned(),
        service_cidr: "10.96.0.0/16".parse().expect("network"),
        service_cidr_v6: Some("fd00:96::/112".parse().expect("network")),
        node_port_range: (30000, 32767),
        runs_pods: true,
    }
}

/// A document in which every field stands on a line of its own.
fn document(value: Value) -> Document {
    fn number(value: &Value, path: String, lines: &mut BTreeMap<String, u64>) {
        lines.insert(path.clone(), 10 + lines.len() as u64);
        match value {
            Value::Object(map) => map
                .iter()
                .for_each(|(key, value)| number(value, field(&path, key), lines)),
            Value::Array(list) => {
                list.iter()
                    .enumerate()
                    .for_each(|(index, value)| number(value, item(&path, index), lines));
            }
            _ => {}
        }
    }
    let mut lines = BTreeMap::new();
    number(&value, String::new(), &mut lines);
    Document {
        number: 2,
        line: 10,
        value,
        lines,
    }
}

fn good(value: Value) -> Object {
    decode(&document(value), &rules()).expect("accepted").remove(0)
}

/// Field and message of everything that is wrong.
fn faults(value: Value) -> Vec<(String, String)> {
    let problems = decode(&document(value), &rules()).expect_err("refused");
    problems
        .into_iter()
        .map(|problem| (problem.field, problem.message))
        .collect()
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
           "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
           "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
           "spec": {"selector": {"matchLabels": {"app": "a"}},
                    "template": {"metadata": {"labels": {"app": "a"}},
                                 "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}}}})
}

/// The object with the value at a pointer set (`null` removes).
fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    if value.pointer(parent).is_none() {
        value = with(value, parent, json!({}));
    }
    match value.pointer_mut(parent).expect("just made") {
        Value::Object(map) => drop(map.insert(key.to_owned(), new)),
        Value::Array(list) => match key.parse::<usize>() {
            Ok(index) if index < list.len() => list[index] = new,
            _ => list.push(new),
        },
        other => panic!("{other} has no fields"),
    }
    value
}

#[test]
fn a_pod_gets_the_defaults_of_an_api_server() {
    let spec = json!({"containers": [
        {"name": "a", "image": "busybox", "ports": [{"containerPort": 80}],
         "resources": {"limits": {"cpu": 1, "memory": "64Mi"}, "requests": {"cpu": "100m"}},
         "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
         "livenessProbe": {"httpGet": {"port": 80}},
         "readinessProbe": {"grpc": {"port": 9}, "periodSeconds": 3}},
        {"name": "b", "image": "host:5000/x/y:1.2"}, {"name": "c", "image": "x:latest"}],
        "volumes": [{"name": "v"}, {"name": "m", "configMap": {"name": "m"}}, {"name": "h", "hostPath": {"path": "/x"}}]});
    let Object::Pod(pod) = good(with(pod(), "/spec", spec)) else {
        panic!("a pod")
    };
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    let spec = serde_json::to_value(pod.spec).expect("serialises");
    for (pointer, expected) in [
        ("/restartPolicy", json!("Always")),
        ("/dnsPolicy", json!("ClusterFirst")),
        ("/terminationGracePeriodSeconds", json!(30)),
        ("/enableServiceLinks", json!(true)),
        ("/nodeName", json!("n1")),
        ("/containers/0/imagePullPolicy", json!("Always")),
        ("/containers/1/imagePullPolicy", json!("IfNotPresent")),
        ("/containers/2/imagePullPolicy", json!("Always")),
        (
            "/containers/0/terminationMessagePath",
            json!("/dev/termination-log"),
        ),
        ("/containers/0/terminationMessagePolicy", json!("File")),
        (
            "/containers/0/ports/0",
            json!({"containerPort": 80, "protocol": "TCP"}),
        ),
        (
            "/containers/0/resources/requests",
            json!({"cpu": "100m", "memory": "64Mi"}),
        ),
        ("/containers/0/resources/limits/cpu", json!("1")),
        ("/containers/0/env/0/valueFrom/fieldRef/apiVersion", json!("v1")),
        (
            "/containers/0/livenessProbe/httpGet",
            json!({"port": 80, "path": "/", "scheme": "HTTP"}),
        ),
        ("/containers/0/livenessProbe/timeoutSeconds", json!(1)),
        ("/containers/0/livenessProbe/periodSeconds", json!(10)),
        ("/containers/0/livenessProbe/successThreshold", json!(1)),
        ("/containers/0/livenessProbe/failureThreshold", json!(3)),
        ("/containers/0/readinessProbe/periodSeconds", json!(3)),
        (
            "/containers/0/readinessProbe/grpc",
            json!({"port": 9, "service": ""}),
        ),
        ("/volumes/0", json!({"name": "v", "emptyDir": {}})),
        ("/volumes/1/configMap/defaultMode", json!(420)),
        ("/volumes/2/hostPath", json!({"path": "/x", "type": ""})),
    ] {
        assert_eq!(spec.pointer(pointer), Some(&expected), "{pointer}");
    }
}

#[test]
fn services_and_deployments_get_the_defaults_of_an_api_server() {
    let value = good(with(service(), "/spec/type", json!("NodePort")))
        .to_value()
        .expect("serialises");
    for (pointer, expected) in [
        ("/spec/type", json!("NodePort")),
        (
            "/spec/ports/0",
            json!({"port": 80, "protocol": "TCP", "targetPort": 80}),
        ),
        ("/spec/sessionAffinity", json!("None")),
        ("/spec/internalTrafficPolicy", json!("Cluster")),
        ("/spec/externalTrafficPolicy", json!("Cluster")),
        ("/spec/ipFamilies", json!(["IPv4"])),
    ] {
        assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
    }
    let value = good(deployment()).to_value().expect("serialises");
    for (pointer, expected) in [
        ("/spec/replicas", json!(1)),
        ("/spec/progressDeadlineSeconds", json!(600)),
        ("/spec/revisionHistoryLimit", json!(10)),
        (
            "/spec/strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
        ),
        ("/spec/template/spec/restartPolicy", json!("Always")),
    ] {
        assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
    }
    assert!(
        value.pointer("/spec/template/spec/nodeName").is_none(),
        "a template is for any node"
    );
}

#[test]
fn a_service_of_every_kind_and_family_is_taken() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"],
        "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
        "externalIPs": ["192.0.2.1", "2001:db8::1"], "loadBalancerSourceRanges": [" 192.0.2.0/24 "],
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "trafficDistribution": "PreferSameNode", "allocateLoadBalancerNodePorts": false,
        "ports": [{"name": "sctp", "port": 5060, "protocol": "SCTP"}],
    });
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "VIP"}]}});
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec, "status": status});
    let Object::Service(service) = good(value) else {
        panic!("a Service")
    };
    let balancer = service
        .status
        .and_then(|status| status.load_balancer)
        .expect("kept");
    let ingress = balancer.ingress.expect("kept");
    assert_eq!(
        ingress[0].ip.as_deref(),
        Some("198.51.100.1"),
        "nobody else says it"
    );
    let named = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "n"},
                       "spec": {"type": "ExternalName", "externalName": "db.example"}});
    good(named);
}

#[test]
fn what_was_written_by_get_is_read_again_as_the_same_object() {
    for value in [pod(), service(), deployment()] {
        let first = good(value);
        let mut served = first.clone();
        served.metadata_mut().uid = Some("u".to_owned());
        served.metadata_mut().resource_version = Some("7".to_owned());
        served.metadata_mut().generation = Some(3);
        let mut value = served.to_value().expect("serialises");
        value["status"] = json!({"anything": ["x"]});
        value["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(good(value), first);
    }
}

#[test]
fn string_data_of_a_secret_becomes_data_and_wins() {
    let value = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                       "data": {"a": "b2xk", "b": "eA=="}, "stringData": {"a": "new"}});
    let Object::Secret(secret) = good(value) else {
        panic!("a secret")
    };
    let data = secret.data.expect("data");
    assert_eq!(
        (data["a"].0.as_slice(), data["b"].0.as_slice()),
        (&b"new"[..], &b"x"[..])
    );
    assert_eq!(
        (secret.string_data, secret.type_.as_deref()),
        (None, Some("Opaque"))
    );
}

#[test]
fn a_list_holds_objects_and_errors_within_it_are_placed() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [service(), deployment()]});
    assert_eq!(decode(&document(list), &rules()).expect("accepted").len(), 2);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [service(), with(service(), "/spec/ports/0/port", json!(0))]});
    let document = document(list);
    let problems = decode(&document, &rules()).expect_err("refused");
    assert_eq!(problems[0].field, "items[1].spec.ports[0].port");
    assert_eq!(
        (problems[0].document, problems[0].line),
        (2, document.lines["items[1].spec.ports[0].port"])
    );
    let text = problems[0].to_string();
    assert!(
        text.starts_with("document 2, line ") && text.contains(", items[1].spec.ports[0].port: "),
        "{text}"
    );
}

#[test]
fn fields_that_do_not_exist_are_refused_by_name() {
    for (value, path) in [
        (with(service(), "/spec/port", json!(80)), "spec.port"),
        (
            with(service(), "/spec/ports/0/tagetPort", json!(80)),
            "spec.ports[0].tagetPort",
        ),
        (
            with(
                deployment(),
                "/spec/template/spec/containers/0/imagePullPolice",
                json!("Never"),
            ),
            "spec.template.spec.containers[0].imagePullPolice",
        ),
        (
            with(pod(), "/metadata/label", json!({"a": "b"})),
            "metadata.label",
        ),
        (with(service(), "/speck", json!({})), "speck"),
    ] {
        assert!(
            faults(value).contains(&(path.to_owned(), "unknown field".to_owned())),
            "{path}"
        );
    }
    good(with(service(), "/spec/clusterIP", Value::Null));
}

#[test]
fn a_value_of_the_wrong_type_is_refused_by_field() {
    for (value, path) in [
        (
            with(service(), "/spec/ports/0/port", json!("http")),
            "spec.ports[0].port",
        ),
        (
            with(deployment(), "/spec/replicas", json!("two")),
            "spec.replicas",
        ),
        (
            with(
                deployment(),
                "/spec/template/spec/containers/0/env",
                json!([{"name": "A", "value": 1}]),
            ),
            "spec.template.spec.containers[0].env[0].value",
        ),
        (
            with(pod(), "/metadata/labels", json!({"a.b/c": 5})),
            "metadata.labels[\"a.b/c\"]",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "no base64!"}}),
            "data.k",
        ),
    ] {
        assert_eq!(faults(value)[0].0, path);
    }
}

#[test]
fn kinds_that_are_not_supported_are_refused_by_name() {
    for (value, path, part) in [
        (
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet"}),
            "kind",
            "\"StatefulSet\" is not supported",
        ),
        (json!({"apiVersion": "v1"}), "kind", "missing"),
        (
            json!({"apiVersion": "apps/v1beta1", "kind": "Deployment"}),
            "apiVersion",
            "write \"apps/v1\"",
        ),
        (json!("text"), "", "an object"),
        (json!(["x"]), "", "an object"),
    ] {
        let found = faults(value);
        assert_eq!(found[0].0, path);
        assert!(found[0].1.contains(part), "{found:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one flat table")]
fn objects_that_break_a_rule_are_refused_by_field() {
    let two =
        json!([{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30001}]);
    let node_port = |ports| {
        with(
            with(service(), "/spec/type", json!("NodePort")),
            "/spec/ports",
            ports,
        )
    };
    for (value, path) in [
        (with(pod(), "/metadata/name", json!("A")), "metadata.name"),
        (
            with(pod(), "/metadata", json!({"generateName": "a-"})),
            "metadata.generateName",
        ),
        (
            with(pod(), "/metadata/namespace", json!("a.b")),
            "metadata.namespace",
        ),
        (
            with(pod(), "/metadata/labels", json!({"a": "b c"})),
            "metadata.labels.a",
        ),
        (
            with(pod(), "/metadata/annotations", json!({"a b": "c"})),
            "metadata.annotations[\"a b\"]",
        ),
        (
            with(pod(), "/metadata/finalizers", json!(["x/y"])),
            "metadata.finalizers",
        ),
        (with(pod(), "/spec/nodeName", json!("other")), "spec.nodeName"),
        (with(pod(), "/spec", Value::Null), "spec"),
        (with(service(), "/metadata/name", json!("1a")), "metadata.name"),
        (with(service(), "/spec/type", json!("Balancer")), "spec.type"),
        (
            with(service(), "/spec/clusterIP", json!("10.97.0.1")),
            "spec.clusterIP",
        ),
        (
            with(service(), "/spec/clusterIP", json!("10.96.0.0")),
            "spec.clusterIP",
        ),
        (with(service(), "/spec/clusterIP", json!("x")), "spec.clusterIP"),
        (
            with(service(), "/spec/clusterIPs", json!(["10.96.0.9"])),
            "spec.clusterIPs",
        ),
        (with(service(), "/spec/ports", json!([])), "spec.ports"),
        (
            with(service(), "/spec/ports/0/port", json!(65536)),
            "spec.ports[0].port",
        ),
        (
            with(service(), "/spec/ports/0/targetPort", json!("-")),
            "spec.ports[0].targetPort",
        ),
        (
            with(service(), "/spec/ports/0/protocol", json!("tcp")),
            "spec.ports[0].protocol",
        ),
        (
            with(service(), "/spec/ports/0/nodePort", json!(30000)),
            "spec.ports[0].nodePort",
        ),
        (
            with(service(), "/spec/ports/1", json!({"port": 81})),
            "spec.ports[0].name",
        ),
        (
            node_port(json!([{"port": 80, "nodePort": 80}])),
            "spec.ports[0].nodePort",
        ),
        (node_port(two), "spec.ports[1].nodePort"),
        (
            with(service(), "/spec/type", json!("ExternalName")),
            "spec.externalName",
        ),
        (
            with(service(), "/spec/externalIPs", json!(["192.0.2.1", "web"])),
            "spec.externalIPs[1]",
        ),
        (
            with(service(), "/spec/loadBalancerSourceRanges", json!(["192.0.2.1"])),
            "spec.loadBalancerSourceRanges[0]",
        ),
        (
            with(service(), "/spec/sessionAffinity", json!("Cookie")),
            "spec.sessionAffinity",
        ),
        (
            with(service(), "/spec/ipFamilies", json!(["IPv4", "IPX"])),
            "spec.ipFamilies[1]",
        ),
        (
            with(service(), "/spec/loadBalancerIP", json!("192.0.2.1")),
            "spec.loadBalancerIP",
        ),
        (with(deployment(), "/spec/replicas", json!(-1)), "spec.replicas"),
        (with(deployment(), "/spec/selector", json!({})), "spec.selector"),
        (
            with(deployment(), "/spec/selector/matchLabels/app", json!("b")),
            "spec.template.metadata.labels",
        ),
        (
            with(
                deployment(),
                "/spec/selector/matchExpressions",
                json!([{"key": "app", "operator": "Is"}]),
            ),
            "spec.selector.matchExpressions[0].operator",
        ),
        (
            with(deployment(), "/spec/strategy", json!({"type": "Blue"})),
            "spec.strategy.type",
        ),
        (
            with(
                deployment(),
                "/spec/strategy",
                json!({"type": "Recreate", "rollingUpdate": {}}),
            ),
            "spec.strategy.rollingUpdate",
        ),
        (
            with(
                deployment(),
                "/spec/strategy/rollingUpdate",
                json!({"maxSurge": 0, "maxUnavailable": "0%"}),
            ),
            "spec.strategy.rollingUpdate.maxUnavailable",
        ),
        (
            with(
                deployment(),
                "/spec/strategy/rollingUpdate",
                json!({"maxSurge": "1"}),
            ),
            "spec.strategy.rollingUpdate.maxSurge",
        ),
        (
            with(
                deployment(),
                "/spec/strategy/rollingUpdate",
                json!({"maxUnavailable": "101%"}),
            ),
            "spec.strategy.rollingUpdate.maxUnavailable",
        ),
        (
            with(deployment(), "/spec/minReadySeconds", json!(600)),
            "spec.progressDeadlineSeconds",
        ),
        (
            with(deployment(), "/spec/template/spec/restartPolicy", json!("Never")),
            "spec.template.spec.restartPolicy",
        ),
        (
            with(deployment(), "/spec/template/spec", Value::Null),
            "spec.template.spec",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a/b": "x"}}),
            "data[\"a/b\"]",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x"},
                "binaryData": {"a": ""}}),
            "binaryData.a",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x".repeat(1 << 20), "b": "y"}}),
            "data",
        ),
        (
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e"},
                "addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}),
            "endpoints[0].addresses[0]",
        ),
        (
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e"},
                "addressType": "IPv4", "endpoints": [], "ports": [{"port": 0}]}),
            "ports[0].port",
        ),
    ] {
        let found = faults(value.clone());
        assert!(
            found.iter().any(|(at, _)| at == path),
            "{path} expected in {found:?} of {value}"
        );
    }
    let hosts = json!([{"name": "c", "image": "x", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
    let path = "spec.template.spec.containers[0].ports[0].hostPort";
    let found = faults(with(deployment(), "/spec/template/spec/containers", hosts));
    assert!(
        found.iter().any(|(at, _)| at == path),
        "what pods cannot do, templates cannot ask for: {found:?}"
    );
    good(with(service(), "/spec/clusterIP", json!("None")));
    good(with(service(), "/spec/clusterIP", json!("10.96.255.254")));
    good(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}}),
    );
    good(
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e"},
                "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 80}]}),
    );
}

#[test]
fn an_agent_without_pods_takes_only_what_services_are_made_of() {
    let rules = Rules {
        runs_pods: false,
        ..rules()
    };
    let given = |value: Value| decode(&document(value), &rules);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": { "containers": [] } });
    let refused = given(pod).expect_err("refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].field, "kind");
    assert!(
        refused[0]
            .message
            .contains("EndpointSlice, Namespace, Node, Service"),
        "{refused:?}"
    );
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    let found = given(node).expect("accepted");
    assert_eq!(found[0].id().to_string(), "Node default/n1");
    assert_eq!(found[0].metadata().namespace, None, "nodes live in no namespace");
}

#[test]
fn a_taint_that_means_nothing_is_refused_by_name() {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
        "spec": { "taints": [{ "key": "a b", "effect": "Never" }] },
    });
    let found = faults(node);
    let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.taints[0].key", "spec.taints[0].effect"],
        "{found:?}"
    );
}

#[test]
fn another_node_is_named_with_its_pods_and_its_addresses() {
    let peer = |spec: Value| json!({ "apiVersion": "keelson.dev/v1", "kind": "KeelsonPeer", "metadata": { "name": "b" }, "spec": spec });
    let given = peer(
        json!({ "podCIDRs": ["10.244.2.0/24", "fd00:2::/64"], "addresses": ["192.0.2.2", "2001:db8::2"] }),
    );
    let object = good(given.clone());
    assert_eq!(object.id().to_string(), "KeelsonPeer default/b");
    assert_eq!(object.metadata().namespace, None);
    let mut shown = object.to_value().expect("serialises");
    shown["metadata"]
        .as_object_mut()
        .expect("metadata")
        .retain(|name, _| name == "name");
    assert_eq!(shown, given);
    assert_eq!(Object::from_value(given).expect("read back"), object);

    let bad = json!({
        "podCIDRs": ["10.244.2.1/24", "10.0.0.0/7"],
        "addresses": ["192.0.2.2", "127.0.0.1", "fe80::1", "224.0.0.1", "::ffff:192.0.2.2"],
    });
    let found = faults(peer(bad));
    let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.podCIDRs[0]",
            "spec.podCIDRs[1]",
            "spec.addresses[1]",
            "spec.addresses[2]",
            "spec.addresses[3]",
            "spec.addresses[4]"
        ],
        "{found:?}"
    );
    for (spec, field) in [
        (json!({ "addresses": ["192.0.2.2"] }), "spec.podCIDRs"),
        (json!({ "podCIDRs": ["many"] }), "spec.podCIDRs[0]"),
        (
            json!({ "podCIDRs": ["10.244.2.0/24"], "gateway": "192.0.2.2" }),
            "spec.gateway",
        ),
    ] {
        let found = faults(peer(spec));
        assert_eq!(
            found.first().map(|(field, _)| field.as_str()),
            Some(field),
            "{found:?}"
        );
    }
}
