//! Verdicts and their rhythm, with time that only moves when all wait.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::{
    api::core::v1::{ContainerPort, ExecAction, HTTPGetAction, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    super::roster,
    task::{TRIES, target},
    *,
};
use crate::doors::cri::{ErrorKind, Output, fake::Fake};

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
    assert_eq!(
        probes.board.get("c1", Kind::Liveness),
        Some(false),
        "why it was ended is still known"
    );
    probes.board.only(|id| id != "c1");
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
