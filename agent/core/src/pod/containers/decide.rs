//! One container's next step.

use k8s_openapi::api::core::v1 as api;

use super::{Decision, Ended, View, Waiting, failed_probe};
use crate::pod::{
    backoff,
    observed::{Container, Prepared, State, Trouble},
    spec,
};

impl<'a> View<'a> {
    /// What a container of the pod should do now, with the pod meant to run.
    pub fn decide(&self, container: &'a api::Container, init: bool) -> Decision {
        let Some(latest) = self.observed.latest(&container.name) else {
            return self.start(container, self.attempt_without_record(&container.name));
        };
        let here = self
            .observed
            .sandbox()
            .is_some_and(|sandbox| sandbox.id == latest.sandbox);
        match latest.state {
            State::Created if here && latest.hash == spec::container_hash(container) => self
                .startable(container)
                .map_or_else(Decision::Wait, |()| Decision::StartCreated {
                    id: latest.id.clone(),
                }),
            State::Created => Decision::Remove {
                id: latest.id.clone(),
            },
            State::Running | State::Unknown if self.observed.killing.contains_key(&latest.id) => {
                Decision::Leave
            }
            State::Running => self
                .ended(container, latest, here)
                .map_or(Decision::Leave, |why| self.kill(latest, why)),
            State::Unknown => self.kill(latest, Ended::Lost),
            State::Exited if init && here && latest.exit_code == 0 => Decision::Leave,
            State::Exited if !here && init => self.start(container, latest.attempt + 1),
            State::Exited if self.restarts(container, init, latest) => self.restart(container, latest),
            State::Exited => Decision::Leave,
        }
    }

    pub(in crate::pod) fn kill(&self, container: &Container, why: Ended) -> Decision {
        Decision::Kill {
            id: container.id.clone(),
            why,
        }
    }

    fn ended(&self, container: &api::Container, latest: &Container, here: bool) -> Option<Ended> {
        if !here {
            return Some(Ended::Lost);
        }
        if latest.hash != spec::container_hash(container) {
            return Some(Ended::Changed);
        }
        failed_probe(container, latest)
    }

    fn restart(&self, container: &'a api::Container, latest: &Container) -> Decision {
        let image = container.image.as_deref().unwrap_or_default();
        let key = backoff::key(&container.name, image);
        let finished = latest.finished_at.unwrap_or(latest.created_at);
        match self.backoffs.until(&key, latest.started_at, finished) {
            Some(until) if until > self.now => {
                let seconds = self.backoffs.wait(&key).as_secs();
                let name = &container.name;
                let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
                let message = format!("back-off {seconds}s restarting failed container={name} pod={pod}");
                Decision::Wait(Waiting::until("CrashLoopBackOff", message, until))
            }
            _ => self.start(container, latest.attempt + 1),
        }
    }

    /// Start, if all that a start needs is there.
    fn start(&self, container: &'a api::Container, attempt: u32) -> Decision {
        if let Err(waiting) = self.startable(container) {
            return Decision::Wait(waiting);
        }
        let image = container.image.as_deref().unwrap_or_default();
        match self.image(container, image) {
            Err(decision) => decision,
            Ok(()) => Decision::Start { attempt },
        }
    }

    fn startable(&self, container: &api::Container) -> Result<(), Waiting> {
        let creating = || self.creating(container);
        let network = self
            .observed
            .network
            .as_ref()
            .filter(|_| !self.spec.host_network.unwrap_or(false));
        if let (Some(message), None) = (network, self.observed.sandbox()) {
            return Err(Waiting::new(
                "ContainerCreating",
                format!("network is not ready: {message}"),
            ));
        }
        if self.observed.sandbox().is_none() {
            let trouble = self.observed.sandbox_error.as_ref();
            return Err(trouble.map_or_else(creating, |Trouble { message, retry_at }| {
                Waiting::until("ContainerCreating", message, *retry_at)
            }));
        }
        for prepared in [&self.observed.cgroup, &self.observed.volumes] {
            match prepared {
                Prepared::Yes => {}
                Prepared::No => return Err(creating()),
                Prepared::Failed(Trouble { message, retry_at }) => {
                    return Err(Waiting::until("ContainerCreating", message, *retry_at));
                }
            }
        }
        if let Some(message) = self.observed.config_errors.get(&container.name) {
            return Err(Waiting::new("CreateContainerConfigError", message));
        }
        if let Some(error) = self
            .observed
            .start_errors
            .get(&container.name)
            .filter(|e| e.trouble.retry_at > self.now)
        {
            return Err(Waiting::until(
                &error.reason,
                &error.trouble.message,
                error.trouble.retry_at,
            ));
        }
        Ok(())
    }

    /// A container that nothing is wrong with: before its turn, or while things are being made.
    pub fn creating(&self, container: &api::Container) -> Waiting {
        let inits = self.spec.init_containers.as_deref().unwrap_or_default();
        let waits =
            !inits.is_empty() && !inits.iter().any(|init| init.name == container.name) && !self.initialized();
        Waiting::new(
            if waits {
                "PodInitializing"
            } else {
                "ContainerCreating"
            },
            "",
        )
    }
}
