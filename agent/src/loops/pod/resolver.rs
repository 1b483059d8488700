//! Which name servers a pod gets. Pure.

use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};
use keelson_proto::cri::DnsConfig;

/// What the runtime is told; `None` = the node's own resolver, which the runtime then copies.
///
/// `dnsPolicy: None` takes `dnsConfig` alone; under every other policy it is added to what the node has in `node`, the
/// text of its resolv.conf.
pub fn config(pod: &PodSpec, node: impl FnOnce() -> String) -> Option<DnsConfig> {
    let alone = pod.dns_policy.as_deref() == Some("None");
    let own = pod.dns_config.clone();
    if own.is_none() && !alone {
        return None;
    }
    let mut config = if alone {
        DnsConfig::default()
    } else {
        parse(&node())
    };
    let PodDNSConfig {
        nameservers,
        searches,
        options,
    } = own.unwrap_or_default();
    add(&mut config.servers, nameservers.unwrap_or_default());
    add(&mut config.searches, searches.unwrap_or_default());
    for PodDNSConfigOption { name, value } in options.unwrap_or_default() {
        let name = name.unwrap_or_default();
        // The pod's own value replaces the node's.
        config
            .options
            .retain(|other| other.split(':').next() != Some(&name));
        config
            .options
            .push(value.map_or(name.clone(), |value| format!("{name}:{value}")));
    }
    Some(config)
}

fn add(list: &mut Vec<String>, more: Vec<String>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (key, rest) = (words.next(), words.map(str::to_owned));
        match key {
            Some("nameserver") => config.servers.extend(rest.take(1)),
            // The last line of this kind counts.
            Some("search") => config.searches = rest.collect(),
            Some("options") => config.options.extend(rest),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NODE: &str =
        "# made by hand\nnameserver 192.0.2.1\nsearch old\nsearch lan\noptions ndots:1 rotate\n";

    fn pod(spec: serde_json::Value) -> PodSpec {
        let mut whole = json!({ "containers": [] });
        whole
            .as_object_mut()
            .expect("object")
            .extend(spec.as_object().expect("object").clone());
        serde_json::from_value(whole).expect("a spec")
    }

    #[test]
    fn a_pods_own_settings_stand_alone_or_are_added_to_the_nodes() {
        let own = json!({ "nameservers": ["192.0.2.2", "192.0.2.1"], "searches": ["own"], "options": [{ "name": "ndots", "value": "5" }, { "name": "edns0" }] });
        assert_eq!(
            config(&pod(json!({ "dnsPolicy": "ClusterFirst" })), || NODE.into()),
            None
        );
        let added = config(&pod(json!({ "dnsConfig": own })), || NODE.into()).expect("config");
        assert_eq!(added.servers, ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(added.searches, ["lan", "own"]);
        assert_eq!(added.options, ["rotate", "ndots:5", "edns0"]);
        let alone = config(&pod(json!({ "dnsPolicy": "None", "dnsConfig": own })), || {
            NODE.into()
        });
        assert_eq!(alone.expect("config").servers, ["192.0.2.2", "192.0.2.1"]);
    }
}
