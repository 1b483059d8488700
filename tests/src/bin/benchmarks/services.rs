//! The service loop over real maps, at the sizes of large clusters: how long until everything is programmed, how long until one change is,
//! and what both cost in memory. Each size runs in a process of its own, so that one does not pay for another.
//!
//! The objects are put into the world as a source of objects would; nothing but the loop and its maps is measured.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use keelson::{config::Config, context::Context, loops, world::World};
use keelson_abi::{BackendKey, FrontendKey};
use keelson_core::object::Key;
use keelson_dataplane::Dataplane;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    footprint,
    lab::{self, Lab},
    report::Measured,
    rounds::calm,
};

/// What is measured here.
pub const FIGURES: [&str; 6] = [
    "endpoint_to_map_ms_p50",
    "endpoint_to_map_ms_p99",
    "cold_sync_50k_s",
    "proxy_rss_30k_mib",
    "maps_30k_mb",
    "maps_10_mb",
];
/// The word that makes this program one of the processes that are measured.
pub const CHILD: &str = "--services-child";
const ROUNDS: usize = 5;
/// Changes whose way to the map is timed, per round.
const CHANGES: usize = 200;
/// Nothing takes this long, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: f64 = 1024.0 * 1024.0;

/// Measure all.
pub fn measure() -> Result<Vec<Measured>> {
    let runs = |services: u32, endpoints: u32, changes: usize| -> Result<Vec<Outcome>> {
        (0..ROUNDS).map(|_| child(services, endpoints, changes)).collect()
    };
    let changed = runs(10_000, 5, CHANGES)?;
    let cold = runs(50_000, 2, 0)?;
    let large = runs(30_000, 4, 0)?;
    let small = runs(10, 4, 0)?;
    let alone = |figure: usize, unit: &str, runs: &[Outcome], pick: fn(&Outcome) -> f64, note: &str| {
        let values: Vec<f64> = runs.iter().map(pick).collect();
        Measured::alone(FIGURES[figure], unit, &values, note.to_owned())
    };
    let at_10k = "one endpoint exchanged among 10,000 Services with 50,000 endpoints";
    let service_maps =
        "frontend, backend, member, maglev, source_range and affinity; the flow table is apart";
    Ok(vec![
        alone(0, "ms", &changed, |run| run.change_p50 * 1e3, at_10k)?,
        alone(1, "ms", &changed, |run| run.change_p99 * 1e3, at_10k)?,
        alone(
            2,
            "s",
            &cold,
            |run| run.cold,
            "50,000 Services × 2 endpoints into empty maps",
        )?,
        alone(
            3,
            "MiB",
            &large,
            |run| run.peak / MIB,
            "peak, 30,000 Services × 4 endpoints, objects included",
        )?,
        alone(4, "MB", &large, |run| run.maps / 1e6, service_maps)?,
        alone(5, "MB", &small, |run| run.maps / 1e6, service_maps)?,
    ])
}

/// What one process has to tell.
#[derive(Serialize, Deserialize)]
struct Outcome {
    /// Seconds until everything was programmed.
    cold: f64,
    /// Seconds from a change to the map that shows it.
    change_p50: f64,
    change_p99: f64,
    /// Bytes, at most.
    peak: f64,
    /// Bytes of the Service maps.
    maps: f64,
}

fn child(services: u32, endpoints: u32, changes: usize) -> Result<Outcome> {
    calm()?;
    let output = Command::new(std::env::current_exe()?)
        .args([
            CHILD,
            &services.to_string(),
            &endpoints.to_string(),
            &changes.to_string(),
        ])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("starting a process to measure")?;
    ensure!(
        output.status.success(),
        "{services} Services × {endpoints}: {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("reading what it measured")
}

/// The process that is measured: tells its outcome on standard output.
pub fn run_child(arguments: &[String]) -> Result<()> {
    let number = |index: usize| -> Result<u32> {
        let word = arguments
            .get(index)
            .context("services, endpoints and changes are needed")?;
        Ok(word.parse()?)
    };
    let (services, endpoints, changes) = (number(0)?, number(1)?, number(2)?);
    let lab = Lab::new()?;
    let outcome = lab.inside(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(measured(services, endpoints, changes as usize))
    })?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

async fn measured(services: u32, endpoints: u32, changes: usize) -> Result<Outcome> {
    let dataplane = Arc::new(lab::dataplane()?);
    let (_stop, shutdown) = watch::channel(false);
    let ctx = context(dataplane.clone(), shutdown);
    ctx.world.update(|world| {
        for number in 0..services {
            let service = service(number);
            world
                .services
                .insert(Key::of(&service.metadata), Arc::new(service));
            let slice = slice(number, endpoints, 0);
            world
                .endpoint_slices
                .insert(Key::of(&slice.metadata), Arc::new(slice));
        }
        world.revisions.services += 1;
        world.revisions.endpoint_slices += 1;
        world.revisions.pods += 1;
        world.revisions.listed += 1;
    });
    let started = Instant::now();
    let mut programmed = ctx.world.programmed();
    let service_loop = tokio::spawn(loops::service::run(ctx.clone()));
    tokio::time::timeout(PATIENCE, programmed.wait_for(|revision| *revision > 0))
        .await
        .context("the Services were not programmed in time")??;
    let cold = started.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for change in 0..changes {
        let number = u32::try_from(change)? * 37 % services;
        times.push(
            seconds_to_map(
                &ctx.world,
                &dataplane,
                number,
                endpoints,
                u32::try_from(change)? + 1,
            )
            .await?,
        );
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        times
            .get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1)))
            .copied()
    };
    let outcome = Outcome {
        cold,
        change_p50: at(0.5).unwrap_or_default(),
        change_p99: at(0.99).unwrap_or_default(),
        peak: footprint::bytes(std::process::id(), "VmHWM:")?,
        maps: service_maps(&dataplane)?,
    };
    service_loop.abort();
    Ok(outcome)
}

fn context(dataplane: Arc<Dataplane>, shutdown: watch::Receiver<bool>) -> Context {
    let config = Config {
        node_name: "bench".into(),
        part: keelson::config::Part::Proxy,
        state: "/run/state".into(),
        ..Config::default()
    };
    let ctx = Context {
        config: Arc::new(config),
        world: World::new(Node::default()),
        health: Arc::default(),
        proxy: Arc::default(),
        metrics: Arc::default(),
        network: Arc::default(),
        shutdown,
    };
    ctx.network
        .publish_addresses(vec![IpAddr::from([192, 168, 50, 1])]);
    ctx.network.publish_maps(dataplane);
    ctx
}

/// Exchange the last endpoint of a Service, and look at the maps until the new one is there.
async fn seconds_to_map(
    world: &World,
    dataplane: &Dataplane,
    number: u32,
    endpoints: u32,
    change: u32,
) -> Result<f64> {
    let new = slice(number, endpoints, change);
    let wanted = endpoint_address(number, endpoints - 1, change);
    let started = Instant::now();
    world.update(|world| {
        world
            .endpoint_slices
            .insert(Key::of(&new.metadata), Arc::new(new));
        world.revisions.endpoint_slices += 1;
    });
    while !is_programmed(dataplane, number, wanted)? {
        ensure!(started.elapsed() < PATIENCE, "a change did not reach the maps");
        tokio::task::yield_now().await;
    }
    Ok(started.elapsed().as_secs_f64())
}

fn is_programmed(dataplane: &Dataplane, number: u32, wanted: Ipv4Addr) -> Result<bool> {
    let key = FrontendKey {
        addr: IpAddr::V4(cluster_address(number)).into(),
        port_be: 80_u16.to_be(),
        proto: 6,
        reserved: 0,
    };
    let Some(frontend) = dataplane.frontend(&key)? else {
        return Ok(false);
    };
    for block in 0..frontend.count.div_ceil(keelson_abi::BACKEND_BLOCK) {
        let key = BackendKey {
            service: frontend.service,
            revision: frontend.revision,
            block,
        };
        let found = dataplane.backend(&key)?.unwrap_or_default();
        if found
            .slots
            .iter()
            .any(|slot| slot.addr == IpAddr::V4(wanted).into())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the kernel says the Service maps take.
fn service_maps(dataplane: &Dataplane) -> Result<f64> {
    let wanted = [
        "frontend",
        "backend",
        "member",
        "maglev",
        "source_range",
        "affinity",
    ];
    let sizes: BTreeMap<String, u64> = dataplane.map_memory()?.into_iter().collect();
    let total = wanted
        .into_iter()
        .map(|name| {
            sizes
                .get(name)
                .copied()
                .with_context(|| format!("no size of the map {name}"))
        })
        .sum::<Result<u64>>()?;
    Ok(total as f64)
}

fn cluster_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + number)
}

/// Endpoints live in a network of their own per change, so that no two are the same.
fn endpoint_address(number: u32, index: u32, change: u32) -> Ipv4Addr {
    let moved = if change == 0 { 0 } else { 0x0080_0000 + change };
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + number * 8 + index + moved)
}

fn metadata(name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        uid: Some(format!("5f0c0f1e-0000-4000-8000-{name:0>12}")),
        name: Some(name),
        namespace: Some("default".into()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn service(number: u32) -> Service {
    let address = cluster_address(number).to_string();
    Service {
        metadata: metadata(
            format!("service-{number}"),
            BTreeMap::from([("app".into(), "bench".into())]),
        ),
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.clone()),
            cluster_ips: Some(vec![address]),
            ip_families: Some(vec!["IPv4".into()]),
            type_: Some("ClusterIP".into()),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn slice(number: u32, endpoints: u32, change: u32) -> EndpointSlice {
    let labels = BTreeMap::from([("kubernetes.io/service-name".into(), format!("service-{number}"))]);
    let endpoint = |index: u32| {
        let change = if index + 1 == endpoints { change } else { 0 };
        Endpoint {
            addresses: vec![endpoint_address(number, index, change).to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            node_name: Some("another".into()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                name: Some(format!("pod-{number}-{index}")),
                namespace: Some("default".into()),
                ..ObjectReference::default()
            }),
            ..Endpoint::default()
        }
    };
    EndpointSlice {
        address_type: "IPv4".into(),
        metadata: metadata(format!("service-{number}-x"), labels),
        endpoints: Some((0..endpoints).map(endpoint).collect()),
        ports: Some(vec![EndpointPort {
            name: Some("http".into()),
            port: Some(8080),
            protocol: Some("TCP".into()),
            ..EndpointPort::default()
        }]),
    }
}
