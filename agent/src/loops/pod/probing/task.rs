//! One probe of one container: its rhythm, its counting, whom it asks.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::time::{Instant, sleep_until};

use super::{super::roster::Poke, Board, Kind, Prober, Subject, Teller};
use crate::doors::{
    cri::{ErrorKind, Runtime},
    probes::{Http, Outcome, Target},
};

/// First wait of the early tries.
const EARLY: Duration = Duration::from_millis(100);
/// A probe that could not be carried out at all is tried so often before it is left for the next time.
pub(super) const TRIES: usize = 3;

/// Consecutive outcomes, and the verdict they add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    verdict: Option<bool>,
    last: Option<bool>,
    run: i32,
    successes: i32,
    failures: i32,
}

impl Counter {
    /// With the verdict from before, where there is one.
    pub(super) fn new(probe: &Probe, verdict: Option<bool>) -> Self {
        Self {
            verdict,
            last: None,
            run: 0,
            successes: probe.success_threshold.unwrap_or(1).max(1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }

    /// Take an outcome in; returns whether the verdict changed.
    pub(super) fn note(&mut self, good: bool) -> bool {
        self.run = if self.last == Some(good) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(good);
        let needed = if good { self.successes } else { self.failures };
        self.run >= needed && self.verdict.replace(good) != Some(good)
    }
}

/// A probe at work.
pub(super) struct Task {
    pub(super) subject: Subject,
    pub(super) kind: Kind,
    pub(super) probe: Probe,
    pub(super) counter: Counter,
    pub(super) board: Board,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) prober: Arc<dyn Prober>,
    pub(super) poke: Poke,
    pub(super) tell: Teller,
}

impl Task {
    /// Until the last word was said.
    pub(super) async fn run(mut self) {
        let period = seconds(self.probe.period_seconds, 10);
        let delay =
            Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let first = (self.subject.started + delay).max(Instant::now());
        let mut next = first;
        let mut early = EARLY;
        loop {
            sleep_until(next).await;
            let asked = Instant::now();
            let outcome = self.ask().await;
            // Only before the first verdict, and only within the first period.
            let hurry = self.kind != Kind::Liveness
                && self.counter.verdict.is_none()
                && asked + early < first + period
                && matches!(outcome, Some(Outcome::Failure(_)));
            if hurry {
                next = asked + early;
                early *= 2;
                continue;
            }
            if let Some(outcome) = outcome
                && self.note(outcome)
            {
                return;
            }
            // A fixed rhythm; what took longer than the period is not caught up with.
            next = (asked + period).max(Instant::now());
        }
    }

    /// Count and tell; returns whether this was the last word.
    fn note(&mut self, outcome: Outcome) -> bool {
        let name = self.kind.name();
        let good = match outcome {
            Outcome::Success(None) => true,
            Outcome::Success(Some(warning)) => {
                (self.tell)(
                    &self.subject,
                    self.kind,
                    format!("{name} probe warning: {warning}"),
                );
                true
            }
            Outcome::Failure(message) => {
                (self.tell)(
                    &self.subject,
                    self.kind,
                    format!("{name} probe failed: {message}"),
                );
                false
            }
        };
        if !self.counter.note(good) {
            return false;
        }
        self.board.set(&self.subject.id, self.kind, good);
        self.poke.poke();
        match self.kind {
            Kind::Startup => true,
            Kind::Liveness => !good,
            Kind::Readiness => false,
        }
    }

    /// Ask once. `None`: it could not be asked, which says nothing of the container.
    async fn ask(&self) -> Option<Outcome> {
        let limit = seconds(self.probe.timeout_seconds, 1);
        if let Some(command) = self.probe.exec.as_ref().and_then(|exec| exec.command.as_ref()) {
            for _ in 0..TRIES {
                if let Some(outcome) = self.exec(command, limit).await {
                    return Some(outcome);
                }
            }
            return None;
        }
        match target(&self.probe, &self.subject) {
            Ok(target) => Some(self.prober.probe(&target, limit).await),
            Err(message) => Some(Outcome::Failure(message)),
        }
    }

    async fn exec(&self, command: &[String], limit: Duration) -> Option<Outcome> {
        match self.runtime.exec(&self.subject.id, command, limit).await {
            Ok(output) if output.code == 0 => Some(Outcome::Success(None)),
            Ok(output) => Some(Outcome::Failure(output.text.trim_end().to_owned())),
            Err(error) if error.kind == ErrorKind::Timeout => {
                let limit = limit.as_secs();
                Some(Outcome::Failure(format!(
                    "command {command:?} timed out after {limit} s"
                )))
            }
            Err(error) => {
                tracing::debug!(%error, "exec probe could not be carried out");
                None
            }
        }
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value
        .and_then(|value| u64::try_from(value).ok())
        .filter(|value| *value > 0);
    Duration::from_secs(value.unwrap_or(default))
}

/// Whom a network probe asks.
pub(super) fn target(probe: &Probe, subject: &Subject) -> Result<Target, String> {
    let host = |own: Option<&String>| {
        own.filter(|host| !host.is_empty())
            .unwrap_or(&subject.address)
            .clone()
    };
    if let Some(get) = &probe.http_get {
        return Ok(Target::Http(Http {
            tls: get.scheme.as_deref() == Some("HTTPS"),
            host: host(get.host.as_ref()),
            port: port(&get.port, &subject.container)?,
            path: get
                .path
                .clone()
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| "/".to_owned()),
            headers: get
                .http_headers
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        }));
    }
    if let Some(socket) = &probe.tcp_socket {
        return Ok(Target::Tcp {
            host: host(socket.host.as_ref()),
            port: port(&socket.port, &subject.container)?,
        });
    }
    if let Some(grpc) = &probe.grpc {
        return Ok(Target::Grpc {
            host: subject.address.clone(),
            port: u16::try_from(grpc.port).map_err(|_| format!("{} is no port", grpc.port))?,
            service: grpc.service.clone().unwrap_or_default(),
        });
    }
    Err("it says nothing of how to probe: exec, httpGet, tcpSocket or grpc".to_owned())
}

/// A port by number, or by its name in the container.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                let named = container
                    .ports
                    .iter()
                    .flatten()
                    .find(|port| port.name.as_ref() == Some(name));
                named
                    .ok_or_else(|| format!("container {:?} has no port {name:?}", container.name))?
                    .container_port
            }
        },
    };
    u16::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("{number} is no port"))
}
