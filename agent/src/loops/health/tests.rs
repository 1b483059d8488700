//! Real sockets on loopback: who answers what, and when.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use keelson_core::service::health::HealthCheck;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;
use crate::{
    config::Config,
    health::ProxyHealth,
    world::{Objects, World},
};

/// Nothing takes longer.
const LIMIT: Duration = Duration::from_secs(10);

struct Bench {
    ctx: Context,
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<()>>,
    healthz: SocketAddr,
    metrics: SocketAddr,
}

/// A port that is free now: the kernel gives others to those who ask for any.
fn free() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Bench {
    fn new(proxy: ProxyHealth) -> Self {
        let (stop, shutdown) = watch::channel(false);
        let (healthz, metrics) = (local(free()), local(free()));
        let config = Config {
            node_name: "n1".to_owned(),
            healthz_address: Some(healthz),
            metrics_address: Some(metrics),
            ..Config::default()
        };
        let ctx = Context {
            config: Arc::new(config),
            world: World::new(Node::default()),
            health: Arc::default(),
            proxy: Arc::new(proxy),
            metrics: Arc::default(),
            network: Arc::default(),
            shutdown,
        };
        let task = tokio::spawn(run(ctx.clone()));
        Self {
            ctx,
            stop,
            task,
            healthz,
            metrics,
        }
    }

    fn checks<'a>(&self, checks: impl IntoIterator<Item = (&'a str, u16, usize)>) {
        let one = |(name, port, count)| {
            let listeners = [(IpAddr::V4(Ipv4Addr::LOCALHOST), count)].into();
            (Key::new("shop", name), HealthCheck { port, listeners })
        };
        self.ctx
            .network
            .publish_health_checks(checks.into_iter().map(one).collect());
    }

    async fn events(&self, reason: &str, count: usize) -> Vec<String> {
        let mut revisions = self.ctx.world.watch();
        let found = |objects: &Objects| -> Vec<String> {
            let events = objects.events.iter();
            let events = events.filter(|event| event.reason.as_deref() == Some(reason));
            events.filter_map(|event| event.message.clone()).collect()
        };
        let wait = async {
            loop {
                let events = self.ctx.world.read(found);
                if events.len() >= count {
                    return events;
                }
                revisions.changed().await.expect("the world lasts");
            }
        };
        time::timeout(LIMIT, wait).await.expect("an event in time")
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.expect("joined").expect("ended well");
    }
}

/// Head and body of an answer, once somebody listens.
async fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let talk = async {
        let mut stream = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => time::sleep(Duration::from_millis(5)).await,
            }
        };
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    let answer = time::timeout(LIMIT, talk).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_ascii_lowercase(), body.to_owned())
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).expect("a status")
}

#[tokio::test]
async fn a_services_port_answers_any_path_with_what_is_here_now() {
    let bench = Bench::new(ProxyHealth::default());
    let port = free();
    bench.checks([("web", port, 2)]);
    let (head, body) = ask(local(port), "POST /whatever?x=1").await;
    assert_eq!(status(&head), "200", "{head}");
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(head.contains(header), "{header} in {head}");
    }
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (
            &body["service"]["namespace"],
            &body["service"]["name"],
            &body["localEndpoints"],
            &body["serviceProxyHealthy"]
        ),
        (&"shop".into(), &"web".into(), &2.into(), &true.into())
    );
    // The same socket, other numbers.
    bench.checks([("web", port, 0)]);
    let (head, _) = ask(local(port), "GET /").await;
    assert_eq!(status(&head), "503", "{head}");
    assert!(head.contains("x-load-balancing-endpoint-weight: 0"), "{head}");
    bench.end().await;
}

#[tokio::test]
async fn a_port_that_is_not_asked_for_any_more_is_closed_and_may_go_to_another_service() {
    let bench = Bench::new(ProxyHealth::default());
    let port = free();
    bench.checks([("web", port, 1)]);
    assert_eq!(status(&ask(local(port), "GET /").await.0), "200");
    bench.checks([("other", port, 0)]);
    let wait = async {
        while !ask(local(port), "GET /").await.1.contains("other") {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(LIMIT, wait).await.expect("taken over");
    bench.checks([]);
    let wait = async {
        while TcpStream::connect(local(port)).await.is_ok() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(LIMIT, wait).await.expect("closed");
    bench.end().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_once_and_answered_on_when_it_is_free() {
    let holder = std::net::TcpListener::bind(local(0)).expect("a port");
    let port = holder.local_addr().expect("its number").port();
    let bench = Bench::new(ProxyHealth::default());
    bench.checks([("web", port, 1)]);
    let events = bench.events("FailedToStartServiceHealthcheck", 1).await;
    assert!(
        events[0].contains(&format!("listen at 127.0.0.1:{port}")),
        "{events:?}"
    );
    drop(holder);
    assert_eq!(status(&ask(local(port), "GET /").await.0), "200");
    assert_eq!(bench.events("FailedToStartServiceHealthcheck", 1).await.len(), 1);
    bench.end().await;
}

#[tokio::test]
async fn of_two_services_with_one_port_the_other_is_told_by_name() {
    let bench = Bench::new(ProxyHealth::default());
    let port = free();
    bench.checks([("a", port, 1), ("b", port, 1)]);
    let events = bench.events("FailedToStartServiceHealthcheck", 1).await;
    assert!(
        events[0].contains("is the health check port of shop/a, too"),
        "{events:?}"
    );
    assert!(ask(local(port), "GET /").await.1.contains("\"a\""));
    bench.end().await;
}

#[tokio::test]
async fn the_nodes_endpoints_tell_health_eligibility_and_mode() {
    let bench = Bench::new(ProxyHealth::default());
    let (head, body) = ask(bench.healthz, "GET /healthz").await;
    assert_eq!(status(&head), "200", "{body}");
    assert!(
        head.contains("content-type: application/json") && head.contains("nosniff"),
        "{head}"
    );
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&body["healthy"], &body["nodeEligible"]),
        (&true.into(), &true.into())
    );
    assert_eq!(body["status"]["IPv4"]["healthy"], true);
    bench.ctx.world.update(|objects| {
        let taint = Taint {
            key: "ToBeDeletedByClusterAutoscaler".to_owned(),
            ..Taint::default()
        };
        Arc::make_mut(&mut objects.node).spec = Some(NodeSpec {
            taints: Some(vec![taint]),
            ..NodeSpec::default()
        });
    });
    assert_eq!(status(&ask(bench.healthz, "GET /healthz").await.0), "503");
    assert_eq!(status(&ask(bench.healthz, "GET /livez").await.0), "200");
    assert_eq!(ask(bench.healthz, "GET /proxyMode").await.1, "ebpf");
    assert_eq!(status(&ask(bench.healthz, "GET /other").await.0), "404");
    assert_eq!(status(&ask(bench.healthz, "POST /healthz").await.0), "405");
    let (_, text) = ask(bench.metrics, "GET /metrics").await;
    for series in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 1",
    ] {
        assert!(text.contains(series), "{series} in {text}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_proxy_that_does_not_keep_up_says_so_everywhere() {
    let proxy = ProxyHealth::new(Duration::ZERO, &[keelson_core::health::Family::V4]);
    proxy.queued();
    let bench = Bench::new(proxy);
    let port = free();
    bench.checks([("web", port, 3)]);
    for (address, path) in [
        (bench.healthz, "/healthz"),
        (bench.healthz, "/livez"),
        (local(port), "/"),
    ] {
        let (head, body) = ask(address, &format!("GET {path}")).await;
        assert_eq!(status(&head), "503", "{path}: {body}");
    }
    bench.ctx.proxy.updated();
    assert_eq!(status(&ask(bench.healthz, "GET /livez").await.0), "200");
    assert_eq!(status(&ask(local(port), "GET /").await.0), "200");
    bench.end().await;
}
