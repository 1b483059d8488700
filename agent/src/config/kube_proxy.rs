//! `KubeProxyConfiguration`: what a node's existing file means here.
//!
//! Tools write every field of it, most of them empty: a field that is empty, zero or false says nothing, as for kube-proxy.
//! Of the sections for one mode only the chosen mode's counts.

use serde_json::{Map, Value, json};

use super::documents::Translation;

/// `apiVersion` of the document.
pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// `kind` of the document.
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// Fields that mean the same as one of ours.
const SAME: [&str; 2] = ["nodePortAddresses", "oomScoreAdj"];

/// Fields that need not be followed, and why.
const NOTED: [(&str, &str); 3] = [
    ("configSyncPeriod", "changes are followed as they happen"),
    ("portRange", "has no effect, as in kube-proxy"),
    ("windowsRunAsService", "has no meaning on Linux, as in kube-proxy"),
];

/// Ports where the address stands alone.
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// What the document means.
pub(super) fn translate(document: &Value) -> Translation {
    let mut translation = Translation::default();
    let all = document.as_object().cloned().unwrap_or_default();
    let mode = all.get("mode").and_then(Value::as_str).unwrap_or_default();
    for (name, value) in all.iter().filter(|(_, value)| is_set(value)) {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            // Read together, below.
            "clusterCIDR" | "detectLocal" | "detectLocalMode" => {}
            "mode" => choose_mode(&mut translation, mode),
            "healthzBindAddress" => {
                translation.set(name, "healthzAddress", with_port(value, HEALTHZ_PORT));
            }
            "metricsBindAddress" => {
                translation.set(name, "metricsAddress", with_port(value, METRICS_PORT));
            }
            "hostnameOverride" => {
                let text = value.as_str().unwrap_or_default().trim().to_ascii_lowercase();
                translation.set(name, "nodeName", json!(text));
            }
            "bindAddress" => bind_address(&mut translation, value),
            "conntrack" => conntrack(&mut translation, value),
            "clientConnection" => connection(&mut translation, value),
            "iptables" | "nftables" | "ipvs" | "winkernel" => section(&mut translation, name, mode, value),
            same if SAME.contains(&same) => translation.set(name, same, value.clone()),
            other => match NOTED.iter().find(|(theirs, _)| *theirs == other) {
                Some((_, why)) => translation.note(name, why),
                None => translation.refuse(name, ""),
            },
        }
    }
    // The one field whose being false says something.
    let localhost = document.pointer("/iptables/localhostNodePorts");
    if localhost == Some(&Value::Bool(false)) && ["", "iptables"].contains(&mode) {
        translation.set("iptables.localhostNodePorts", "localhostNodePorts", json!(false));
    }
    local_detector(&mut translation, &all);
    translation
}

/// Whether a field says anything.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !["", "0", "0s"].contains(&text.as_str()),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => fields.values().any(is_set),
    }
}

fn choose_mode(translation: &mut Translation, mode: &str) {
    match mode {
        "iptables" | "ipvs" | "nftables" => {
            translation.note(
                "mode",
                &format!("{mode}: the kernel's packet filter is not used; Services are programmed in eBPF"),
            );
        }
        _ => translation.refuse(
            "mode",
            &format!("{mode:?} is no mode of Linux; iptables, ipvs and nftables are understood, and noted"),
        ),
    }
    if mode == "nftables" {
        // What this mode does where the field says nothing.
        translation
            .defaults
            .push(("nodePortAddresses", json!(["primary"])));
    }
}

/// `10.0.0.1`, `::`, `10.0.0.1:1`, `[::]:1`.
fn with_port(value: &Value, port: u16) -> Value {
    let text = value.as_str().unwrap_or_default();
    match text.parse::<std::net::IpAddr>() {
        Ok(address) => json!(std::net::SocketAddr::new(address, port).to_string()),
        Err(_) => value.clone(),
    }
}

/// Everywhere, or the node's own address.
fn bind_address(translation: &mut Translation, value: &Value) {
    let text = value.as_str().unwrap_or_default();
    match text.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_unspecified() => {}
        Ok(_) => translation.set("bindAddress", "nodeAddress", value.clone()),
        Err(_) => translation.refuse("bindAddress", &format!("{text:?} is no address")),
    }
}

fn conntrack(translation: &mut Translation, value: &Value) {
    for (name, _) in set_fields(value) {
        translation.note(
            &format!("conntrack.{name}"),
            "the kernel's connection tracking is not used and not configured; flows have a table of their own that grows",
        );
    }
}

fn connection(translation: &mut Translation, value: &Value) {
    for (name, _) in set_fields(value) {
        let path = format!("clientConnection.{name}");
        if name == "kubeconfig" {
            translation.refuse(
                &path,
                "this version follows no API server; Services and EndpointSlices come from the folder of manifests",
            );
        } else {
            translation.note(&path, "this version follows no API server");
        }
    }
}

/// A section for one mode.
fn section(translation: &mut Translation, section: &str, mode: &str, value: &Value) {
    let chosen = if mode.is_empty() { "iptables" } else { mode };
    for (name, value) in set_fields(value) {
        let path = format!("{section}.{name}");
        if section != chosen {
            translation.note(&path, &format!("the mode is {chosen}, so that it has no effect"));
            continue;
        }
        match name.as_str() {
            "masqueradeAll" => translation.set(&path, "masqueradeAll", value.clone()),
            "syncPeriod" => translation.set(&path, "syncPeriod", value.clone()),
            "minSyncPeriod" => translation.note(&path, "changes are programmed at once, one by one"),
            "masqueradeBit" => translation.note(&path, "no mark is needed to masquerade"),
            "localhostNodePorts" => translation.set(&path, "localhostNodePorts", value.clone()),
            _ => translation.refuse(&path, ""),
        }
    }
}

fn local_detector(translation: &mut Translation, all: &Map<String, Value>) {
    let text = |path: &str| {
        let mut value = None;
        let mut at = Some(all);
        for part in path.split('.') {
            value = at.and_then(|fields| fields.get(part));
            at = value.and_then(Value::as_object);
        }
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let cluster = text("clusterCIDR");
    let networks = || {
        let networks: Vec<&str> = cluster.split(',').map(str::trim).collect();
        json!({ "clusterCIDR": networks })
    };
    match text("detectLocalMode").as_str() {
        "" if cluster.is_empty() => {}
        "" => translation.set("clusterCIDR", "localDetector", networks()),
        "ClusterCIDR" if cluster.is_empty() => {
            translation.refuse("detectLocalMode", "ClusterCIDR needs clusterCIDR");
        }
        "ClusterCIDR" => translation.set("clusterCIDR", "localDetector", networks()),
        "NodeCIDR" => translation.set("detectLocalMode", "localDetector", json!("nodeCIDR")),
        "InterfaceNamePrefix" => {
            let prefix = text("detectLocal.interfaceNamePrefix");
            translation.set(
                "detectLocal.interfaceNamePrefix",
                "localDetector",
                json!({ "interfacePrefix": prefix }),
            );
        }
        "BridgeInterface" => translation.note(
            "detectLocalMode",
            "BridgeInterface: what comes from pods is seen at the ports of every bridge",
        ),
        other => translation.refuse("detectLocalMode", &format!("{other:?} is no mode")),
    }
}

fn set_fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter(|(_, value)| is_set(value))
}
