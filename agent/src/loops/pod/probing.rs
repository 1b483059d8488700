//! Probes of running containers: one task each, for as long as the container runs.
//!
//! A task asks, counts, and puts verdicts on a board; the pod's worker is poked when one changes and reads the board.
//! Nothing else is shared. A verdict that ends the container (liveness, startup) ends the task as well: the next
//! container gets a new one.
//!
//! A container that is not ready yet is asked more often than its period says, so that one which starts fast is ready
//! fast: 100 ms after the first try, then ever later. These early failures are not counted and not told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::roster::Poke;
use crate::doors::{
    cri::{ErrorKind, Runtime},
    probes::{Http, Outcome, Target},
};

/// First wait of the early tries.
const EARLY: Duration = Duration::from_millis(100);
/// A probe that could not be carried out at all is tried so often before it is left for the next time.
const TRIES: usize = 3;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Until it succeeds, the other two wait.
    Startup,
    /// Failure: the container is restarted.
    Liveness,
    /// Failure: the pod gets no traffic.
    Readiness,
}

impl Kind {
    /// As it is written in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// A container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Carries out network probes; a fake one in tests.
#[tonic::async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Ask once.
    async fn probe(&self, target: &Target, limit: Duration) -> Outcome;
}

/// The real prober.
pub struct Network;

#[tonic::async_trait]
impl Prober for Network {
    async fn probe(&self, target: &Target, limit: Duration) -> Outcome {
        crate::doors::probes::probe(target, limit).await
    }
}

/// Consecutive outcomes, and the verdict they add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counter {
    verdict: Option<bool>,
    last: Option<bool>,
    run: i32,
    successes: i32,
    failures: i32,
}

impl Counter {
    fn new(probe: &Probe, verdict: Option<bool>) -> Self {
        Self {
            verdict,
            last: None,
            run: 0,
            successes: probe.success_threshold.unwrap_or(1).max(1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }

    /// Take an outcome in; returns whether the verdict changed.
    fn note(&mut self, good: bool) -> bool {
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

/// Verdicts of all probes by container id and kind. What is absent was not decided yet.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<(String, Kind), bool>>>);

impl Board {
    /// A verdict, where there is one.
    pub fn get(&self, container: &str, kind: Kind) -> Option<bool> {
        self.lock().get(&(container.to_owned(), kind)).copied()
    }

    /// Put a verdict up (from a task, or from before a restart of the agent).
    pub fn set(&self, container: &str, kind: Kind, good: bool) {
        self.lock().insert((container.to_owned(), kind), good);
    }

    fn forget(&self, container: &str) {
        self.lock().retain(|(id, _), _| id != container);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, Kind), bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task needs to know.
#[derive(Clone)]
pub struct Subject {
    /// The container's id in the runtime.
    pub id: String,
    /// Its part of the pod.
    pub container: Container,
    /// The pod's address: where probes go that name no host.
    pub address: String,
    /// When it started.
    pub started: Instant,
}

/// Told of failures, for events.
pub type Teller = Arc<dyn Fn(&Subject, Kind, String) + Send + Sync>;

/// The probes of one pod.
pub struct Probes {
    tasks: HashMap<(String, Kind), JoinHandle<()>>,
    /// Verdicts.
    pub board: Board,
    runtime: Arc<dyn Runtime>,
    prober: Arc<dyn Prober>,
    poke: Poke,
    tell: Teller,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Probes {
    /// None yet.
    pub fn new(runtime: Arc<dyn Runtime>, prober: Arc<dyn Prober>, poke: Poke, tell: Teller) -> Self {
        Self {
            tasks: HashMap::new(),
            board: Board::default(),
            runtime,
            prober,
            poke,
            tell,
        }
    }

    /// Let exactly the probes of these containers run. `terminating`: only readiness goes on.
    pub fn keep(&mut self, subjects: &[Subject], terminating: bool) {
        let mut wanted = BTreeSet::new();
        for subject in subjects {
            let started = Kind::Startup.of(&subject.container).is_none()
                || self.board.get(&subject.id, Kind::Startup) == Some(true);
            let kinds: &[Kind] = match (terminating, started) {
                (true, true) => &[Kind::Readiness],
                (true, false) => &[],
                (false, true) => &[Kind::Liveness, Kind::Readiness],
                (false, false) => &[Kind::Startup],
            };
            for &kind in kinds {
                if let Some(probe) = kind.of(&subject.container) {
                    wanted.insert((subject.id.clone(), kind));
                    self.start(subject, kind, probe);
                }
            }
        }
        let board = &self.board;
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        board
            .lock()
            .retain(|(id, _), _| subjects.iter().any(|subject| subject.id == *id));
    }

    /// A container is gone.
    pub fn forget(&mut self, container: &str) {
        self.tasks.retain(|(id, _), task| {
            if id == container {
                task.abort();
            }
            id != container
        });
        self.board.forget(container);
    }

    fn start(&mut self, subject: &Subject, kind: Kind, probe: &Probe) {
        let key = (subject.id.clone(), kind);
        if self.tasks.contains_key(&key) {
            return;
        }
        let task = Task {
            subject: subject.clone(),
            kind,
            probe: probe.clone(),
            counter: Counter::new(probe, self.board.get(&subject.id, kind)),
            board: self.board.clone(),
            runtime: self.runtime.clone(),
            prober: self.prober.clone(),
            poke: self.poke.clone(),
            tell: self.tell.clone(),
        };
        self.tasks.insert(key, tokio::spawn(task.run()));
    }
}

struct Task {
    subject: Subject,
    kind: Kind,
    probe: Probe,
    counter: Counter,
    board: Board,
    runtime: Arc<dyn Runtime>,
    prober: Arc<dyn Prober>,
    poke: Poke,
    tell: Teller,
}

impl Task {
    async fn run(mut self) {
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
fn target(probe: &Probe, subject: &Subject) -> Result<Target, String> {
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

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use k8s_openapi::api::core::v1::{ContainerPort, ExecAction, HTTPGetAction, TCPSocketAction};

    use super::{super::roster, *};
    use crate::doors::cri::{Output, fake::Fake};

    fn probe() -> Probe {
        let socket = TCPSocketAction {
            port: IntOrString::Int(80),
            host: None,
        };
        Probe {
            tcp_socket: Some(socket),
            ..Probe::default()
        }
    }

    #[test]
    fn verdicts_need_their_number_of_equal_outcomes() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..probe()
        };
        let mut counter = Counter::new(&probe, Some(false));
        let changes: Vec<_> = [
            true, false, true, true, true, false, false, true, false, false, false,
        ]
        .into_iter()
        .map(|good| counter.note(good))
        .collect();
        let expected = [
            false, false, false, true, false, false, false, false, false, false, true,
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn ports_are_found_by_number_and_name() {
        let ports = vec![ContainerPort {
            name: Some("web".into()),
            container_port: 8080,
            ..Default::default()
        }];
        let container = Container {
            ports: Some(ports),
            ..Container::default()
        };
        for (given, expected) in [
            (IntOrString::Int(80), Some(80)),
            (IntOrString::String("web".into()), Some(8080)),
            (IntOrString::String("81".into()), Some(81)),
            (IntOrString::String("other".into()), None),
            (IntOrString::Int(0), None),
            (IntOrString::Int(70000), None),
        ] {
            assert_eq!(port(&given, &container).ok(), expected, "{given:?}");
        }
    }

    #[test]
    fn http_probes_go_to_the_pod_unless_they_name_a_host() {
        let get = HTTPGetAction {
            port: IntOrString::Int(80),
            ..Default::default()
        };
        let probe = Probe {
            http_get: Some(get),
            ..Probe::default()
        };
        let Ok(Target::Http(http)) = target(&probe, &subject(&probe)) else {
            panic!("http")
        };
        assert_eq!(http.url(), "http://10.0.0.1:80/");
    }

    fn subject(probe: &Probe) -> Subject {
        let container = Container {
            readiness_probe: Some(probe.clone()),
            ..Container::default()
        };
        Subject {
            id: "c1".into(),
            container,
            address: "10.0.0.1".into(),
            started: Instant::now(),
        }
    }

    /// Answers from a list, then with the last answer for ever.
    struct Script(Mutex<VecDeque<bool>>, AtomicUsize);

    #[tonic::async_trait]
    impl Prober for Script {
        async fn probe(&self, _: &Target, _: Duration) -> Outcome {
            self.1.fetch_add(1, Ordering::SeqCst);
            let mut answers = self.0.lock().expect("lock");
            let good = if answers.len() > 1 {
                answers.pop_front()
            } else {
                answers.front().copied()
            };
            if good == Some(true) {
                Outcome::Success(None)
            } else {
                Outcome::Failure("bad".into())
            }
        }
    }

    type Told = Arc<Mutex<Vec<String>>>;

    fn probes(answers: &[bool], runtime: Fake) -> (Probes, roster::Poked, Told, Arc<Script>) {
        let (poke, poked) = roster::poke();
        let told = Told::default();
        let teller = told.clone();
        let script = Arc::new(Script(
            Mutex::new(answers.iter().copied().collect()),
            AtomicUsize::new(0),
        ));
        let tell: Teller = Arc::new(move |_, _, message| teller.lock().expect("lock").push(message));
        (
            Probes::new(Arc::new(runtime), script.clone(), poke, tell),
            poked,
            told,
            script,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_starts_fast_is_ready_fast_and_silent() {
        let (mut probes, mut poked, told, _) = probes(&[false, false, true], Fake::default());
        let start = Instant::now();
        probes.keep(&[subject(&probe())], false);
        poked.wait().await;
        assert_eq!(probes.board.get("c1", Kind::Readiness), Some(true));
        assert_eq!(
            start.elapsed(),
            Duration::from_millis(300),
            "0, then 100 ms, then 200 ms later"
        );
        assert_eq!(told.lock().expect("lock").len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_counted_and_taken_back() {
        let answers = [true, false, false, false, true];
        let (mut probes, mut poked, told, _) = probes(&answers, Fake::default());
        let start = Instant::now();
        probes.keep(&[subject(&probe())], false);
        poked.wait().await;
        poked.wait().await;
        assert_eq!(probes.board.get("c1", Kind::Readiness), Some(false));
        assert_eq!(start.elapsed().as_secs(), 30);
        assert_eq!(
            *told.lock().expect("lock"),
            vec!["Readiness probe failed: bad"; 3]
        );
        poked.wait().await;
        assert_eq!(probes.board.get("c1", Kind::Readiness), Some(true));
        assert_eq!(start.elapsed().as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_waits_for_startup_and_stops_after_its_verdict() {
        let (mut probes, mut poked, _, script) = probes(&[true, false], Fake::default());
        let mut subject = subject(&probe());
        subject.container.readiness_probe = None;
        subject.container.startup_probe = Some(probe());
        subject.container.liveness_probe = Some(probe());
        let subjects = [subject];
        probes.keep(&subjects, false);
        poked.wait().await;
        assert_eq!(probes.board.get("c1", Kind::Startup), Some(true));
        assert_eq!(probes.board.get("c1", Kind::Liveness), None);
        probes.keep(&subjects, false);
        poked.wait().await;
        assert_eq!(probes.board.get("c1", Kind::Liveness), Some(false));
        let asked = script.1.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(100)).await;
        probes.keep(&subjects, false);
        assert_eq!(
            script.1.load(Ordering::SeqCst),
            asked,
            "the next container gets a new task"
        );
        probes.keep(&[], false);
        assert_eq!(probes.board.get("c1", Kind::Liveness), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_exec_that_cannot_be_run_says_nothing_of_the_container() {
        let runtime = Fake::default();
        runtime.lock().commands.insert(
            "check".into(),
            Output {
                code: 1,
                text: "ill\n".into(),
            },
        );
        let exec = Probe {
            exec: Some(ExecAction {
                command: Some(vec!["check".into()]),
            }),
            failure_threshold: Some(1),
            ..Probe::default()
        };
        for _ in 0..TRIES {
            runtime.fail("exec", ErrorKind::Refused, false);
        }
        let (mut probes, mut poked, told, _) = probes(&[], runtime.clone());
        let mut subject = subject(&exec);
        subject.container.liveness_probe = subject.container.readiness_probe.take();
        let start = Instant::now();
        probes.keep(&[subject], false);
        poked.wait().await;
        assert_eq!(
            start.elapsed().as_secs(),
            10,
            "the first three tries gave nothing"
        );
        assert_eq!(*told.lock().expect("lock"), ["Liveness probe failed: ill"]);
    }
}
