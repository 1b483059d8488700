//! Health loop: whoever asks how the service proxy is gets an answer: the node's own endpoints, and each Service's
//! `healthCheckNodePort`.
//!
//! Observe: the checks that the service loop tells, the listeners that are open. Plan: `plan`, what to open and what to close. Apply:
//! sockets. Report: an event for each address that cannot be taken; it is tried again. Numbers are read when somebody asks, so
//! that a change of endpoints touches no socket.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderName, HeaderValue, Method, StatusCode, header::X_CONTENT_TYPE_OPTIONS};
use jiff::Timestamp;
use keelson_core::{
    health::{self, Answer},
    object::Key,
    service::health::HealthChecks,
};
use tokio::{
    sync::{oneshot, watch},
    time,
};
use tracing::{info, warn};

use crate::{
    context::Context,
    doors::web::{self, Handler, Reply, plain},
    events::{self, Subject},
    metrics,
};

/// An address that could not be taken is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);
/// How Services are programmed, as `/proxyMode` tells.
const MODE: &str = "ebpf";

/// Who answers at an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// `/healthz`, `/livez`, `/proxyMode`.
    Proxy,
    /// `/metrics`, `/proxyMode`.
    Metrics,
    /// A Service's `healthCheckNodePort`.
    Check(Key),
}

/// Each tells its address when it has ended.
type Servers = FuturesUnordered<Pin<Box<dyn Future<Output = SocketAddr> + Send>>>;
type Desired = BTreeMap<SocketAddr, Role>;

/// Run until shutdown. What fails is reported and tried again.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    HealthLoop::new(ctx).run().await;
    Ok(())
}

struct HealthLoop {
    ctx: Context,
    checks: watch::Receiver<Arc<HealthChecks>>,
    /// Open listeners; dropping the sender ends the server.
    open: BTreeMap<SocketAddr, (Role, oneshot::Sender<()>)>,
    /// Told to close, and not closed yet: their addresses are not free.
    closing: BTreeSet<SocketAddr>,
    servers: Servers,
    /// What was told already, so that each failure is told once.
    told: BTreeSet<(Role, String)>,
}

impl HealthLoop {
    fn new(ctx: Context) -> Self {
        Self {
            checks: ctx.network.health_checks(),
            ctx,
            open: BTreeMap::new(),
            closing: BTreeSet::new(),
            servers: Servers::new(),
            told: BTreeSet::new(),
        }
    }

    async fn run(mut self) {
        let mut shutdown = self.ctx.shutdown.clone();
        let mut changes = self.checks.clone();
        loop {
            changes.mark_unchanged();
            let fine = self.round();
            let again = if fine { Duration::MAX } else { RETRY };
            tokio::select! {
                address = drive(&mut self.servers) => drop(self.closing.remove(&address)),
                changed = changes.changed() => if changed.is_err() { return },
                () = time::sleep(again) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Observe, plan, apply, report: once. False = something is to be tried again.
    fn round(&mut self) -> bool {
        let checks = self.checks.borrow().clone();
        let (desired, refused) = self.desired(&checks);
        let mut failures: BTreeSet<(Role, String)> = BTreeSet::new();
        failures.extend(refused);
        // First those that go: their addresses may be asked for by another.
        let gone = self
            .open
            .extract_if(.., |address, (role, _)| desired.get(address) != Some(role));
        self.closing.extend(gone.map(|(address, _)| address));
        let mut taken = true;
        for (address, role) in desired {
            if self.open.contains_key(&address) || self.closing.contains(&address) {
                continue;
            }
            match web::listen(address) {
                Ok(listener) => {
                    info!(%address, ?role, "answering");
                    let (close, closed) = oneshot::channel();
                    let handler = self.handler(&role, address);
                    self.servers.push(Box::pin(async move {
                        tokio::select! {
                            () = web::serve(listener, handler) => {}
                            _ = closed => {}
                        }
                        address
                    }));
                    self.open.insert(address, (role, close));
                }
                Err(error) => {
                    taken = false;
                    failures.insert((role, format!("listen at {address}: {error}")));
                }
            }
        }
        self.tell(failures);
        taken
    }

    /// Who shall answer where; and which Services cannot, since another has their port.
    fn desired(&self, checks: &HealthChecks) -> (Desired, Vec<(Role, String)>) {
        let mut desired = Desired::new();
        let own = [
            (self.ctx.config.healthz_address, Role::Proxy),
            (self.ctx.config.metrics_address, Role::Metrics),
        ];
        for (address, role) in own {
            if let Some(address) = address {
                desired.insert(address, role);
            }
        }
        let mut refused = Vec::new();
        for (key, check) in checks {
            for ip in check.listeners.keys() {
                let address = SocketAddr::new(*ip, check.port);
                let role = Role::Check(key.clone());
                match desired.get(&address) {
                    Some(Role::Check(holder)) => {
                        refused.push((
                            role,
                            format!("{address} is the health check port of {holder}, too"),
                        ));
                    }
                    Some(_) => refused.push((role, format!("{address} is the agent's own"))),
                    None => drop(desired.insert(address, role)),
                }
            }
        }
        (desired, refused)
    }

    fn handler(&self, role: &Role, address: SocketAddr) -> Handler {
        let ctx = self.ctx.clone();
        match role.clone() {
            Role::Proxy => Arc::new(move |method, path| proxy(&ctx, method, path)),
            Role::Metrics => Arc::new(move |method, path| measured(&ctx, method, path)),
            Role::Check(key) => {
                let checks = self.checks.clone();
                // Any path and method, as kube-proxy.
                Arc::new(move |_, _| {
                    let count = checks.borrow().get(&key).and_then(|check| {
                        // One that was withdrawn a moment ago has nothing here.
                        check.listeners.get(&address.ip()).copied()
                    });
                    json(&health::health_check(
                        &key,
                        count.unwrap_or(0),
                        ctx.proxy.verdict().healthy,
                    ))
                })
            }
        }
    }

    /// An event for what was not told before.
    fn tell(&mut self, failures: BTreeSet<(Role, String)>) {
        for (role, why) in failures.difference(&self.told) {
            warn!("health: {why}");
            let (subject, reason, message) = match role {
                Role::Check(key) => (
                    self.service(key),
                    "FailedToStartServiceHealthcheck",
                    format!("the node's health check of this Service does not answer: {why}"),
                ),
                Role::Proxy | Role::Metrics => (
                    self.node(),
                    "FailedToStartProxierHealthcheck",
                    format!(
                        "{why}; stop whoever has the port, or set {} in the configuration",
                        if *role == Role::Proxy {
                            "healthzAddress"
                        } else {
                            "metricsAddress"
                        }
                    ),
                ),
            };
            let event = events::event(subject, events::WARNING, reason, &message, Timestamp::now());
            self.ctx.world.update(|objects| objects.record(event));
        }
        self.told = failures;
    }

    fn service(&self, key: &Key) -> Subject {
        let uid = self
            .ctx
            .world
            .read(|objects| objects.services.get(key)?.metadata.uid.clone());
        Subject {
            kind: "Service",
            key: key.clone(),
            uid,
            field: None,
        }
    }

    fn node(&self) -> Subject {
        Subject {
            kind: "Node",
            key: Key::new("default", &self.ctx.config.node_name),
            uid: self.ctx.world.read(|objects| objects.node.metadata.uid.clone()),
            field: None,
        }
    }
}

/// Drive all servers; returns when one has ended, never where there is none.
async fn drive(servers: &mut Servers) -> SocketAddr {
    match servers.next().await {
        Some(address) => address,
        None => std::future::pending().await,
    }
}

fn proxy(ctx: &Context, method: &Method, path: &str) -> Reply {
    let now = Timestamp::now();
    web::readable(method, || match path {
        "/healthz" => {
            let eligible = ctx.world.read(|objects| health::node_is_eligible(&objects.node));
            let answer = health::healthz(&ctx.proxy.verdict(), eligible, now);
            ctx.metrics.healthz(answer.status);
            json(&answer)
        }
        "/livez" => {
            let answer = health::livez(&ctx.proxy.verdict(), now);
            ctx.metrics.livez(answer.status);
            json(&answer)
        }
        "/proxyMode" => plain(StatusCode::OK, MODE),
        _ => plain(
            StatusCode::NOT_FOUND,
            "here are /healthz, /livez and /proxyMode\n",
        ),
    })
}

fn measured(ctx: &Context, method: &Method, path: &str) -> Reply {
    web::readable(method, || match path {
        "/metrics" => web::reply(StatusCode::OK, metrics::CONTENT_TYPE, ctx.metrics.text()),
        "/healthz" => plain(StatusCode::OK, "ok"),
        "/proxyMode" => plain(StatusCode::OK, MODE),
        _ => plain(StatusCode::NOT_FOUND, "here are /metrics and /proxyMode\n"),
    })
}

fn json(answer: &Answer) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = web::reply(status, "application/json", answer.body.to_string());
    let headers = reply.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(weight) = answer.weight {
        let name = HeaderName::from_static("x-load-balancing-endpoint-weight");
        headers.insert(name, HeaderValue::from(weight));
    }
    reply
}
