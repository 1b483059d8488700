//! A terminating pod is told to stop only after its traffic has gone elsewhere: the service loop says when the maps show it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;
use tracing::warn;

use super::worker::Worker;
use crate::health::subsystem;

/// The dataplane is given this long to take a terminating pod out of its Services; while Services are not programmed at all, the
/// pod's grace, up to the second figure.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);
const ACKNOWLEDGE_LONGEST: Duration = Duration::from_secs(30);

/// When deletion was first seen.
pub(super) struct Deletion {
    pub(super) revision: u64,
    pub(super) since: Instant,
    /// After this the pod is stopped all the same.
    pub(super) limit: Duration,
}

impl Worker {
    /// A terminating pod is told to stop only after its traffic has gone elsewhere.
    pub(super) fn acknowledge(&mut self, pod: &Pod, revision: u64) {
        if pod.metadata.deletion_timestamp.is_none() || self.memory.endpoints_acknowledged {
            return;
        }
        let limit = self.acknowledge_limit(pod);
        let deletion = self.deletion.get_or_insert_with(|| Deletion {
            revision,
            since: Instant::now(),
            limit,
        });
        deletion.limit = limit;
        if *self.shared.ctx.world.programmed().borrow() >= deletion.revision {
            self.memory.endpoints_acknowledged = true;
        } else if deletion.since.elapsed() >= deletion.limit {
            warn!(
                "the dataplane has not confirmed that Services no longer use the pod; it is stopped all the same"
            );
            self.memory.endpoints_acknowledged = true;
        }
    }

    /// A service loop that works answers at once; one that is in trouble is waited for as long as the pod may take to go.
    fn acknowledge_limit(&self, pod: &Pod) -> Duration {
        let states = self.shared.ctx.health.watch();
        if matches!(states.borrow().get(subsystem::SERVICES), Some(Ok(()))) {
            return ACKNOWLEDGE;
        }
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        Duration::from_secs(u64::try_from(grace).unwrap_or_default()).clamp(ACKNOWLEDGE, ACKNOWLEDGE_LONGEST)
    }
}
