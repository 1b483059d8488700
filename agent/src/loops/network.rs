//! Network loop: the programs are loaded and current, uplinks are attached, the plugin finds its configuration, leaks are swept up.
//!
//! Observe: the kernel's devices (by its own news, and every `RELIST`), the runtime's sandboxes, the peers. Plan:
//! `keelson_dataplane::node` for the node's values, `keelson_core::network` for what must not be and for pods of other nodes,
//! `keelson_cni::gc` for leaks. Apply: dataplane, conflist. Report: health, how each peer is reached, and to the other loops the maps
//! and the node's addresses.

pub mod between;

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use keelson_cni::{
    datapath::Datapath,
    gc::{self, Wanted},
    netlink::Netlink,
    netns, node,
    store::Deadline,
};
use keelson_core::network::{Networks, overlap, peers::Mode};
use keelson_dataplane::{Dataplane, NodeSettings, Paths, Uplink};
use tokio::{sync::Notify, task, time};
use tracing::{debug, error, info, warn};

use self::between::Told;
use crate::{
    config::{Config, Part, PodNetwork},
    context::Context,
    doors::{
        conflist,
        cri::{Runtime, client::Client},
        netlink,
        programs::Counters,
    },
    health::subsystem,
};

/// Name of the network in the conflist, the store and the links' aliases.
pub const NETWORK: &str = "keelson";
/// Looked at again this often even without news.
const RELIST: Duration = Duration::from_secs(300);
/// Leaks are swept up this often.
const SWEEP: Duration = Duration::from_secs(60);
/// News come in bursts.
const DEBOUNCE: Duration = Duration::from_millis(50);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// Making a sandbox takes no longer than this (milliseconds): the runtime's own limit is four minutes.
const BEING_MADE: u64 = 300_000;
/// A sweep gives up on a busy lock after this long; the next one goes on.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// Run until shutdown. What fails is reported and tried again; programs and links stay.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let (changes, listen) = netlink::changes().context("listening to the kernel's news about devices")?;
    let mut shutdown = ctx.shutdown.clone();
    tokio::select! {
        () = follow(&ctx, &changes) => {}
        () = listen => bail!("the kernel closed the socket that tells of devices"),
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

async fn follow(ctx: &Context, changes: &Notify) {
    let mut revisions = ctx.world.watch();
    let mut retry = RETRY_FIRST;
    let mut loaded: Option<Arc<Dataplane>> = None;
    let mut swept = Instant::now();
    loop {
        let seen = *revisions.borrow_and_update();
        let wait = match round(ctx, &mut loaded).await {
            Ok(()) => {
                retry = RETRY_FIRST;
                ctx.health.set(subsystem::NETWORK, Ok(()));
                SWEEP
            }
            Err(failure) => {
                error!("pod network: {failure:#}; trying again in {retry:?}");
                ctx.health.set(subsystem::NETWORK, Err(format!("{failure:#}")));
                let wait = retry;
                retry = (retry * 2).min(RETRY_LAST);
                wait
            }
        };
        let due = swept.elapsed() >= SWEEP && ctx.config.part == Part::Node;
        if let Some(dataplane) = loaded.as_ref().filter(|_| due) {
            swept = Instant::now();
            sweep(ctx, dataplane).await;
        }
        tokio::select! {
            () = changes.notified() => time::sleep(DEBOUNCE).await,
            () = between::concerned(&mut revisions, seen) => {}
            () = time::sleep(wait.min(RELIST)) => {}
        }
    }
}

/// Observe, plan, apply, report: once.
async fn round(ctx: &Context, loaded: &mut Option<Arc<Dataplane>>) -> anyhow::Result<()> {
    let config = ctx.config.clone();
    let uplinks = task::spawn_blocking(move || look(&config)).await??;
    // Told before the programs are loaded, which takes a while: nobody who waits for the node's address waits for them.
    let addresses: Vec<IpAddr> = uplinks
        .iter()
        .flat_map(|uplink| &uplink.addresses)
        .map(ipnet::IpNet::addr)
        .collect();
    ctx.network.publish_addresses(addresses);
    let (config, current) = (ctx.config.clone(), loaded.clone());
    let told = between::told(ctx, &uplinks);
    let plan = told.plan.clone();
    let dataplane = task::spawn_blocking(move || ensure(&config, &told, current)).await??;
    if loaded.is_none() {
        info!(uplinks = ?uplinks.iter().map(|uplink| &uplink.name).collect::<Vec<_>>(), "dataplane ready");
        ctx.network.publish_maps(dataplane.clone());
        ctx.network.publish_programs(dataplane.clone());
        ctx.metrics.set_source(Arc::new(Counters(dataplane.clone())));
        *loaded = Some(dataplane);
    }
    between::report(ctx, &plan);
    Ok(())
}

/// The node's uplinks, unless one of them is in a network of ours: before anything is written, since what is also another's would be
/// taken away from it.
fn look(config: &Config) -> anyhow::Result<Vec<Uplink>> {
    let uplinks = Dataplane::uplinks(&settings(config)).context("looking at the node's devices")?;
    check_networks(config, &uplinks)?;
    Ok(uplinks)
}

/// Load or upgrade the first time, follow the devices from then on; the conflist comes last, since the runtime takes it as a sign
/// that pods can be made.
fn ensure(config: &Config, told: &Told, current: Option<Arc<Dataplane>>) -> anyhow::Result<Arc<Dataplane>> {
    let settings = &told.settings;
    let dataplane = match current {
        Some(dataplane) => dataplane,
        None => {
            let paths = paths(config);
            Arc::new(Dataplane::upgrade(&paths, settings).context("loading the dataplane")?)
        }
    };
    dataplane
        .configure(settings)
        .context("following the node's devices")?;
    if config.part == Part::Node && config.pod_network == PodNetwork::Own {
        conflist::write(config, &told.plan)?;
    }
    Ok(dataplane)
}

fn check_networks(config: &Config, uplinks: &[Uplink]) -> anyhow::Result<()> {
    let (pods, services) = (config.all_pod_cidrs(), config.all_service_cidrs());
    let networks = Networks {
        // Another plugin's bridge has an address of the pods' network, and should; and where the cloud routes, pods have
        // addresses of the nodes' own network.
        pods: if config.pod_network == PodNetwork::Own && config.pod_routing != Mode::Cloud {
            &pods
        } else {
            &[]
        },
        services: &services,
    };
    let attached = uplinks
        .iter()
        .flat_map(|uplink| uplink.addresses.iter().map(|net| (uplink.name.as_str(), *net)));
    match overlap(networks, attached) {
        Some(found) => bail!("{found}"),
        None => Ok(()),
    }
}

/// Where the dataplane lives.
pub fn paths(config: &Config) -> Paths {
    Paths {
        bpffs: config.bpf.clone(),
        run: config.run.clone(),
    }
}

/// The node's configuration in the dataplane's words.
pub fn settings(config: &Config) -> NodeSettings {
    NodeSettings {
        pod_cidrs: config.all_pod_cidrs(),
        service_cidrs: config.all_service_cidrs(),
        cluster_cidrs: config.cluster_pod_cidrs().to_vec(),
        node_port_range: config.node_port_range,
        excluded_interfaces: config.excluded_interfaces.clone(),
        node_address: config.node_address,
        snat_ports: config.snat_ports,
        masquerade_all: config.masquerade_all,
        // A node that Keelson runs alone has no connections of another proxy: its pods are new.
        take_over: config.part == Part::Proxy,
        // Another plugin's pods leave as that plugin has it.
        snat_pods: config.pod_network == PodNetwork::Own,
        ..NodeSettings::default()
    }
}

/// Remove what belongs to no sandbox of the runtime: containerd never asks for it. Only a list that the runtime has given counts.
async fn sweep(ctx: &Context, dataplane: &Arc<Dataplane>) {
    // The runtime lists a sandbox only once it is whole, some time after its network was made: what is younger stays.
    let as_of_ms = match netns::boot_clock_ms() {
        Ok(now) => now.saturating_sub(BEING_MADE),
        Err(failure) => return warn!("sweeping up after pods: {failure}"),
    };
    let listing = match Client::new(&ctx.config.containerd).list(None).await {
        Ok(listing) => listing,
        Err(failure) => return debug!("not sweeping up: {failure}"),
    };
    let these: HashSet<(String, String)> = listing
        .sandboxes
        .into_iter()
        .map(|sandbox| (sandbox.id, "eth0".to_owned()))
        .collect();
    let (run, dataplane) = (ctx.config.run.clone(), dataplane.clone());
    let swept = task::spawn_blocking(move || {
        let mut netlink = Netlink::open("the node")?;
        let store = node::open_store(&run, NETWORK, &netlink)?;
        let wanted = Wanted::OnlyAsOf { these, as_of_ms };
        let datapath: &dyn Datapath = dataplane.as_ref();
        gc::collect(
            &store,
            &wanted,
            &mut netlink,
            Some(datapath),
            netns::boot_clock_ms()?,
            Deadline::after(SWEEP_LIMIT),
        )
    });
    match swept.await {
        Ok(Ok(report)) => {
            for key in &report.attachments {
                info!(%key, "removed an attachment that no sandbox owns");
            }
            for failure in &report.failures {
                warn!("sweeping up after pods: {failure}");
            }
        }
        Ok(Err(failure)) => warn!("sweeping up after pods: {failure}"),
        Err(failure) => error!("sweeping up after pods: {failure}"),
    }
}
