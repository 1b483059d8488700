//! Tables over one base pod, and a perfect runtime that applies whatever is planned.

mod described;
mod ends;
mod refused;
mod runtime;
mod strays;
mod words;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::*;
use runtime::Runtime;
use serde_json::{Value, json};

use super::{
    backoff::{self, Backoffs},
    containers::Ended,
    observed::*,
    plan::{Kill, Plan, Step, plan},
    spec, status as pod_status, validate,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("time")
}

fn pod(spec: Value) -> Pod {
    let object = json!({"metadata": {"name": "web", "namespace": "default", "uid": "u1"}, "spec": spec});
    serde_json::from_value(object).expect("a Pod")
}

fn simple() -> Pod {
    pod(json!({"containers": [{"name": "c", "image": "i:1"}]}))
}

fn with_policy(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}]}))
}

fn ready_machine() -> Observed {
    let image = ImageState {
        present: true,
        pull: Pull::Idle,
    };
    Observed {
        cgroup: Prepared::Yes,
        volumes: Prepared::Yes,
        sandboxes: vec![Sandbox {
            id: "s0".into(),
            attempt: 0,
            ready: true,
            created_at: at(0),
            ips: vec![IpAddr::from([10, 244, 0, 5])],
        }],
        images: [("i:1".to_owned(), image.clone()), ("i:2".to_owned(), image)].into(),
        endpoints_acknowledged: true,
        ..Observed::default()
    }
}

fn container(pod: &Pod, name: &str, attempt: u32, state: State) -> Container {
    let spec = pod.spec.as_ref().expect("spec");
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let of = all
        .into_iter()
        .find(|container| container.name == name)
        .expect("a container");
    Container {
        id: format!("{name}{attempt}"),
        name: name.into(),
        attempt,
        sandbox: "s0".into(),
        state,
        hash: spec::container_hash(of),
        image: of.image.clone().unwrap_or_default(),
        image_id: "sha256:1".into(),
        created_at: at(1),
        started_at: Some(at(1)),
        finished_at: (state == State::Exited).then(|| at(5)),
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        startup: None,
        readiness: None,
        liveness: None,
    }
}

fn exited(pod: &Pod, name: &str, attempt: u32, code: i32) -> Container {
    Container {
        exit_code: code,
        ..container(pod, name, attempt, State::Exited)
    }
}

fn planned(pod: &Pod, observed: &Observed) -> Plan {
    plan(pod, observed, &Backoffs::default(), at(10))
}

fn said(pod: &Pod, observed: &Observed) -> PodStatus {
    pod_status(pod, observed, &Backoffs::default(), at(10))
}

fn deleted(mut pod: Pod, grace: i64) -> Pod {
    pod.metadata.deletion_timestamp = Some(Time(at(10)));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

fn waiting_reason(status: &PodStatus) -> Option<String> {
    status.container_statuses.as_ref()?[0]
        .state
        .as_ref()?
        .waiting
        .as_ref()?
        .reason
        .clone()
}

fn condition(status: &PodStatus, kind: &str) -> (String, Option<String>) {
    let conditions = status.conditions.as_ref().expect("conditions");
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .expect("the condition");
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn a_new_pod_gets_its_cgroup_and_volumes_then_its_sandbox_then_its_containers() {
    let mut observed = Observed {
        images: ready_machine().images,
        ..Observed::default()
    };
    assert_eq!(
        planned(&simple(), &observed).steps,
        [Step::PrepareCgroup, Step::PrepareVolumes]
    );
    observed.cgroup = Prepared::Yes;
    let steps = planned(&simple(), &observed).steps;
    assert!(
        steps.contains(&Step::RunSandbox {
            attempt: 0,
            replaces: vec![]
        }),
        "{steps:?}"
    );
    let ready = planned(&simple(), &ready_machine()).steps;
    assert_eq!(
        ready,
        [Step::Start {
            name: "c".into(),
            attempt: 0
        }]
    );
}

#[test]
fn without_a_network_nothing_is_made_unless_the_pod_uses_the_hosts() {
    let observed = Observed {
        network: Some("no config".into()),
        ..Observed::default()
    };
    assert_eq!(planned(&simple(), &observed).steps, []);
    let host = pod(json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i:1"}]}));
    assert!(!planned(&host, &observed).steps.is_empty());
}

#[test]
fn init_containers_run_one_after_the_other_before_the_rest() {
    let pod = pod(
        json!({"initContainers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}],
                         "containers": [{"name": "c", "image": "i:1"}]}),
    );
    let mut observed = ready_machine();
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::Start {
            name: "a".into(),
            attempt: 0
        }]
    );
    observed.containers.push(container(&pod, "a", 0, State::Running));
    assert_eq!(planned(&pod, &observed).steps, []);
    observed.containers = vec![exited(&pod, "a", 0, 0)];
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::Start {
            name: "b".into(),
            attempt: 0
        }]
    );
    observed.containers.push(exited(&pod, "b", 0, 0));
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::Start {
            name: "c".into(),
            attempt: 0
        }]
    );
}

#[test]
fn init_containers_are_not_run_again_once_a_regular_container_started() {
    let pod = pod(
        json!({"initContainers": [{"name": "a", "image": "i:1"}], "containers": [{"name": "c", "image": "i:1"}]}),
    );
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    assert_eq!(
        planned(&pod, &observed).steps,
        [],
        "the dead init container's record was removed by somebody"
    );
}

#[test]
fn init_containers_run_again_in_a_new_sandbox() {
    let pod = pod(
        json!({"initContainers": [{"name": "a", "image": "i:1"}], "containers": [{"name": "c", "image": "i:1"}]}),
    );
    let mut observed = ready_machine();
    observed.containers = vec![exited(&pod, "a", 0, 0), exited(&pod, "c", 0, 1)];
    observed.sandboxes[0].ready = false;
    observed.sandboxes.push(Sandbox {
        id: "s1".into(),
        attempt: 1,
        ..ready_machine().sandboxes[0].clone()
    });
    assert!(planned(&pod, &observed).steps.contains(&Step::Start {
        name: "a".into(),
        attempt: 1
    }));
}

#[test]
fn a_crashed_container_restarts_at_once_and_then_waits() {
    let pod = simple();
    let mut observed = ready_machine();
    observed.containers = vec![exited(&pod, "c", 0, 1)];
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::Start {
            name: "c".into(),
            attempt: 1
        }]
    );
    let mut backoffs = Backoffs::default();
    backoffs.restarted(&backoff::key("c", "i:1"), Some(at(1)), at(5));
    observed.containers = vec![exited(&pod, "c", 1, 1)];
    let waits = plan(&pod, &observed, &backoffs, at(10));
    assert_eq!(waits.steps, []);
    assert_eq!(waits.wake_at, Some(at(15)));
    let status = pod_status(&pod, &observed, &backoffs, at(10));
    assert_eq!(waiting_reason(&status).as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.container_statuses.expect("statuses")[0].restart_count, 1);
}

#[test]
fn the_restart_policy_decides_what_an_end_means() {
    for (policy, code, restarts, phase) in [
        ("Always", 0, true, "Running"),
        ("OnFailure", 0, false, "Succeeded"),
        ("OnFailure", 1, true, "Running"),
        ("Never", 0, false, "Succeeded"),
        ("Never", 1, false, "Failed"),
    ] {
        let pod = with_policy(policy);
        let mut observed = ready_machine();
        observed.containers = vec![exited(&pod, "c", 0, code)];
        let steps = planned(&pod, &observed).steps;
        assert_eq!(
            steps.contains(&Step::Start {
                name: "c".into(),
                attempt: 1
            }),
            restarts,
            "{policy} {code}"
        );
        assert_eq!(
            steps.contains(&Step::MarkTerminated),
            !restarts,
            "{policy} {code}"
        );
        assert_eq!(
            said(&pod, &observed).phase.as_deref(),
            Some(phase),
            "{policy} {code}"
        );
    }
}

#[test]
fn a_pod_that_is_over_never_starts_anything_again() {
    let pod = with_policy("Always");
    let mut observed = ready_machine();
    observed.terminated = true;
    observed.containers = vec![exited(&pod, "c", 0, 1)];
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::StopSandbox { id: "s0".into() }]
    );
}

#[test]
fn a_dead_sandbox_is_replaced_and_counted() {
    let pod = simple();
    let mut observed = ready_machine();
    observed.sandboxes[0].ready = false;
    observed.containers = vec![exited(&pod, "c", 0, 137)];
    let steps = planned(&pod, &observed).steps;
    assert_eq!(
        steps,
        [Step::RunSandbox {
            attempt: 1,
            replaces: vec!["s0".into()]
        }]
    );
}

#[test]
fn a_changed_image_restarts_the_container_in_place() {
    let before = simple();
    let after = pod(json!({"containers": [{"name": "c", "image": "i:2"}]}));
    let mut observed = ready_machine();
    observed.containers = vec![container(&before, "c", 0, State::Running)];
    let kill = Kill {
        name: "c".into(),
        id: "c0".into(),
        grace: 30,
        why: Ended::Changed,
    };
    assert_eq!(planned(&after, &observed).steps, [Step::Kill(kill)]);
}

#[test]
fn a_failed_probe_ends_the_container_with_the_probes_own_grace() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i:1",
        "livenessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 7}}]}));
    let mut observed = ready_machine();
    observed.containers = vec![Container {
        liveness: Some(false),
        ..container(&pod, "c", 0, State::Running)
    }];
    let kill = Kill {
        name: "c".into(),
        id: "c0".into(),
        grace: 7,
        why: Ended::Liveness,
    };
    assert_eq!(planned(&pod, &observed).steps, [Step::Kill(kill)]);
}

#[test]
fn a_container_left_half_made_by_an_earlier_life_is_started() {
    let pod = simple();
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Created)];
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::StartCreated {
            name: "c".into(),
            id: "c0".into()
        }]
    );
}

#[test]
fn missing_images_and_keys_wait_with_kubernetes_own_reasons_and_others_go_on() {
    let pod = pod(json!({"containers": [
        {"name": "c", "image": "nope:1", "imagePullPolicy": "Never"}, {"name": "d", "image": "i:1"}, {"name": "e", "image": "i:1"}]}));
    let mut observed = ready_machine();
    observed
        .config_errors
        .insert("e".into(), "configmap \"x\" not found".into());
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::Start {
            name: "d".into(),
            attempt: 0
        }]
    );
    let status = said(&pod, &observed);
    let reasons: Vec<_> = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .collect();
    assert_eq!(
        reasons,
        [
            "ErrImageNeverPull",
            "ContainerCreating",
            "CreateContainerConfigError"
        ]
    );
}

#[test]
fn an_absent_image_is_pulled_and_a_failed_pull_waits() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "far:1"}]}));
    let mut observed = ready_machine();
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::Pull {
            image: "far:1".into()
        }]
    );
    let trouble = Trouble {
        message: "no registry".into(),
        retry_at: at(20),
    };
    observed.images.insert(
        "far:1".into(),
        ImageState {
            present: false,
            pull: Pull::Failed(trouble),
        },
    );
    let plan = planned(&pod, &observed);
    assert_eq!((plan.steps, plan.wake_at), (vec![], Some(at(20))));
    assert_eq!(
        waiting_reason(&said(&pod, &observed)).as_deref(),
        Some("ImagePullBackOff")
    );
}

#[test]
fn readiness_needs_the_probe_and_the_conditions_say_who_is_missing() {
    let pod = pod(
        json!({"containers": [{"name": "c", "image": "i:1", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
    );
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    let status = said(&pod, &observed);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(
        condition(&status, "Ready"),
        ("False".into(), Some("ContainersNotReady".into()))
    );
    observed.containers[0].readiness = Some(true);
    let status = said(&pod, &observed);
    assert_eq!(condition(&status, "Ready"), ("True".into(), None));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.5"));
}

#[test]
fn a_transition_time_changes_only_with_the_status() {
    let mut pod = simple();
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    pod.status = Some(pod_status(&pod, &observed, &Backoffs::default(), at(10)));
    let later = pod_status(&pod, &observed, &Backoffs::default(), at(99));
    assert_eq!(Some(&later), pod.status.as_ref());
}

#[test]
fn a_terminating_pod_waits_for_its_endpoints_then_ends_containers_sandbox_and_all() {
    let pod = deleted(simple(), 30);
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    observed.endpoints_acknowledged = false;
    assert_eq!(planned(&pod, &observed).steps, [], "traffic must have left first");
    observed.endpoints_acknowledged = true;
    let kill = Kill {
        name: "c".into(),
        id: "c0".into(),
        grace: 30,
        why: Ended::Pod,
    };
    assert_eq!(planned(&pod, &observed).steps, [Step::Kill(kill)]);
    observed.killing.insert("c0".into(), at(40));
    assert_eq!(planned(&pod, &observed).steps, [], "once is enough");
    observed.containers = vec![exited(&pod, "c", 0, 0)];
    observed.killing.clear();
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::StopSandbox { id: "s0".into() }]
    );
    observed.sandboxes[0].ready = false;
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::RemoveSandbox { id: "s0".into() }]
    );
    observed.sandboxes.clear();
    assert_eq!(planned(&pod, &observed).steps, [Step::Release]);
    (observed.cgroup, observed.volumes) = (Prepared::No, Prepared::No);
    assert_eq!(planned(&pod, &observed).steps, [Step::Finish]);
}

#[test]
fn a_shortened_grace_is_heeded_and_force_waits_for_nobody() {
    let mut observed = ready_machine();
    observed.containers = vec![container(&simple(), "c", 0, State::Running)];
    observed.killing.insert("c0".into(), at(40));
    let shorter = planned(&deleted(simple(), 5), &observed).steps;
    assert!(
        matches!(&shorter[..], [Step::Kill(Kill { grace: 5, .. })]),
        "{shorter:?}"
    );
    observed.killing.clear();
    observed.endpoints_acknowledged = false;
    let forced = planned(&deleted(simple(), 0), &observed).steps;
    assert!(
        matches!(&forced[..], [Step::Kill(Kill { grace: 0, .. })]),
        "{forced:?}"
    );
}

#[test]
fn a_pod_past_its_deadline_fails() {
    let mut pod = pod(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "c", "image": "i:1"}]}));
    pod.status = Some(PodStatus {
        start_time: Some(Time(at(0))),
        ..PodStatus::default()
    });
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    assert!(planned(&pod, &observed).steps.contains(&Step::MarkTerminated));
    let status = said(&pod, &observed);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn a_rejected_pod_fails_with_the_reason_and_runs_nothing() {
    let observed = Observed {
        rejected: Some(("PodFeatureUnsupported".into(), "spec.x".into())),
        ..Observed::default()
    };
    let steps = planned(&simple(), &observed).steps;
    assert!(
        steps.iter().all(|step| matches!(step, Step::MarkTerminated)),
        "{steps:?}"
    );
    let status = said(&simple(), &observed);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("PodFeatureUnsupported"))
    );
}

#[test]
fn a_field_that_is_not_implemented_is_refused_by_its_path() {
    let pod = pod(json!({"runtimeClassName": "x", "containers": [
        {"name": "c", "image": "i:1", "lifecycle": {"stopSignal": "SIGINT"}, "ports": [{"containerPort": 80, "hostPort": 80}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "p"}}]}));
    let paths: Vec<_> = validate::validate(&pod)
        .into_iter()
        .map(|error| error.path)
        .collect();
    for path in [
        "spec.runtimeClassName",
        "spec.containers[0].lifecycle.stopSignal",
        "spec.containers[0].ports[0].hostPort",
        "spec.volumes[0].persistentVolumeClaim.claimName",
    ] {
        assert!(paths.iter().any(|found| found == path), "{path} in {paths:?}");
    }
}

#[test]
fn what_kubernetes_refuses_is_refused_with_its_path() {
    let cases = [
        (json!({"containers": []}), "spec.containers"),
        (
            json!({"containers": [{"name": "C", "image": "i"}]}),
            "spec.containers[0].name",
        ),
        (json!({"containers": [{"name": "c"}]}), "spec.containers[0].image"),
        (
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
            "spec.containers[1].name",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
            "spec.containers[0].volumeMounts[0].name",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
            "spec.containers[0].resources.requests[cpu]",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {"periodSeconds": 5}}]}),
            "spec.containers[0].livenessProbe",
        ),
        (
            json!({"restartPolicy": "Sometimes", "containers": [{"name": "c", "image": "i"}]}),
            "spec.restartPolicy",
        ),
    ];
    for (spec, path) in cases {
        let errors = validate::validate(&pod(spec));
        assert!(
            errors.iter().any(|error| error.path == path),
            "{path}: {errors:?}"
        );
    }
    assert_eq!(validate::validate(&simple()), []);
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Created),
        Just(State::Running),
        Just(State::Exited),
        Just(State::Unknown)
    ]
}

fn any_observed() -> impl Strategy<Value = (String, Observed)> {
    let record = (
        prop_oneof![Just("a"), Just("c"), Just("d")],
        0_u32..3,
        any_state(),
        0_i32..2,
        0_usize..3,
        any::<bool>(),
    );
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (
        policy,
        proptest::collection::vec(any::<bool>(), 0..3),
        proptest::collection::vec(record, 0..6),
    )
        .prop_map(|(policy, sandboxes, records)| {
            let pod = three(policy);
            let mut observed = Observed {
                sandboxes: vec![],
                ..ready_machine()
            };
            for (attempt, ready) in sandboxes.iter().enumerate() {
                let base = ready_machine().sandboxes[0].clone();
                observed.sandboxes.push(Sandbox {
                    id: format!("s{attempt}"),
                    attempt: attempt as u32,
                    ready: *ready,
                    ..base
                });
            }
            for (index, (name, attempt, state, code, sandbox, changed)) in records.into_iter().enumerate() {
                let Some(sandbox) = observed.sandboxes.get(sandbox) else {
                    continue;
                };
                // A container cannot run in a sandbox that does not.
                let state = if sandbox.ready || state != State::Running {
                    state
                } else {
                    State::Exited
                };
                let base = container(&pod, name, attempt, state);
                let record = Container {
                    id: format!("r{index}"),
                    sandbox: sandbox.id.clone(),
                    exit_code: code,
                    hash: if changed { "0".into() } else { base.hash.clone() },
                    ..base
                };
                observed.containers.push(record);
            }
            (policy.to_owned(), observed)
        })
}

fn three(policy: &str) -> Pod {
    pod(
        json!({"restartPolicy": policy, "initContainers": [{"name": "a", "image": "i:1"}],
               "containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]}),
    )
}

proptest! {
    #[test]
    fn from_any_state_a_perfect_runtime_comes_to_rest((policy, observed) in any_observed()) {
        let mut runtime = Runtime::new(three(&policy), observed);
        runtime.settle();
        let observed = &runtime.observed;
        let over = observed.terminated;
        let live = observed.sandbox().map(|sandbox| sandbox.id.clone());
        for name in ["c", "d"] {
            let latest = observed.latest(name);
            let running: Vec<_> = observed.of(name).filter(|c| c.is_alive()).collect();
            let runs = running.len() == 1 && live.as_ref() == Some(&running[0].sandbox);
            // Ended well under OnFailure is ended for good, also when the other must run on.
            let for_good = latest.is_some_and(|c| policy == "Never" || policy == "OnFailure" && c.exit_code == 0);
            prop_assert!(if over { running.is_empty() } else { runs || for_good && running.is_empty() }, "{policy}: {:?}", observed.containers);
            let current = spec::container_hash(&runtime.pod.spec.as_ref().expect("spec").containers[0]);
            prop_assert!(name != "c" || over || latest.is_some_and(|c| c.hash == current), "{policy}: an old image is left");
        }
        prop_assert!(observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count() <= 1);
    }

    #[test]
    fn from_any_state_a_deleted_pod_leaves_nothing((policy, observed) in any_observed()) {
        let mut runtime = Runtime::new(deleted(three(&policy), 30), observed);
        runtime.settle();
        prop_assert!(runtime.finished);
        prop_assert!(runtime.observed.containers.is_empty() && runtime.observed.sandboxes.is_empty());
    }

    #[test]
    fn the_order_of_records_means_nothing((policy, observed) in any_observed()) {
        let mut reversed = observed.clone();
        reversed.containers.reverse();
        reversed.sandboxes.reverse();
        let sorted = |observed: &Observed| {
            let plan = planned(&three(&policy), observed);
            let mut steps: Vec<_> = plan.steps.iter().map(|s| format!("{s:?}")).collect();
            steps.sort();
            (steps, plan.wake_at)
        };
        prop_assert_eq!(sorted(&observed), sorted(&reversed));
        prop_assert_eq!(said(&three(&policy), &observed), said(&three(&policy), &reversed));
    }

    #[test]
    fn no_step_stands_twice_in_a_plan((policy, observed) in any_observed(), delete in any::<bool>()) {
        let pod = if delete { deleted(three(&policy), 30) } else { three(&policy) };
        let steps = planned(&pod, &observed).steps;
        for (index, step) in steps.iter().enumerate() {
            prop_assert!(!steps[..index].contains(step), "{:?}", steps);
        }
    }

    #[test]
    fn a_status_told_again_is_the_same((policy, observed) in any_observed(), gone in any::<bool>()) {
        let mut pod = three(&policy);
        pod.status = Some(said(&pod, &observed));
        let observed = if gone { Observed { containers: vec![], ..observed } } else { observed };
        pod.status = Some(said(&pod, &observed));
        let again = pod_status(&pod, &observed, &Backoffs::default(), at(99));
        prop_assert_eq!(Some(&again), pod.status.as_ref());
    }

    #[test]
    fn a_terminal_phase_never_changes((policy, observed) in any_observed(), failed in any::<bool>()) {
        let mut pod = three(&policy);
        let phase = if failed { "Failed" } else { "Succeeded" };
        pod.status = Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() });
        let status = said(&pod, &observed);
        prop_assert_eq!(status.phase.as_deref(), Some(phase));
    }
}

/// Time in the tests moves by hand.
fn later(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(seconds)).expect("time")
}
