//! Pages, whole or in the parts that matter.

use serde_json::json;

use super::*;

/// One space where there are several: how far columns reach is not the point here.
fn squeezed(text: &str) -> String {
    let mut squeezed = String::new();
    for c in text.chars() {
        if c != ' ' || !squeezed.ends_with(' ') {
            squeezed.push(c);
        }
    }
    squeezed
}

fn describe(resource: Resource, object: &Value, events: &[Event], related: &[Value]) -> String {
    let facts = Facts {
        programmed: &[],
        object,
        events,
        related,
        now: "2026-01-02T00:10:00Z".parse().expect("a time"),
    };
    page(resource, &facts).expect("a page")
}

#[test]
fn a_pods_page_tells_why_it_does_not_run() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web", "namespace": "default", "labels": { "app": "web", "tier": "front" } },
        "spec": { "nodeName": "n1", "containers": [{
            "name": "c", "image": "nginx:1", "command": ["nginx", "-g"], "ports": [{ "containerPort": 80 }],
            "resources": { "limits": { "memory": "64Mi" } },
            "readinessProbe": { "httpGet": { "path": "/ok", "port": 80 }, "periodSeconds": 2 },
            "env": [{ "name": "A", "value": "1" }, { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
            "volumeMounts": [{ "name": "v", "mountPath": "/data", "readOnly": true }] }],
            "volumes": [{ "name": "v", "configMap": { "name": "page" } }] },
        "status": { "phase": "Running", "podIP": "10.244.0.5", "hostIP": "192.0.2.1", "qosClass": "Burstable",
            "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady" }],
            "containerStatuses": [{ "name": "c", "ready": false, "restartCount": 3, "image": "nginx:1", "imageID": "sha256:1",
                "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
                "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }] },
    });
    let event: Event = serde_json::from_value(json!({ "metadata": {}, "involvedObject": {}, "type": "Warning", "reason": "BackOff",
        "message": "back-off", "count": 2, "firstTimestamp": "2026-01-02T00:05:00Z", "lastTimestamp": "2026-01-02T00:09:30Z",
        "source": { "component": "keelson" } }))
    .expect("an event");
    let page = describe(Resource::Pods, &pod, &[event], &[]);
    for expected in [
        "Name:             web\n",
        "Node:             n1/192.0.2.1\n",
        "Labels:           app=web\n                  tier=front\n",
        "Status:           CrashLoopBackOff\n",
        "    State:          Waiting\n      Reason:       CrashLoopBackOff\n      Message:      back-off 40s\n",
        "    Last State:     Terminated\n      Reason:       OOMKilled\n      Exit Code:    137\n",
        "    Restart Count:  3\n",
        "      memory:  64Mi\n",
        "http-get http://:80/ok delay=0s timeout=1s period=2s #success=1 #failure=3",
        "      B:  <set to the key 'k' of secret 's'>  Optional: false\n",
        "      /data from v (ro)\n",
        "  v:\n    Type:      ConfigMap\n    Name:      page\n",
        "  Warning  BackOff  30s (x2 over 5m)  keelson  back-off\n",
    ] {
        assert!(
            squeezed(&page).contains(&squeezed(expected)),
            "{expected:?} is not in\n{page}"
        );
    }
}

#[test]
fn a_services_page_lists_the_ready_endpoints_of_each_port() {
    let service = json!({ "metadata": { "name": "web" }, "spec": { "type": "NodePort", "clusterIP": "10.96.0.7", "selector": { "app": "web" },
        "ports": [{ "name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "protocol": "TCP" }, { "name": "other", "port": 81 }] } });
    let endpoint =
        |address: &str, ready: bool| json!({ "addresses": [address], "conditions": { "ready": ready } });
    let slice = json!({ "metadata": { "name": "x" }, "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [endpoint("10.244.0.2", true), endpoint("10.244.0.3", false)] });
    let page = describe(Resource::Services, &service, &[], &[slice]);
    for expected in [
        "NodePort:          http  30080/TCP\n",
        "TargetPort:        web/TCP\n",
        "Endpoints:         10.244.0.2:8080\n",
        "Endpoints:         <none>\n",
        "Events:            <none>\n",
    ] {
        assert!(
            squeezed(&page).contains(&squeezed(expected)),
            "{expected:?} is not in\n{page}"
        );
    }
}

#[test]
fn a_secrets_page_never_shows_its_values() {
    let secret =
        json!({ "metadata": { "name": "s" }, "type": "Opaque", "data": { "password": "aHVudGVyMg==" } });
    let page = describe(Resource::Secrets, &secret, &[], &[]);
    assert!(page.contains("password:  7 bytes"), "{page}");
    assert!(
        !page.contains("hunter2") && !page.contains("aHVudGVyMg"),
        "{page}"
    );
}

#[test]
fn every_kind_has_a_page_even_of_an_empty_object() {
    for resource in Resource::ALL {
        let mut object = json!({ "metadata": { "name": "x" } });
        match resource {
            Resource::EndpointSlices => {
                object["addressType"] = json!("IPv4");
                object["endpoints"] = json!([]);
            }
            Resource::Events => object["involvedObject"] = json!({}),
            _ => {}
        }
        let page = describe(resource, &object, &[], &[]);
        assert!(page.contains('x'), "{resource}: {page}");
    }
}

#[test]
fn events_are_those_of_this_very_object() {
    let object = json!({ "kind": "Pod", "metadata": { "name": "a", "namespace": "default", "uid": "u2" } });
    let event = |kind: &str, name: &str, uid: &str, reason: &str| {
        json!({ "metadata": {}, "reason": reason,
        "involvedObject": { "kind": kind, "name": name, "namespace": "default", "uid": uid }, "lastTimestamp": "2026-01-02T00:09:30Z" })
    };
    let all = [
        event("Pod", "a", "u2", "Started"),
        event("Pod", "a", "u1", "OfItsPredecessor"),
        event("Pod", "b", "u3", "OfAnother"),
        event("Service", "a", "u2", "OfAService"),
    ];
    let found: Vec<_> = events_of(&object, &all)
        .into_iter()
        .filter_map(|event| event.reason)
        .collect();
    assert_eq!(found, ["Started"]);
}

#[test]
fn names_may_be_given_by_their_beginning() {
    let all: Vec<Value> = ["web-1", "web-2", "db"]
        .map(|name| json!({ "metadata": { "name": name } }))
        .to_vec();
    let chosen = |name: &str| choose(&all, &[name.to_owned()], Resource::Pods).map(|found| found.len());
    assert_eq!(chosen("web").expect("both"), 2);
    assert_eq!(chosen("web-1").expect("one"), 1);
    assert!(
        chosen("x")
            .expect_err("none")
            .to_string()
            .contains("pods \"x\" not found")
    );
}
