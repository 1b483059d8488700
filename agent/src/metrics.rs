//! What is counted and measured, and its text for Prometheus.
//!
//! Names are kube-proxy's where it has one, so that dashboards and alerts go on working; what it does not have is `keelson_*`.
//! Loops record through the methods here; what the programs and the machine know is asked for when somebody reads.

mod dataplane;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use self::dataplane::{Fill, Source, Tally};

/// Media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

/// What a change of Services or EndpointSlices is made of.
#[derive(Clone, Debug)]
struct Changes {
    pending: Gauge,
    total: Counter,
}

/// All that is counted. Cheap to record into: atomics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sync_seconds: Histogram,
    last_sync: Gauge<f64, std::sync::atomic::AtomicU64>,
    last_queued: Gauge<f64, std::sync::atomic::AtomicU64>,
    programming_seconds: Histogram,
    endpoint_changes: Changes,
    service_changes: Changes,
    takeover: Family<ByResult, Counter>,
    healthz: Family<ByCode, Counter>,
    livez: Family<ByCode, Counter>,
    dataplane: dataplane::Collector,
    /// One reader at a time: each asks the kernel.
    reading: Mutex<()>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let proxy = registry.sub_registry_with_prefix("kubeproxy");
        // From a millisecond on: one change takes less than the finest step of kube-proxy's.
        let sync_seconds = histogram(
            proxy,
            "sync_proxy_rules_duration_seconds",
            "How long programming all pending changes took",
            (0..18).map(|step| 0.000_125 * f64::from(1 << step)),
        );
        let steps = [
            0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
        ];
        let programming_seconds = histogram(
            proxy,
            "network_programming_duration_seconds",
            "From the change of an endpoint, as its trigger time says, to its being programmed",
            steps
                .into_iter()
                .chain((1..=60).map(f64::from))
                .chain([90.0, 120.0, 180.0, 240.0, 300.0]),
        );
        let last_sync = gauge(
            proxy,
            "sync_proxy_rules_last_timestamp_seconds",
            "When all changes were programmed last",
        );
        let last_queued = gauge(
            proxy,
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was told last",
        );
        let endpoint_changes = changes(proxy, "endpoint");
        let service_changes = changes(proxy, "service");
        let (healthz, livez) = (Family::default(), Family::default());
        proxy.register("proxy_healthz", "Answers of /healthz", healthz.clone());
        proxy.register("proxy_livez", "Answers of /livez", livez.clone());
        let takeover = Family::default();
        registry.register(
            "keelson_takeover_connections",
            "Connections of another proxy found at the first start, by what became of them",
            takeover.clone(),
        );
        let dataplane = dataplane::Collector::default();
        registry.register_collector(Box::new(dataplane.clone()));
        Self {
            registry,
            sync_seconds,
            last_sync,
            last_queued,
            programming_seconds,
            takeover,
            endpoint_changes,
            service_changes,
            healthz,
            livez,
            dataplane,
            reading: Mutex::new(()),
        }
    }
}

fn histogram(
    registry: &mut Registry,
    name: &str,
    help: &str,
    steps: impl IntoIterator<Item = f64>,
) -> Histogram {
    let histogram = Histogram::new(steps);
    registry.register(name, help, histogram.clone());
    histogram
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge<f64, std::sync::atomic::AtomicU64> {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn changes(registry: &mut Registry, what: &str) -> Changes {
    let changes = Changes {
        pending: Gauge::default(),
        total: Counter::default(),
    };
    registry.register(
        format!("sync_proxy_rules_{what}_changes_pending"),
        format!("Changes of {what}s that are not programmed yet"),
        changes.pending.clone(),
    );
    // The library puts "_total" behind it.
    registry.register(
        format!("sync_proxy_rules_{what}_changes"),
        format!("Changes of {what}s that were told"),
        changes.total.clone(),
    );
    changes
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

impl Metrics {
    /// Changes of this many Services and endpoints were told, and are to be programmed.
    pub fn queued(&self, services: usize, endpoints: usize) {
        self.last_queued.set(seconds(Timestamp::now()));
        for (changes, count) in [
            (&self.service_changes, services),
            (&self.endpoint_changes, endpoints),
        ] {
            changes.total.inc_by(count as u64);
            changes.pending.inc_by(count as i64);
        }
    }

    /// All changes told are programmed; that took so long.
    pub fn programmed(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
        self.last_sync.set(seconds(Timestamp::now()));
        self.service_changes.pending.set(0);
        self.endpoint_changes.pending.set(0);
    }

    /// A change of endpoints that happened at `triggered` is programmed now.
    pub fn endpoint_programmed(&self, triggered: Timestamp) {
        let since = Timestamp::now().duration_since(triggered).as_secs_f64();
        // Clocks of the nodes differ a little.
        self.programming_seconds.observe(since.max(0.0));
    }

    /// Connections of another proxy were found: so many go on, the others were left to the kernel for these reasons.
    pub fn taken_over(&self, taken: usize, left: &BTreeMap<&'static str, usize>) {
        for (result, count) in left
            .iter()
            .map(|(reason, count)| (*reason, *count))
            .chain([("taken-over", taken)])
        {
            self.takeover
                .get_or_create(&ByResult { result })
                .inc_by(count as u64);
        }
    }

    /// `/healthz` answered.
    pub fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&ByCode { code }).inc();
    }

    /// `/livez` answered.
    pub fn livez(&self, code: u16) {
        self.livez.get_or_create(&ByCode { code }).inc();
    }

    /// The programs are loaded: here is who knows what they count.
    pub fn set_source(&self, source: std::sync::Arc<dyn Source>) {
        self.dataplane.set(source);
    }

    /// Everything, in OpenMetrics' text form, which Prometheus reads.
    pub fn text(&self) -> String {
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if let Err(error) = text::encode(&mut text, &self.registry) {
            // Writing to a String cannot fail, so it is a metric that cannot be written.
            tracing::error!("write the metrics: {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The value of a series.
    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn names_and_labels_are_those_of_kube_proxy() {
        let metrics = Metrics::default();
        metrics.queued(2, 5);
        metrics.endpoint_programmed(Timestamp::now());
        metrics.healthz(200);
        metrics.healthz(503);
        metrics.livez(200);
        let text = metrics.text();
        for (series, expected) in [
            ("kubeproxy_sync_proxy_rules_service_changes_pending", 2.0),
            ("kubeproxy_sync_proxy_rules_service_changes_total", 2.0),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 5.0),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 5.0),
            ("kubeproxy_sync_proxy_rules_duration_seconds_count", 0.0),
            ("kubeproxy_network_programming_duration_seconds_count", 1.0),
            ("kubeproxy_proxy_healthz_total{code=\"200\"}", 1.0),
            ("kubeproxy_proxy_healthz_total{code=\"503\"}", 1.0),
            ("kubeproxy_proxy_livez_total{code=\"200\"}", 1.0),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
        }
        let queued = value(&text, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds");
        assert!(queued.is_some_and(|at| at > 1e9), "{text}");
        metrics.programmed(Duration::from_millis(3));
        let text = metrics.text();
        assert_eq!(
            value(&text, "kubeproxy_sync_proxy_rules_service_changes_pending"),
            Some(0.0)
        );
        assert_eq!(
            value(&text, "kubeproxy_sync_proxy_rules_service_changes_total"),
            Some(2.0)
        );
        assert_eq!(
            value(&text, "kubeproxy_sync_proxy_rules_duration_seconds_count"),
            Some(1.0)
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[derive(Debug)]
    struct Programs;

    impl Source for Programs {
        fn tally(&self) -> Result<Tally, String> {
            Ok(Tally {
                drops: vec![("FlowTableFull", 7)],
                flows: vec![("new", 3)],
                without_local: [("internal", 2), ("external", 0)],
                fills: vec![Fill {
                    map: "frontend".to_owned(),
                    entries: 12,
                    capacity: 100,
                }],
            })
        }
    }

    #[test]
    fn what_the_programs_count_is_asked_for_when_somebody_reads() {
        let metrics = Metrics::default();
        assert!(!metrics.text().contains("keelson_drops"), "nothing is loaded yet");
        metrics.set_source(Arc::new(Programs));
        let text = metrics.text();
        for (series, expected) in [
            ("keelson_drops_total{reason=\"FlowTableFull\"}", 7.0),
            ("keelson_flows_total{event=\"new\"}", 3.0),
            (
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\"}",
                2.0,
            ),
            (
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"}",
                0.0,
            ),
            ("keelson_map_entries{map=\"frontend\"}", 12.0),
            ("keelson_map_capacity{map=\"frontend\"}", 100.0),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
        }
    }
}
