//! The loop over doors that fail when told to.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use keelson_core::service::plan::{Gone, Observed, Write};

use super::*;
use crate::{
    config::Config,
    doors::store::{fake::MemoryStore, kind},
    world::World,
};

/// Maps in memory; every write from the `fail_from`-th on fails until healed.
struct FakeMaps {
    observed: Mutex<Observed>,
    routes: Mutex<Vec<IpAddr>>,
    writes: AtomicUsize,
    fail_from: AtomicUsize,
}

impl FakeMaps {
    fn new() -> Arc<Self> {
        let never = AtomicUsize::new(usize::MAX);
        Arc::new(Self {
            observed: Mutex::default(),
            routes: Mutex::default(),
            writes: AtomicUsize::new(0),
            fail_from: never,
        })
    }
    fn fail_after(&self, writes: usize) {
        self.fail_from
            .store(self.writes.load(Ordering::SeqCst) + writes, Ordering::SeqCst);
    }
    fn heal(&self) {
        self.fail_from.store(usize::MAX, Ordering::SeqCst);
    }
    /// Endpoints in all slots.
    fn backends(&self) -> usize {
        let observed = self.observed.lock().expect("lock");
        let slots = observed.backends.values().flat_map(|block| block.slots);
        slots.filter(|slot| slot.port_be != 0).count()
    }
}

impl ServiceMaps for FakeMaps {
    fn take_over(&self) -> anyhow::Result<Option<keelson_dataplane::TakenOver>> {
        Ok(None)
    }

    fn observe(&self) -> anyhow::Result<Observed> {
        Ok(self.observed.lock().expect("lock").clone())
    }
    fn write(&self, writes: &[Write]) -> anyhow::Result<()> {
        for write in writes {
            let number = self.writes.fetch_add(1, Ordering::SeqCst);
            anyhow::ensure!(
                number < self.fail_from.load(Ordering::SeqCst),
                "map write refused"
            );
            self.observed.lock().expect("lock").follow(write);
        }
        Ok(())
    }
    fn forget(&self, _gone: &BTreeSet<Gone>, _affinity: &BTreeSet<u32>) -> anyhow::Result<()> {
        Ok(())
    }
    fn set_routes(&self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        *self.routes.lock().expect("lock") = addresses.to_vec();
        Ok(())
    }
}

struct Rig {
    world: Arc<World>,
    maps: Arc<FakeMaps>,
    service_loop: ServiceLoop,
    _stop: watch::Sender<bool>,
}

fn rig() -> Rig {
    let world = World::new(k8s_openapi::api::core::v1::Node::default());
    let (stop, shutdown) = watch::channel(false);
    let network = Arc::new(crate::doors::dataplane::NetworkState::default());
    network.publish_addresses(vec![IpAddr::from([192, 168, 50, 1])]);
    let config = Config {
        node_name: "n1".into(),
        ..Config::default()
    };
    let ctx = Context {
        config: Arc::new(config),
        world: world.clone(),
        health: Arc::default(),
        proxy: Arc::default(),
        metrics: Arc::default(),
        network,
        shutdown,
    };
    Rig {
        world,
        maps: FakeMaps::new(),
        service_loop: ServiceLoop::new(ctx, Box::new(MemoryStore::default())),
        _stop: stop,
    }
}

impl Rig {
    fn put_service(&self, name: &str, spec: serde_json::Value) {
        let object = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}, "spec": spec});
        let service: Service = serde_json::from_value(object).expect("a Service");
        self.world.update(|objects| {
            objects
                .services
                .insert(Key::of(&service.metadata), Arc::new(service));
            objects.revisions.services += 1;
            objects.revisions.listed = 1;
        });
    }
    fn put_pod(&self, name: &str, address: &str) {
        let object = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let pod: Pod = serde_json::from_value(object).expect("a Pod");
        self.world.update(|objects| objects.put_pod(pod));
    }
    fn round(&mut self) -> anyhow::Result<()> {
        let seen = *self.world.watch().borrow();
        let result = self.service_loop.round(seen, Some(self.maps.as_ref()));
        if result.is_err() {
            self.service_loop.forget_maps();
        }
        result
    }
}

fn web() -> serde_json::Value {
    json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]})
}

#[test]
fn a_ready_pod_of_a_new_service_ends_in_the_maps_and_in_the_world() {
    let mut rig = rig();
    rig.put_service("web", web());
    rig.put_pod("a", "10.244.0.5");
    rig.round().expect("round");
    assert_eq!(rig.maps.backends(), 1);
    let objects = rig.world.snapshot();
    let spec = objects.services[&Key::new("default", "web")]
        .spec
        .clone()
        .expect("spec");
    assert!(spec.cluster_ip.is_some() && spec.ports.expect("ports")[0].node_port.is_some());
    assert_eq!(objects.endpoint_slices.len(), 1);
    assert_eq!(*rig.world.programmed().borrow(), objects.revisions.pods);
}

#[test]
fn nothing_is_programmed_or_removed_before_the_manifests_were_listed() {
    let mut rig = rig();
    rig.put_service("web", web());
    rig.put_pod("a", "10.244.0.5");
    rig.round().expect("round");
    let before = rig.maps.observe().expect("maps");
    let mut restarted = self::rig();
    restarted.maps = rig.maps.clone();
    restarted.round().expect("round");
    assert_eq!(rig.maps.observe().expect("maps"), before);
}

#[test]
fn pods_that_were_not_looked_at_yet_stay_in_the_maps_when_the_agent_returns() {
    let mut rig = rig();
    rig.put_service("web", web());
    rig.put_pod("a", "10.244.0.5");
    rig.round().expect("round");
    let before = rig.maps.observe().expect("maps");
    // The next life of the agent: objects are listed, the pod's status is not there yet.
    let mut returned = self::rig();
    returned.maps = rig.maps.clone();
    returned.put_service("web", web());
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "a", "namespace": "default", "uid": "uid-a",
        "labels": {"app": "web"}}, "spec": {"nodeName": "n1", "containers": []}}),
    )
    .expect("a Pod");
    returned.world.update(|objects| objects.put_pod(pod));
    returned.round().expect("round");
    assert_eq!(rig.maps.observe().expect("maps"), before);
    returned.put_pod("a", "10.244.0.5");
    returned.round().expect("round");
    assert_eq!(rig.maps.backends(), 1);
}

#[test]
fn a_failure_at_any_write_is_repaired_by_the_next_round() {
    for fail_after in 0..6 {
        let mut rig = rig();
        rig.put_service("web", web());
        rig.put_pod("a", "10.244.0.5");
        rig.put_pod("b", "10.244.0.6");
        rig.maps.fail_after(fail_after);
        let first = rig.round();
        let acknowledged = *rig.world.programmed().borrow();
        assert!(
            first.is_ok() || acknowledged == 0,
            "a half-written map is never acknowledged"
        );
        rig.maps.heal();
        rig.round().expect("round");
        assert_eq!(rig.maps.backends(), 2, "failed after {fail_after}");
        assert_eq!(
            *rig.world.programmed().borrow(),
            rig.world.snapshot().revisions.pods
        );
    }
}

#[test]
fn an_allocation_that_cannot_be_kept_is_not_handed_out() {
    let mut rig = rig();
    let store = MemoryStore::default();
    store.fail("write", kind::SERVICES);
    rig.service_loop.allocator = Allocator::new(&rig.service_loop.ctx, Box::new(store));
    rig.put_service("web", web());
    assert!(rig.round().is_err());
    assert!(
        rig.world.snapshot().services[&Key::new("default", "web")]
            .spec
            .as_ref()
            .expect("spec")
            .cluster_ip
            .is_none()
    );
}

#[test]
fn a_refused_service_is_told_once_and_the_other_goes_on() {
    let mut rig = rig();
    let fixed =
        json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30080}]});
    rig.put_service("first", fixed.clone());
    rig.round().expect("round");
    rig.put_service("a-second", fixed);
    rig.round().expect("round");
    rig.round().expect("round");
    let objects = rig.world.snapshot();
    let messages: Vec<_> = objects
        .events
        .iter()
        .filter_map(|event| event.message.clone())
        .collect();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(
        messages[0].contains("default/first") && messages[0].contains("default/a-second"),
        "{messages:?}"
    );
    assert!(
        objects.services[&Key::new("default", "first")]
            .spec
            .as_ref()
            .expect("spec")
            .cluster_ip
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn the_loop_recovers_by_itself_when_the_maps_work_again() {
    let rig = rig();
    rig.put_service("web", web());
    rig.put_pod("a", "10.244.0.5");
    rig.maps.fail_after(1);
    rig.service_loop.ctx.network.publish_maps(rig.maps.clone());
    let health = rig.service_loop.ctx.health.clone();
    let mut states = health.watch();
    let task = tokio::spawn(rig.service_loop.run());
    states
        .wait_for(|s| matches!(s.get(subsystem::SERVICES), Some(Err(_))))
        .await
        .expect("health");
    rig.maps.heal();
    states
        .wait_for(|s| matches!(s.get(subsystem::SERVICES), Some(Ok(()))))
        .await
        .expect("health");
    assert_eq!(rig.maps.backends(), 1);
    rig._stop.send(true).expect("stop");
    task.await.expect("task").expect("loop");
}

#[test]
fn an_external_address_gets_a_route_and_loses_it_with_its_service() {
    let mut rig = rig();
    let external = json!({"type": "ClusterIP", "selector": {"app": "web"}, "externalIPs": ["198.51.100.7"],
        "ports": [{"port": 80, "targetPort": 8080}]});
    rig.put_service("web", external);
    rig.round().expect("round");
    assert_eq!(
        *rig.maps.routes.lock().expect("lock"),
        [IpAddr::from([198, 51, 100, 7])]
    );
    rig.put_service("web", web());
    rig.round().expect("round");
    assert!(rig.maps.routes.lock().expect("lock").is_empty());
}

#[test]
fn without_pods_of_its_own_a_proxy_programs_what_the_objects_carry() {
    let mut rig = rig();
    Arc::make_mut(&mut rig.service_loop.ctx.config).part = config::Part::Proxy;
    rig.put_service(
        "none",
        json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}),
    );
    rig.put_service("web", json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}));
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.3.4"]}], "ports": [{"name": "", "port": 8080}]}))
    .expect("an EndpointSlice");
    rig.world.update(|objects| {
        objects
            .endpoint_slices
            .insert(Key::of(&slice.metadata), Arc::new(slice));
        objects.revisions.endpoint_slices += 1;
    });
    rig.round().expect("round");
    assert_eq!(rig.maps.backends(), 1);
    let none = &rig.world.snapshot().services[&Key::new("default", "none")];
    assert!(
        none.spec.as_ref().expect("spec").cluster_ip.is_none(),
        "a proxy gives out no addresses"
    );
}

#[test]
fn a_pod_deleted_after_its_slices_were_derived_is_not_acknowledged_yet() {
    let mut rig = rig();
    rig.put_service("web", web());
    rig.put_pod("a", "10.244.0.5");
    let derived = rig.service_loop.derive().expect("derived");
    rig.put_pod("b", "10.244.0.6");
    rig.service_loop.observe();
    let now = rig.world.snapshot().revisions.pods;
    assert!(derived < now, "the maps will show {derived}, not {now}");
    rig.round().expect("round");
    assert_eq!((rig.maps.backends(), *rig.world.programmed().borrow()), (2, now));
}

#[test]
fn what_the_loop_wrote_itself_is_not_derived_again() {
    let mut rig = rig();
    rig.put_service("web", web());
    rig.put_pod("a", "10.244.0.5");
    rig.round().expect("round");
    let filled = rig.service_loop.filled[&Key::new("default", "web")].clone();
    rig.round().expect("round");
    rig.put_pod("b", "10.244.0.6");
    rig.round().expect("round");
    assert!(
        Arc::ptr_eq(&filled, &rig.service_loop.filled[&Key::new("default", "web")]),
        "nobody changed a Service"
    );
}

#[test]
fn health_checks_are_told_even_if_the_maps_refuse() {
    let mut rig = rig();
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999,
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    rig.put_service("web", balanced);
    rig.put_pod("a", "10.244.0.5");
    rig.maps.fail_after(0);
    assert!(rig.round().is_err());
    let checks = rig.service_loop.ctx.network.health_checks().borrow().clone();
    assert_eq!(checks[&Key::new("default", "web")].port, 30999);
}
