//! The first time that Services are programmed on a node: the connections of the proxy that was here before go on, and what
//! became of them is said once.

use anyhow::Context as _;
use jiff::Timestamp;
use keelson_core::object::Key;
use keelson_dataplane::TakenOver;
use tracing::{info, warn};

use crate::{
    context::Context,
    doors::dataplane::ServiceMaps,
    events::{self, Subject},
};

/// Take over what there is, the first time; nothing from then on.
pub fn run(ctx: &Context, maps: &dyn ServiceMaps) -> anyhow::Result<()> {
    let report = maps.take_over().context("attaching the programs")?;
    if let Some(report) = report {
        tell(ctx, &report);
    }
    Ok(())
}

fn tell(ctx: &Context, report: &TakenOver) {
    ctx.metrics.taken_over(report.taken, &report.left);
    for failure in &report.failures {
        warn!("taking over the connections of another proxy: {failure}; they may have to be made anew");
    }
    if !report.tracker {
        return info!("the kernel tracks no connections: there are none of another proxy to take over");
    }
    if report.taken == 0 && report.left.is_empty() {
        return info!("no connections of another proxy to take over");
    }
    let message = message(report);
    info!("{message}");
    let subject = Subject {
        kind: "Node",
        key: Key::of(&ctx.world.read(|objects| objects.node.metadata.clone())),
        uid: None,
        field: None,
    };
    let kind = if report.failures.is_empty() {
        events::NORMAL
    } else {
        events::WARNING
    };
    let event = events::event(subject, kind, "ConnectionsTakenOver", &message, Timestamp::now());
    ctx.world.update(|objects| objects.record(event));
}

fn message(report: &TakenOver) -> String {
    let mut message = format!("{} connections of another proxy taken over", report.taken);
    let reasons: Vec<String> = report
        .left
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    if !reasons.is_empty() {
        message = format!("{message}; left to the kernel: {}", reasons.join(", "));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_over_is_told_with_its_reason() {
        let mut report = TakenOver {
            tracker: true,
            taken: 12,
            ..TakenOver::default()
        };
        assert_eq!(message(&report), "12 connections of another proxy taken over");
        report.left.insert("ended", 3);
        report.left.insert("no-service", 1);
        assert_eq!(
            message(&report),
            "12 connections of another proxy taken over; left to the kernel: 3 ended, 1 no-service"
        );
    }
}
