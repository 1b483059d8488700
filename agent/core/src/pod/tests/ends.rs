//! Why something ended decides what comes after: exit codes alone do not tell.

use super::*;

fn with_liveness(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy,
               "containers": [{"name": "c", "image": "i:1", "livenessProbe": {"tcpSocket": {"port": 1}}}]}))
}

#[test]
fn a_container_ended_for_its_liveness_probe_failed_even_if_it_exits_well() {
    for (policy, again) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let pod = with_liveness(policy);
        let mut observed = ready_machine();
        observed.containers = vec![Container {
            liveness: Some(false),
            ..exited(&pod, "c", 0, 0)
        }];
        let starts = planned(&pod, &observed).steps.contains(&Step::Start {
            name: "c".into(),
            attempt: 1,
        });
        assert_eq!(starts, again, "{policy}");
    }
}

#[test]
fn a_container_ended_for_its_new_image_starts_again_under_every_policy() {
    for policy in ["Always", "OnFailure", "Never"] {
        let before = with_policy(policy);
        let after = pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i:2"}]}));
        let mut observed = ready_machine();
        observed.containers = vec![exited(&before, "c", 0, 0)];
        assert_eq!(
            planned(&after, &observed).steps,
            [Step::Start {
                name: "c".into(),
                attempt: 1
            }],
            "{policy}"
        );
        assert_eq!(
            said(&after, &observed).phase.as_deref(),
            Some("Running"),
            "{policy}"
        );
    }
}

fn with_deadline(policy: &str) -> Pod {
    pod(
        json!({"restartPolicy": policy, "activeDeadlineSeconds": 5, "containers": [{"name": "c", "image": "i:1"}]}),
    )
}

#[test]
fn a_deadline_is_kept_after_the_agent_forgot_the_status() {
    let pod = with_deadline("Always");
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    assert!(
        planned(&pod, &observed).steps.contains(&Step::MarkTerminated),
        "its sandbox is ten seconds old"
    );
}

#[test]
fn a_pod_ended_by_its_deadline_stays_failed_after_the_agent_forgot_the_status() {
    let pod = with_deadline("Always");
    let mut observed = ready_machine();
    observed.terminated = true;
    observed.sandboxes[0].ready = false;
    observed.containers = vec![Container {
        finished_at: Some(at(7)),
        ..exited(&pod, "c", 0, 0)
    }];
    let status = said(&pod, &observed);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn a_pod_that_ended_well_in_time_is_not_failed_by_its_deadline_later() {
    let pod = with_deadline("Never");
    let mut observed = ready_machine();
    observed.containers = vec![Container {
        finished_at: Some(at(4)),
        ..exited(&pod, "c", 0, 0)
    }];
    let status = said(&pod, &observed);
    assert_eq!(
        (status.phase.as_deref(), status.reason),
        (Some("Succeeded"), None)
    );
}

#[test]
fn the_pods_start_is_its_first_sandboxs_when_nothing_else_is_known() {
    let status = said(&simple(), &ready_machine());
    assert_eq!(status.start_time, Some(Time(at(0))));
    let unknown = Observed::default();
    assert_eq!(said(&simple(), &unknown).start_time, Some(Time(at(10))));
}

#[test]
fn a_container_gets_what_is_left_of_the_grace_and_never_less_than_two_seconds() {
    let mut observed = ready_machine();
    observed.containers = vec![container(&simple(), "c", 0, State::Running)];
    // Deleted at 10.
    for (now, left) in [(10, 30), (25, 15), (39, 2), (500, 2)] {
        let plan = plan(&deleted(simple(), 30), &observed, &Backoffs::default(), at(now));
        assert!(
            matches!(plan.steps[..], [Step::Kill(Kill { grace, .. })] if grace == left),
            "{now}: {plan:?}"
        );
    }
}
