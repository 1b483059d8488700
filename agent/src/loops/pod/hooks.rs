//! What a container is told around its life: postStart after its start, preStop and the stop signal at its end.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tokio::time::{Instant, sleep, timeout};

use super::probing::{Prober, port};
use crate::doors::{
    cri::{Error, Runtime},
    probes::{Http, Outcome, Target},
};

/// However long the hook took, the process gets this long between its signal and SIGKILL.
const FLOOR: Duration = Duration::from_secs(2);
/// A request of a hook that has no limit of its own.
const REQUEST: Duration = Duration::from_secs(600);

/// A hook of a container.
pub struct Run {
    /// Runs commands.
    pub runtime: Arc<dyn Runtime>,
    /// Sends requests.
    pub prober: Arc<dyn Prober>,
    /// The container's part of the pod.
    pub container: Container,
    /// Its id.
    pub id: String,
    /// Where requests go that name no host.
    pub address: String,
}

impl Run {
    /// Run it; an `Err` is what the user is told.
    pub async fn run(&self, handler: &LifecycleHandler, limit: Option<Duration>) -> Result<(), String> {
        let work = self.work(handler, limit);
        match limit {
            None => work.await,
            Some(limit) => timeout(limit, work)
                .await
                .unwrap_or_else(|_| Err(format!("the hook did not end within {} s", limit.as_secs()))),
        }
    }

    async fn work(&self, handler: &LifecycleHandler, limit: Option<Duration>) -> Result<(), String> {
        if let Some(pause) = &handler.sleep {
            sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(command) = handler.exec.as_ref().and_then(|exec| exec.command.as_ref()) {
            let output = self
                .runtime
                .exec(&self.id, command, limit.unwrap_or_default())
                .await;
            let output = output.map_err(|error| error.to_string())?;
            if output.code == 0 {
                return Ok(());
            }
            let (code, text) = (output.code, output.text.trim_end().to_owned());
            return Err(format!("command {command:?} exited with {code}: {text}"));
        }
        let Some(get) = &handler.http_get else {
            return Err("it says nothing of what to do: exec, httpGet or sleep".to_owned());
        };
        let request = Http {
            tls: get.scheme.as_deref() == Some("HTTPS"),
            host: get
                .host
                .clone()
                .filter(|host| !host.is_empty())
                .unwrap_or_else(|| self.address.clone()),
            port: port(&get.port, &self.container)?,
            path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers: get
                .http_headers
                .iter()
                .flatten()
                .map(|one| (one.name.clone(), one.value.clone()))
                .collect(),
        };
        match self
            .prober
            .probe(&Target::Http(request), limit.unwrap_or(REQUEST))
            .await
        {
            Outcome::Success(_) => Ok(()),
            Outcome::Failure(message) => Err(message),
        }
    }
}

/// The end of a container.
pub struct Ending {
    /// Runs commands, and stops.
    pub runtime: Arc<dyn Runtime>,
    /// Sends requests.
    pub prober: Arc<dyn Prober>,
    /// Its part of the pod, where the pod still has it.
    pub container: Option<Container>,
    /// What to do before the signal.
    pub hook: Option<LifecycleHandler>,
    /// Its id.
    pub id: String,
    /// Where requests go that name no host.
    pub address: String,
    /// Until SIGKILL.
    pub grace: Duration,
}

impl Ending {
    /// Hook, signal, SIGKILL: all within the grace. Returns how the hook went, and how the stop.
    pub async fn end(self) -> (Result<(), String>, Result<(), Error>) {
        let start = Instant::now();
        let mut hooked = Ok(());
        if !self.grace.is_zero()
            && let (Some(container), Some(handler)) = (self.container, &self.hook)
        {
            let run = Run {
                runtime: self.runtime.clone(),
                prober: self.prober,
                container,
                id: self.id.clone(),
                address: self.address,
            };
            hooked = run.run(handler, Some(self.grace)).await;
        }
        let left = match self.hook {
            _ if self.grace.is_zero() => Duration::ZERO,
            None => self.grace,
            Some(_) => self.grace.saturating_sub(start.elapsed()).max(FLOOR),
        };
        (hooked, self.runtime.stop(&self.id, left).await)
    }
}
