//! A runtime that does what it is told at once and never fails; containers of `a` end well, all others run on.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    Backoffs, Container, Observed, Plan, Prepared, Sandbox, State, Step, at, container, later, plan,
    ready_machine,
};

/// More rounds than any pod of the tests needs.
const ROUNDS: usize = 60;

pub(super) struct Runtime {
    pub(super) pod: Pod,
    pub(super) observed: Observed,
    pub(super) finished: bool,
    now: Timestamp,
    made: usize,
}

impl Runtime {
    pub(super) fn new(pod: Pod, observed: Observed) -> Self {
        Self {
            pod,
            observed,
            finished: false,
            now: at(10),
            made: 0,
        }
    }

    /// Plan and apply until there is nothing to do; panics if that never happens.
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS {
            if self.finished {
                return;
            }
            let Plan { steps, wake_at } = plan(&self.pod, &self.observed, &Backoffs::default(), self.now);
            if steps.is_empty() {
                match wake_at {
                    Some(time) => self.now = time,
                    None if self.end_inits() => {}
                    None => return,
                }
            }
            for step in steps {
                self.apply(step);
            }
            self.now = later(self.now, 1);
        }
        panic!(
            "never at rest: {:?}",
            plan(&self.pod, &self.observed, &Backoffs::default(), self.now)
        );
    }

    /// Containers of `a` that were running from the start end now. Returns whether there were any.
    fn end_inits(&mut self) -> bool {
        let running = self
            .observed
            .containers
            .iter_mut()
            .filter(|c| c.name == "a" && c.state == State::Running);
        running.map(run).count() > 0
    }

    fn apply(&mut self, step: Step) {
        let Observed {
            containers,
            sandboxes,
            ..
        } = &mut self.observed;
        match step {
            Step::PrepareCgroup => self.observed.cgroup = Prepared::Yes,
            Step::PrepareVolumes => self.observed.volumes = Prepared::Yes,
            Step::Pull { image } => self.observed.images.entry(image).or_default().present = true,
            Step::RunSandbox { attempt, replaces } => {
                let alive = containers.iter().any(Container::is_alive);
                assert!(
                    !alive,
                    "what still runs would be ended without grace: {containers:?}"
                );
                sandboxes
                    .iter_mut()
                    .filter(|s| replaces.contains(&s.id))
                    .for_each(|s| s.ready = false);
                let base = ready_machine().sandboxes[0].clone();
                self.made += 1;
                sandboxes.push(Sandbox {
                    id: format!("new{}", self.made),
                    attempt,
                    ..base
                });
            }
            Step::Start { name, attempt } => self.start(&name, attempt),
            Step::StartCreated { id, .. } => {
                containers.iter_mut().filter(|c| c.id == id).for_each(run);
            }
            Step::Kill(kill) => containers.iter_mut().filter(|c| c.id == kill.id).for_each(|c| {
                c.state = State::Exited;
                c.exit_code = 137;
                c.finished_at = Some(self.now);
            }),
            Step::RemoveContainer { id } => containers.retain(|c| c.id != id),
            Step::StopSandbox { id } => {
                let alive = containers.iter().any(|c| c.sandbox == id && c.is_alive());
                assert!(
                    !alive,
                    "what still runs would be ended without grace: {containers:?}"
                );
                sandboxes
                    .iter_mut()
                    .filter(|s| s.id == id)
                    .for_each(|s| s.ready = false);
            }
            Step::RemoveSandbox { id } => {
                sandboxes.retain(|s| s.id != id);
                containers.retain(|c| c.sandbox != id);
            }
            Step::MarkTerminated => self.observed.terminated = true,
            Step::Release => (self.observed.cgroup, self.observed.volumes) = (Prepared::No, Prepared::No),
            Step::Finish => self.finished = true,
        }
    }

    fn start(&mut self, name: &str, attempt: u32) {
        let sandbox = self
            .observed
            .sandbox()
            .expect("a start needs a sandbox")
            .id
            .clone();
        let twice = self.observed.of(name).any(Container::is_alive);
        assert!(!twice, "{name} runs already: {:?}", self.observed.containers);
        self.made += 1;
        let mut made = Container {
            id: format!("new{}", self.made),
            sandbox,
            created_at: self.now,
            ..container(&self.pod, name, attempt, State::Created)
        };
        run(&mut made);
        self.observed.containers.push(made);
    }
}

fn run(container: &mut Container) {
    let ends = container.name == "a";
    container.state = if ends { State::Exited } else { State::Running };
    container.exit_code = 0;
}
