//! What an object means where it says nothing: the values an API server would fill in.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Container, HTTPGetAction, Lifecycle, PodSpec, Probe, Secret, Service, ServicePort,
            SessionAffinityConfig, Volume,
        },
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::object::Object;

/// Mode of files in volumes made of values: `0644`.
const FILE_MODE: i32 = 0o644;

/// Fill in what the object leaves open. Doing it twice changes nothing.
pub fn object(object: &mut Object, node_name: &str) {
    if object.kind().namespaced() {
        set(&mut object.metadata_mut().namespace, || "default".to_owned());
    }
    match object {
        Object::Pod(pod) => {
            if let Some(spec) = &mut pod.spec {
                pod_spec(spec);
                set(&mut spec.node_name, || node_name.to_owned());
            }
        }
        Object::Deployment(value) => deployment(value),
        Object::Service(value) => service(value),
        Object::Secret(value) => secret(value),
        Object::EndpointSlice(value) => endpoint_slice(value),
        Object::ConfigMap(_) | Object::KeelsonPeer(_) | Object::Namespace(_) | Object::Node(_) => {}
    }
}

/// The defaults of a pod's specification, in a Pod or in a template.
pub fn pod_spec(spec: &mut PodSpec) {
    set(&mut spec.restart_policy, || "Always".to_owned());
    set(&mut spec.dns_policy, || "ClusterFirst".to_owned());
    set(&mut spec.termination_grace_period_seconds, || 30);
    set(&mut spec.enable_service_links, || true);
    for one in spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers)
    {
        container(one);
    }
    spec.volumes.iter_mut().flatten().for_each(volume);
}

fn container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    let policy = if floating(image) { "Always" } else { "IfNotPresent" };
    set(&mut container.image_pull_policy, || policy.to_owned());
    set(&mut container.termination_message_path, || {
        "/dev/termination-log".to_owned()
    });
    set(&mut container.termination_message_policy, || "File".to_owned());
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, || "TCP".to_owned());
    }
    for env in container.env.iter_mut().flatten() {
        let field = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut());
        if let Some(field) = field {
            set(&mut field.api_version, || "v1".to_owned());
        }
    }
    if let Some(resources) = &mut container.resources
        && let Some(limits) = &resources.limits
    {
        // A limit without a request asks for as much as it may use.
        let requests = resources.requests.get_or_insert_default();
        for (name, quantity) in limits {
            requests.entry(name.clone()).or_insert_with(|| quantity.clone());
        }
    }
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(probe);
    if let Some(hooks) = &mut container.lifecycle {
        lifecycle(hooks);
    }
}

/// Whether a name may mean another image tomorrow: no digest, and the tag `latest` or none.
fn floating(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    matches!(last.split_once(':'), None | Some((_, "latest")))
}

fn probe(probe: &mut Probe) {
    set(&mut probe.timeout_seconds, || 1);
    set(&mut probe.period_seconds, || 10);
    set(&mut probe.success_threshold, || 1);
    set(&mut probe.failure_threshold, || 3);
    if let Some(action) = &mut probe.http_get {
        http_get(action);
    }
    if let Some(action) = &mut probe.grpc {
        set(&mut action.service, String::new);
    }
}

fn lifecycle(hooks: &mut Lifecycle) {
    let hooks = [&mut hooks.post_start, &mut hooks.pre_stop];
    hooks
        .into_iter()
        .flatten()
        .filter_map(|hook| hook.http_get.as_mut())
        .for_each(http_get);
}

fn http_get(action: &mut HTTPGetAction) {
    set(&mut action.path, || "/".to_owned());
    set(&mut action.scheme, || "HTTP".to_owned());
}

fn volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.config_map {
        set(&mut source.default_mode, || FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        set(&mut source.default_mode, || FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        set(&mut source.default_mode, || FILE_MODE);
    }
    if let Some(source) = &mut volume.projected {
        set(&mut source.default_mode, || FILE_MODE);
    }
    if let Some(source) = &mut volume.host_path {
        set(&mut source.type_, String::new);
    }
    if *volume
        == (Volume {
            name: volume.name.clone(),
            ..Volume::default()
        })
    {
        volume.empty_dir = Some(k8s_openapi::api::core::v1::EmptyDirVolumeSource::default());
    }
}

fn deployment(deployment: &mut Deployment) {
    let Some(spec) = &mut deployment.spec else { return };
    set(&mut spec.replicas, || 1);
    set(&mut spec.progress_deadline_seconds, || 600);
    set(&mut spec.revision_history_limit, || 10);
    let strategy = spec.strategy.get_or_insert_with(DeploymentStrategy::default);
    set(&mut strategy.type_, || "RollingUpdate".to_owned());
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy
            .rolling_update
            .get_or_insert_with(RollingUpdateDeployment::default);
        set(&mut rolling.max_surge, || IntOrString::String("25%".to_owned()));
        set(&mut rolling.max_unavailable, || {
            IntOrString::String("25%".to_owned())
        });
    }
    if let Some(template) = &mut spec.template.spec {
        pod_spec(template);
    }
}

fn service(service: &mut Service) {
    let Some(spec) = &mut service.spec else { return };
    set(&mut spec.type_, || "ClusterIP".to_owned());
    let kind = spec.type_.clone().unwrap_or_default();
    set(&mut spec.session_affinity, || "None".to_owned());
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config = spec
            .session_affinity_config
            .get_or_insert_with(SessionAffinityConfig::default);
        let client = config.client_ip.get_or_insert_default();
        set(&mut client.timeout_seconds, || 10_800);
    }
    if kind != "ExternalName" {
        set(&mut spec.internal_traffic_policy, || "Cluster".to_owned());
        set(&mut spec.ip_families, || vec!["IPv4".to_owned()]);
        set(&mut spec.ip_family_policy, || "SingleStack".to_owned());
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        set(&mut spec.external_traffic_policy, || "Cluster".to_owned());
    }
    if spec.cluster_ip.as_deref() == Some("") {
        spec.cluster_ip = None;
    }
    if let Some(address) = &spec.cluster_ip {
        let address = address.clone();
        set(&mut spec.cluster_ips, || vec![address]);
    }
    spec.ports.iter_mut().flatten().for_each(service_port);
}

fn service_port(port: &mut ServicePort) {
    set(&mut port.protocol, || "TCP".to_owned());
    if matches!(&port.target_port, None | Some(IntOrString::Int(0))) {
        port.target_port = Some(IntOrString::Int(port.port));
    }
    if port.node_port == Some(0) {
        port.node_port = None;
    }
}

fn secret(secret: &mut Secret) {
    set(&mut secret.type_, || "Opaque".to_owned());
    // `stringData` is a way to write, not to keep; it wins over `data`.
    if let Some(texts) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(
            texts
                .into_iter()
                .map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes()))),
        );
    }
}

fn endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        set(&mut port.protocol, || "TCP".to_owned());
        set(&mut port.name, String::new);
    }
}

fn set<T>(field: &mut Option<T>, value: impl FnOnce() -> T) {
    if field.is_none() {
        *field = Some(value());
    }
}
