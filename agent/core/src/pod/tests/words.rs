//! The words a user reads.

use super::*;

fn state_of(status: &PodStatus) -> (Option<String>, Option<i32>) {
    let state = status.container_statuses.as_ref().expect("statuses")[0]
        .state
        .clone();
    let state = state.expect("state");
    (
        state.waiting.and_then(|waiting| waiting.reason),
        state.terminated.map(|terminated| terminated.exit_code),
    )
}

#[test]
fn between_an_end_and_the_next_start_the_end_is_shown() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "far:1"}]}));
    let mut observed = ready_machine();
    observed.containers = vec![exited(&pod, "c", 0, 9)];
    assert_eq!(
        state_of(&said(&pod, &observed)),
        (None, Some(9)),
        "to be fetched again"
    );
    let image = ImageState {
        present: false,
        pull: Pull::Running,
    };
    observed.images.insert("far:1".into(), image);
    assert_eq!(state_of(&said(&pod, &observed)), (None, Some(9)), "being fetched");
    observed.sandboxes[0].ready = false;
    let status = said(&pod, &observed);
    assert_eq!(state_of(&status), (None, Some(9)), "its sandbox died");
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a_name_that_is_no_image_is_told_and_never_fetched() {
    for name in [
        "Web:1",
        "web:",
        "a//b",
        "web:t@g",
        "we b",
        "-web",
        "web-",
        "a./b",
        "a__.b",
        "web@sha256:12",
    ] {
        let pod = pod(json!({"containers": [{"name": "c", "image": name}]}));
        assert_eq!(planned(&pod, &ready_machine()).steps, [], "{name}");
        assert_eq!(
            waiting_reason(&said(&pod, &ready_machine())).as_deref(),
            Some("InvalidImageName"),
            "{name}"
        );
    }
    let digest = "a".repeat(64);
    for name in [
        "web".to_owned(),
        "web:1.2-x_Y".to_owned(),
        "example.com:5000/a/b__c.d-e/f:v1".to_owned(),
        format!("localhost/web@sha256:{digest}"),
        format!("web:1@sha256:{digest}"),
        "Example.COM/web".to_owned(),
    ] {
        let pod = pod(json!({"containers": [{"name": "c", "image": name}]}));
        assert_eq!(
            planned(&pod, &ready_machine()).steps,
            [Step::Pull { image: name }]
        );
    }
}

#[test]
fn a_failed_fetch_says_what_failed() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "far:1"}]}));
    let mut observed = ready_machine();
    let pull = Pull::Failed(Trouble {
        message: "no route".into(),
        retry_at: at(20),
    });
    observed
        .images
        .insert("far:1".into(), ImageState { present: false, pull });
    let status = said(&pod, &observed);
    let state = status.container_statuses.expect("statuses")[0].state.clone();
    let waiting = state.and_then(|state| state.waiting).expect("waits");
    assert_eq!(
        waiting.message.as_deref(),
        Some("Back-off pulling image \"far:1\": ErrImagePull: no route")
    );
}

#[test]
fn a_pod_that_succeeded_is_initialized_and_completed() {
    let pod = with_policy("Never");
    let mut observed = ready_machine();
    observed.containers = vec![exited(&pod, "c", 0, 0)];
    let status = said(&pod, &observed);
    let completed = |held: &str| (held.to_owned(), Some("PodCompleted".to_owned()));
    assert_eq!(condition(&status, "Initialized"), completed("True"));
    assert_eq!(condition(&status, "Ready"), completed("False"));
    assert_eq!(condition(&status, "ContainersReady"), completed("False"));
}

#[test]
fn what_a_container_was_given_stands_in_its_status() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i:1",
        "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}}]}));
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    let status = said(&pod, &observed);
    let shown = serde_json::to_value(&status.container_statuses.expect("statuses")[0]).expect("JSON");
    assert_eq!(shown["allocatedResources"], json!({"cpu": "100m"}));
    assert_eq!(shown["resources"]["limits"], json!({"cpu": "1"}));
}

#[test]
fn stock_tools_recognise_a_container_by_its_hash_and_notes() {
    let known = json!({"name": "test_container", "image": "foo/image:v1"});
    let known = serde_json::from_value(known).expect("a container");
    assert_eq!(spec::container_hash(&known), "8e45cbd0");
}

#[test]
fn a_status_that_is_written_and_read_again_is_the_same() {
    let pod = with_policy("OnFailure");
    let now: Timestamp = "2026-01-02T03:04:05.678Z".parse().expect("time");
    let mut observed = ready_machine();
    observed.sandboxes[0].created_at = now;
    observed.containers = vec![
        Container {
            started_at: Some(now),
            finished_at: Some(now),
            ..exited(&pod, "c", 0, 1)
        },
        Container {
            started_at: Some(now),
            ..container(&pod, "c", 1, State::Running)
        },
    ];
    let status = pod_status(&pod, &observed, &Backoffs::default(), now);
    let text = serde_json::to_string(&status).expect("JSON");
    assert_eq!(
        serde_json::from_str::<PodStatus>(&text).expect("a status"),
        status
    );
}

#[test]
fn a_transition_time_moves_when_the_status_turns_and_only_there() {
    let mut pod = pod(
        json!({"containers": [{"name": "c", "image": "i:1", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
    );
    let mut observed = ready_machine();
    observed.containers = vec![container(&pod, "c", 0, State::Running)];
    let since = |pod: &Pod, kind: &str| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone());
        let mut conditions = conditions.into_iter().flatten();
        conditions
            .find(|condition| condition.type_ == kind)
            .and_then(|condition| condition.last_transition_time)
    };
    let mut told = Vec::new();
    for (seconds, ready) in [(10, None), (20, Some(true)), (30, Some(true)), (40, Some(false))] {
        observed.containers[0].readiness = ready;
        pod.status = Some(pod_status(&pod, &observed, &Backoffs::default(), at(seconds)));
        told.push((since(&pod, "Ready"), since(&pod, "Initialized")));
    }
    let times = [10, 20, 20, 40].map(|seconds| (Some(Time(at(seconds))), Some(Time(at(10)))));
    assert_eq!(told, times);
}

#[test]
fn init_containers_of_an_earlier_sandbox_say_nothing_of_the_newest() {
    let pod = pod(
        json!({"initContainers": [{"name": "a", "image": "i:1"}], "containers": [{"name": "c", "image": "i:1"}]}),
    );
    let mut observed = ready_machine();
    observed.sandboxes[0].ready = false;
    observed.containers = vec![exited(&pod, "a", 0, 0)];
    assert_eq!(condition(&said(&pod, &observed), "Initialized").0, "True");
    observed.sandboxes.push(Sandbox {
        id: "s1".into(),
        attempt: 1,
        ..observed.sandboxes[0].clone()
    });
    assert_eq!(condition(&said(&pod, &observed), "Initialized").0, "False");
}
