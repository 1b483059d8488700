//! What the programs count, in Prometheus' words; asked for when somebody reads.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use prometheus_client::{
    collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use tracing::warn;

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its name.
    pub map: String,
    /// What is in it.
    pub entries: u64,
    /// What fits into it.
    pub capacity: u64,
}

/// All that the programs know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets dropped or refused, by reason.
    pub drops: Vec<(&'static str, u64)>,
    /// Flows that began or ended, by how.
    pub flows: Vec<(&'static str, u64)>,
    /// Service ports whose policy Local finds no endpoint on this node though there are some, by the policy's kind.
    pub without_local: [(&'static str, u64); 2],
    /// Maps.
    pub fills: Vec<Fill>,
}

/// Who knows.
pub trait Source: fmt::Debug + Send + Sync {
    /// Ask; takes some system calls.
    fn tally(&self) -> Result<Tally, String>;
}

/// Asks the source, once there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Collector(Arc<RwLock<Option<Arc<dyn Source>>>>);

impl Collector {
    pub(super) fn set(&self, source: Arc<dyn Source>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }
}

impl collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let source = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(source) = source else { return Ok(()) };
        let tally = match source.tally() {
            Ok(tally) => tally,
            Err(why) => {
                // The rest can still be read.
                warn!("metrics: what the programs count: {why}");
                return Ok(());
            }
        };
        let drops = tally.drops.iter().map(|(reason, count)| (*reason, *count));
        series(
            &mut encoder,
            ("keelson_drops", "Packets dropped or refused"),
            "reason",
            ConstCounter::new,
            drops,
        )?;
        let flows = tally.flows.iter().map(|(event, count)| (*event, *count));
        series(
            &mut encoder,
            (
                "keelson_flows",
                "Flows that began, and that ended before their connection did",
            ),
            "event",
            ConstCounter::new,
            flows,
        )?;
        series(
            &mut encoder,
            (
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Service ports whose policy Local finds no endpoint on this node",
            ),
            "traffic_policy",
            gauge,
            tally.without_local.into_iter(),
        )?;
        let entries = tally.fills.iter().map(|fill| (fill.map.as_str(), fill.entries));
        series(
            &mut encoder,
            ("keelson_map_entries", "Entries of the programs' maps"),
            "map",
            gauge,
            entries,
        )?;
        let capacities = tally.fills.iter().map(|fill| (fill.map.as_str(), fill.capacity));
        series(
            &mut encoder,
            ("keelson_map_capacity", "Entries that fit into the programs' maps"),
            "map",
            gauge,
            capacities,
        )
    }
}

/// One series per value of the label. `of` makes the metric of a number.
fn series<'a, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &'static str,
    of: impl Fn(u64) -> M,
    values: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, of(0).metric_type())?;
    for (value, count) in values {
        let labels = [(label, value)];
        of(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
