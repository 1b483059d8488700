//! Objects that the tables of this room start from.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::json;

use crate::object::Key;

/// A Service of label `app: web`, port 80 → 8080.
pub(crate) fn service(name: &str, cluster_ip: &str) -> (Key, Arc<Service>) {
    let object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "type": "ClusterIP", "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    });
    (
        Key::new("default", name),
        Arc::new(serde_json::from_value(object).expect("a Service")),
    )
}

/// A pod of label `app: web` on node `n1`, with port `http` 8080.
pub(crate) fn pod(name: &str, address: &str, ready: bool) -> (Key, Arc<Pod>) {
    let object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address,
                   "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    (
        Key::new("default", name),
        Arc::new(serde_json::from_value(object).expect("a Pod")),
    )
}
