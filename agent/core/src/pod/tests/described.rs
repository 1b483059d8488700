//! What the runtime is told.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::{
    object::Key,
    pod::{
        env::{Missing, NodeFacts, Sources},
        spec::{ContainerSpec, Share, label},
    },
};

/// The container of a name, described on a node with one ConfigMap `m` (`PLACE: here`, `UP: ../x`).
fn described(pod: &Pod, name: &str) -> Result<ContainerSpec, Missing> {
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"PLACE": "here", "UP": "../x"}}))
            .expect("map");
    let config_maps = BTreeMap::from([(Key::new("default", "m"), Arc::new(map))]);
    let node = NodeFacts {
        memory: 1 << 30,
        cpu_milli: 4000,
        ..NodeFacts::default()
    };
    let sources = Sources {
        pod,
        pod_ips: &[],
        node: &node,
        config_maps: &config_maps,
        secrets: &BTreeMap::new(),
        services: &BTreeMap::new(),
    };
    let spec = pod.spec.as_ref().expect("spec");
    let mut all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let container = all.find(|container| container.name == name).expect("a container");
    spec::container(container, 3, &sources)
}

fn one(container: Value) -> Pod {
    let mut whole = json!({"name": "c", "image": "i:1"});
    whole
        .as_object_mut()
        .expect("object")
        .extend(container.as_object().expect("object").clone());
    pod(json!({"containers": [whole]}))
}

#[test]
fn a_container_carries_the_labels_and_notes_by_which_others_know_it() {
    let mut pod = one(json!({"ports": [{"containerPort": 80}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}, "terminationMessagePath": "/last"}));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    let found = described(&pod, "c").expect("described");
    let text = |map: &BTreeMap<String, String>, name: &str| map.get(name).cloned().unwrap_or_default();
    assert_eq!(text(&found.labels, label::CONTAINER_NAME), "c");
    assert_eq!(text(&found.labels, label::POD_NAME), "web");
    assert_eq!(text(&found.labels, label::POD_NAMESPACE), "default");
    assert_eq!(text(&found.labels, label::POD_UID), "u1");
    for (name, value) in [
        (
            "io.kubernetes.container.hash",
            spec::container_hash(&pod.spec.as_ref().expect("spec").containers[0]).as_str(),
        ),
        ("io.kubernetes.container.restartCount", "3"),
        ("io.kubernetes.container.terminationMessagePath", "/last"),
        ("io.kubernetes.container.terminationMessagePolicy", "File"),
        ("io.kubernetes.container.ports", r#"[{"containerPort":80}]"#),
        (
            "io.kubernetes.container.preStopHandler",
            r#"{"sleep":{"seconds":1}}"#,
        ),
        ("io.kubernetes.pod.terminationGracePeriod", "30"),
        ("io.kubernetes.pod.deletionGracePeriod", "7"),
    ] {
        assert_eq!(text(&found.annotations, name), value, "{name}");
    }
    assert_eq!(found.log_path.to_str(), Some("c/3.log"));
    assert_eq!(found.termination_message_path, "/last");
}

#[test]
fn command_and_arguments_take_what_the_environment_holds() {
    let pod = one(
        json!({"env": [{"name": "A", "value": "1"}], "command": ["run", "$(A)"], "args": ["$$(A)", "$(B)"]}),
    );
    let found = described(&pod, "c").expect("described");
    assert_eq!(found.command, ["run", "1"]);
    assert_eq!(found.args, ["$(A)", "$(B)"]);
}

#[test]
fn a_sub_path_made_of_the_environment_stays_inside_its_volume() {
    let with = |expression: &str| {
        let pod = one(json!({"envFrom": [{"configMapRef": {"name": "m"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": expression}]}));
        described(&pod, "c").map(|found| found.mounts[0].sub_path.clone())
    };
    assert_eq!(with("a/$(PLACE)"), Ok("a/here".to_owned()));
    for (expression, word) in [("$(LOST)", "LOST"), ("$(UP)", "../x"), ("/$(PLACE)", "/here")] {
        let message = with(expression).expect_err("refused");
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_containers_own_security_wins_over_the_pods() {
    let mut pod = one(
        json!({"securityContext": {"runAsUser": 7, "allowPrivilegeEscalation": false,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}}),
    );
    let of_pod = json!({"runAsUser": 1, "runAsGroup": 2, "runAsNonRoot": true, "fsGroup": 5, "supplementalGroups": [4],
                        "seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"}});
    pod.spec.as_mut().expect("spec").security_context = serde_json::from_value(of_pod).expect("context");
    let found = described(&pod, "c").expect("described").security;
    assert_eq!((found.run_as_user, found.run_as_group), (Some(7), Some(2)));
    assert!(found.run_as_non_root && found.no_new_privileges && !found.privileged);
    assert_eq!(found.supplemental_groups, [4, 5]);
    assert_eq!(
        (found.add_capabilities, found.drop_capabilities),
        (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
    );
    assert_eq!(found.seccomp, "Localhost/p.json");
    let plain = described(&simple(), "c").expect("described").security;
    assert_eq!(
        (plain.seccomp.as_str(), plain.no_new_privileges),
        ("Unconfined", false)
    );
}

#[test]
fn a_group_without_a_user_takes_the_images_user() {
    let pod = one(json!({"securityContext": {"runAsGroup": 9}}));
    let of = |uid, name: &str| {
        let mut security = described(&pod, "c").expect("described").security;
        assert!(security.needs_image());
        security.take_image_user(uid, name);
        (security.run_as_user, security.run_as_username)
    };
    assert_eq!(of(Some(101), ""), (Some(101), String::new()));
    assert_eq!(of(None, "nginx"), (None, "nginx".to_owned()));
    assert_eq!(
        of(None, ""),
        (Some(0), String::new()),
        "an image that names none runs as root"
    );
    let mut own = described(&one(json!({"securityContext": {"runAsUser": 3}})), "c")
        .expect("described")
        .security;
    assert!(!own.needs_image());
    own.take_image_user(Some(101), "x");
    assert_eq!((own.run_as_user, own.run_as_username.as_str()), (Some(3), ""));
}

#[test]
fn who_must_not_be_root_is_not() {
    let of = |own: Value, uid, name: &str| {
        let mut context = json!({"runAsNonRoot": true});
        context
            .as_object_mut()
            .expect("object")
            .extend(own.as_object().expect("object").clone());
        let pod = one(json!({"securityContext": context}));
        let security = described(&pod, "c").expect("described").security;
        spec::non_root_problem(&security, uid, name).is_none()
    };
    assert!(of(json!({"runAsUser": 5}), None, ""));
    assert!(of(json!({}), Some(5), ""));
    assert!(!of(json!({"runAsUser": 0}), Some(5), ""));
    assert!(!of(json!({}), Some(0), ""));
    assert!(!of(json!({}), None, "nginx"), "a name may stand for root");
    assert!(!of(json!({}), None, ""));
}

#[test]
fn a_sandbox_has_its_own_network_and_name_unless_it_uses_the_hosts() {
    let own = spec::sandbox(&simple(), 2);
    assert_eq!((own.hostname.as_str(), own.attempt), ("web", 2));
    assert_eq!(
        (own.network, own.pid, own.ipc),
        (Share::Pod, Share::Container, Share::Pod)
    );
    let host =
        pod(json!({"hostNetwork": true, "hostPID": true, "hostIPC": true, "containers": [{"name": "c"}]}));
    let host = spec::sandbox(&host, 0);
    assert_eq!(
        (host.network, host.pid, host.ipc),
        (Share::Node, Share::Node, Share::Node)
    );
    assert_eq!(host.hostname, "");
    let shared = pod(
        json!({"shareProcessNamespace": true, "hostname": "other", "containers": [{"name": "c"}],
        "securityContext": {"sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "1"}]}}),
    );
    let shared = spec::sandbox(&shared, 0);
    assert_eq!((shared.pid, shared.hostname.as_str()), (Share::Pod, "other"));
    assert_eq!(
        shared.sysctls,
        BTreeMap::from([("net.ipv4.tcp_syncookies".to_owned(), "1".to_owned())])
    );
}

#[test]
fn a_long_name_is_cut_to_a_host_name() {
    let spec = simple().spec.expect("spec");
    let long = format!("{}-{}", "a".repeat(62), "b");
    assert_eq!(spec::hostname(&spec, &long), "a".repeat(62));
}

#[test]
fn an_image_that_may_change_under_its_name_is_fetched_each_time() {
    for (image, policy) in [
        ("web", "Always"),
        ("web:latest", "Always"),
        ("host:5000/web", "Always"),
        ("web:1", "IfNotPresent"),
        ("web@sha256:00", "IfNotPresent"),
    ] {
        let container = serde_json::from_value(json!({"name": "c", "image": image})).expect("container");
        assert_eq!(spec::pull_policy(&container), policy, "{image}");
    }
}

#[test]
fn a_port_is_found_by_number_or_name() {
    let pod = one(json!({"ports": [{"name": "http", "containerPort": 8080}]}));
    let container = &pod.spec.as_ref().expect("spec").containers[0];
    let of = |port: Value| spec::port_number(container, &serde_json::from_value(port).expect("port"));
    assert_eq!(
        (of(json!(80)), of(json!("http")), of(json!("81"))),
        (Some(80), Some(8080), Some(81))
    );
    assert_eq!((of(json!("https")), of(json!(70_000))), (None, None));
}

#[test]
fn resources_of_an_init_container_can_be_asked_for_by_its_name() {
    let pod = pod(json!({
        "initContainers": [{"name": "a", "image": "i:1", "resources": {"limits": {"cpu": "2"}}}],
        "containers": [{"name": "c", "image": "i:1", "env": [
            {"name": "A", "valueFrom": {"resourceFieldRef": {"containerName": "a", "resource": "limits.cpu"}}},
            {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]}));
    let env = described(&pod, "c").expect("described").env;
    let of = |wanted: &str| {
        env.iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(
        (of("A"), of("C")),
        (Some("2"), Some("4")),
        "unset means what the node has"
    );
}

#[test]
fn a_variable_stands_once_in_its_last_place_with_its_last_value() {
    let pod = one(json!({"envFrom": [{"configMapRef": {"name": "m"}}],
        "env": [{"name": "A", "value": "1"}, {"name": "PLACE", "value": "$(PLACE)/there"}, {"name": "A", "value": "$(A)2"}]}));
    let env = described(&pod, "c").expect("described").env;
    let text: Vec<_> = env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(text, ["UP=../x", "PLACE=here/there", "A=12"]);
}
