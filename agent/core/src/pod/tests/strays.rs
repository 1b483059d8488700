//! What should not be there: duplicates, containers without a sandbox, records that somebody removed.

use super::*;

fn second_sandbox(observed: &mut Observed, first_ready: bool) {
    observed.sandboxes[0].ready = first_ready;
    observed.sandboxes.push(Sandbox {
        id: "s1".into(),
        attempt: 1,
        ..ready_machine().sandboxes[0].clone()
    });
}

fn killed(steps: &[Step]) -> Vec<&str> {
    let ids = steps.iter().filter_map(|step| match step {
        Step::Kill(kill) => Some(kill.id.as_str()),
        _ => None,
    });
    ids.collect()
}

#[test]
fn of_two_that_run_under_one_name_the_older_is_ended() {
    let pod = simple();
    let mut observed = ready_machine();
    observed.containers = vec![
        container(&pod, "c", 0, State::Running),
        container(&pod, "c", 1, State::Running),
    ];
    assert_eq!(killed(&planned(&pod, &observed).steps), ["c0"]);
    observed.killing.insert("c0".into(), at(40));
    assert_eq!(planned(&pod, &observed).steps, [], "it is being ended");
}

#[test]
fn a_container_that_the_pod_does_not_know_is_ended() {
    let pod = simple();
    let mut observed = ready_machine();
    let stranger = Container {
        id: "x".into(),
        name: "x".into(),
        ..container(&pod, "c", 0, State::Running)
    };
    observed.containers = vec![container(&pod, "c", 0, State::Running), stranger];
    assert_eq!(killed(&planned(&pod, &observed).steps), ["x"]);
}

#[test]
fn containers_of_a_dead_sandbox_end_with_grace_before_it_is_replaced() {
    let pod = simple();
    let mut observed = ready_machine();
    observed.sandboxes[0].ready = false;
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    let steps = planned(&pod, &observed).steps;
    assert!(
        matches!(
            &steps[..],
            [Step::Kill(Kill {
                grace: 30,
                why: Ended::Lost,
                ..
            })]
        ),
        "{steps:?}"
    );
    observed.killing.insert("c0".into(), at(40));
    assert_eq!(planned(&pod, &observed).steps, [], "it is being ended");
    observed.containers[0].state = State::Exited;
    assert!(matches!(
        &planned(&pod, &observed).steps[..],
        [Step::RunSandbox { .. }]
    ));
}

#[test]
fn containers_of_an_older_sandbox_end_before_init_containers_run_again() {
    let pod = pod(
        json!({"initContainers": [{"name": "a", "image": "i:1"}], "containers": [{"name": "c", "image": "i:1"}]}),
    );
    let mut observed = ready_machine();
    observed.containers = vec![exited(&pod, "a", 0, 0), container(&pod, "c", 0, State::Running)];
    second_sandbox(&mut observed, true);
    let steps = planned(&pod, &observed).steps;
    assert_eq!(killed(&steps), ["c0"]);
    assert!(
        !steps.contains(&Step::StopSandbox { id: "s0".into() }),
        "stopping it would end the container without grace: {steps:?}"
    );
}

#[test]
fn a_container_that_the_runtime_lost_is_ended_once() {
    let pod = simple();
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Unknown)];
    assert_eq!(killed(&planned(&pod, &observed).steps), ["c0"]);
    observed.killing.insert("c0".into(), at(40));
    assert_eq!(planned(&pod, &observed).steps, []);
}

#[test]
fn what_was_made_and_never_started_goes_when_a_newer_one_is_there() {
    let pod = simple();
    let mut observed = ready_machine();
    observed.containers = vec![
        container(&pod, "c", 0, State::Created),
        container(&pod, "c", 1, State::Running),
    ];
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::RemoveContainer { id: "c0".into() }]
    );
}

#[test]
fn init_containers_before_the_one_at_work_are_done_even_if_their_records_are_gone() {
    let pod = pod(
        json!({"initContainers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}],
                         "containers": [{"name": "c", "image": "i:1"}]}),
    );
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "b", 0, State::Running)];
    assert_eq!(planned(&pod, &observed).steps, []);
    observed.containers = vec![exited(&pod, "b", 0, 0)];
    assert!(planned(&pod, &observed).steps.contains(&Step::Start {
        name: "c".into(),
        attempt: 0
    }));
}

#[test]
fn a_sandbox_that_came_after_all_ends_the_trouble_of_making_it() {
    let mut observed = ready_machine();
    observed.sandbox_error = Some(Trouble {
        message: "timed out".into(),
        retry_at: at(60),
    });
    assert!(matches!(
        planned(&simple(), &observed).steps[..],
        [Step::Start { .. }]
    ));
}

#[test]
fn a_container_whose_record_vanished_counts_on() {
    let mut pod = simple();
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 4, State::Running)];
    pod.status = Some(said(&pod, &observed));
    observed.containers.clear();
    assert_eq!(
        planned(&pod, &observed).steps,
        [Step::Start {
            name: "c".into(),
            attempt: 5
        }]
    );
    for _ in 0..2 {
        let status = said(&pod, &observed);
        let shown = &status.container_statuses.as_ref().expect("statuses")[0];
        assert_eq!(shown.restart_count, 5, "told again, it stays");
        let last = shown
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref());
        let last = last.expect("an end");
        assert_eq!(
            (last.exit_code, last.reason.as_deref()),
            (137, Some("ContainerStatusUnknown"))
        );
        pod.status = Some(status);
    }
    let steps = planned(&pod, &observed).steps;
    assert!(matches!(steps[..], [Step::Start { attempt: 5, .. }]), "{steps:?}");
}

#[test]
fn an_end_that_was_told_stays_told_when_the_record_is_removed() {
    let mut pod = with_policy("Never");
    let mut observed = ready_machine();
    observed.terminated = true;
    observed.containers = vec![exited(&pod, "c", 0, 3)];
    pod.status = Some(said(&pod, &observed));
    observed.containers.clear();
    let after = said(&pod, &observed);
    assert_eq!(
        after.container_statuses,
        pod.status.expect("status").container_statuses
    );
}
