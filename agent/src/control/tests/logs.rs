//! Logs, of files as a runtime writes them.

use std::{fs, io::Write, path::Path};

use keelson_proto::keelson::{LogsRequest, LogsResponse};
use tonic::{Code, Streaming};

use super::*;

/// A pod with one container in this state.
fn pod(phase: &str, restarts: i32, state: Value) -> Value {
    json!({ "metadata": { "name": "p", "namespace": "default", "uid": "u1" },
        "spec": { "containers": [{ "name": "c" }], "restartPolicy": "Always" },
        "status": { "phase": phase, "containerStatuses": [{ "name": "c", "ready": true, "restartCount": restarts, "image": "", "imageID": "",
            "state": state }] } })
}

fn running(restarts: i32) -> Value {
    pod("Running", restarts, json!({ "running": {} }))
}

fn folder(bench: &Bench) -> PathBuf {
    let folder = bench.ctx.config.pod_logs.join("default_p_u1/c");
    fs::create_dir_all(&folder).expect("create");
    folder
}

fn write(path: &Path, lines: &[&str]) {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("open");
    for line in lines {
        writeln!(file, "2026-01-01T00:00:00Z stdout F {line}").expect("write");
    }
}

fn request() -> LogsRequest {
    LogsRequest {
        namespace: "default".to_owned(),
        pod: "p".to_owned(),
        ..LogsRequest::default()
    }
}

async fn all(bench: &mut Bench, request: LogsRequest) -> Result<String, (Code, String)> {
    let fail = |status: tonic::Status| (status.code(), status.message().to_owned());
    let mut stream = bench.client.logs(request).await.map_err(fail)?.into_inner();
    let mut text = String::new();
    while let Some(part) = stream.message().await.map_err(fail)? {
        text.push_str(&String::from_utf8(part.data).expect("text"));
    }
    Ok(text)
}

/// Read on until the text ends with `end`.
async fn until(stream: &mut Streaming<LogsResponse>, text: &mut String, end: &str) {
    let wait = async {
        while !text.ends_with(end) {
            let part = stream.message().await.expect("no failure").expect("not the end");
            text.push_str(&String::from_utf8(part.data).expect("text"));
        }
    };
    timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("no {end:?} in time"));
}

#[tokio::test]
async fn the_log_of_this_life_or_of_the_one_before_is_shown() {
    let mut bench = Bench::bare("control-logs").await;
    bench.put_pod(running(1));
    let folder = folder(&bench);
    write(&folder.join("0.log"), &["old one", "old two"]);
    write(&folder.join("1.log"), &["one", "two", "three"]);
    assert_eq!(
        all(&mut bench, request()).await,
        Ok("one\ntwo\nthree\n".to_owned())
    );
    let tail = LogsRequest {
        tail_lines: Some(1),
        ..request()
    };
    assert_eq!(all(&mut bench, tail).await, Ok("three\n".to_owned()));
    let previous = LogsRequest {
        previous: true,
        timestamps: true,
        ..request()
    };
    assert_eq!(
        all(&mut bench, previous).await,
        Ok("2026-01-01T00:00:00Z old one\n2026-01-01T00:00:00Z old two\n".to_owned())
    );
    let late = "2026-06-01T00:00:00Z".parse::<jiff::Timestamp>().expect("a time");
    let since = LogsRequest {
        since_unix_nanos: i64::try_from(late.as_nanosecond()).ok(),
        ..request()
    };
    assert_eq!(all(&mut bench, since).await, Ok(String::new()));
    bench.end().await;
}

#[tokio::test]
async fn what_cannot_be_shown_is_told_in_words() {
    let mut bench = Bench::bare("control-logs-none").await;
    let refused = all(&mut bench, request()).await.expect_err("no pod");
    assert_eq!(refused, (Code::NotFound, "pods \"p\" not found".to_owned()));
    bench.put_pod(pod(
        "Pending",
        0,
        json!({ "waiting": { "reason": "ErrImagePull", "message": "not there" } }),
    ));
    let (code, why) = all(&mut bench, request()).await.expect_err("not started");
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        why.ends_with("is waiting to start: ErrImagePull: not there"),
        "{why}"
    );
    write(&folder(&bench).join("0.log"), &["one"]);
    let (_, why) = all(
        &mut bench,
        LogsRequest {
            previous: true,
            ..request()
        },
    )
    .await
    .expect_err("no life before");
    assert!(
        why.contains("previous terminated container \"c\" in pod \"p\" not found"),
        "{why}"
    );
    let (code, why) = all(
        &mut bench,
        LogsRequest {
            container: "x".to_owned(),
            ..request()
        },
    )
    .await
    .expect_err("unknown");
    assert_eq!(code, Code::InvalidArgument);
    assert!(why.contains("it has c"), "{why}");
    bench.end().await;
}

#[tokio::test]
async fn following_goes_on_over_rotation_and_restart_until_the_pod_is_over() {
    let mut bench = Bench::bare("control-logs-follow").await;
    bench.put_pod(running(0));
    let folder = folder(&bench);
    let log = folder.join("0.log");
    write(&log, &["skipped", "one"]);
    let follow = LogsRequest {
        follow: true,
        tail_lines: Some(1),
        ..request()
    };
    let mut stream = bench.client.logs(follow).await.expect("a stream").into_inner();
    let mut text = String::new();
    until(&mut stream, &mut text, "one\n").await;
    write(&log, &["two"]);
    until(&mut stream, &mut text, "two\n").await;
    // Rotation: the old file goes aside, and is written to a little longer.
    fs::rename(&log, folder.join("0.log.20260101-000000")).expect("rename");
    write(&folder.join("0.log.20260101-000000"), &["three"]);
    write(&log, &["four"]);
    until(&mut stream, &mut text, "four\n").await;
    // The container ends and comes again.
    bench.put_pod(pod("Running", 0, json!({ "terminated": { "exitCode": 1 } })));
    write(&folder.join("1.log"), &["five"]);
    bench.put_pod(running(1));
    until(&mut stream, &mut text, "five\n").await;
    write(&folder.join("1.log"), &["six"]);
    bench.put_pod(pod("Succeeded", 1, json!({ "terminated": { "exitCode": 0 } })));
    let rest = async {
        while let Some(part) = stream.message().await.expect("no failure") {
            text.push_str(&String::from_utf8(part.data).expect("text"));
        }
    };
    timeout(LIMIT, rest).await.expect("the end comes with the pod's");
    assert_eq!(text, "one\ntwo\nthree\nfour\nfive\nsix\n");
    bench.end().await;
}

#[tokio::test]
async fn following_may_begin_before_the_container_does_and_ends_when_the_pod_goes() {
    let mut bench = Bench::bare("control-logs-early").await;
    bench.put_pod(pod(
        "Pending",
        0,
        json!({ "waiting": { "reason": "ContainerCreating" } }),
    ));
    let follow = LogsRequest {
        follow: true,
        ..request()
    };
    let mut stream = bench.client.logs(follow).await.expect("a stream").into_inner();
    write(&folder(&bench).join("0.log"), &["one"]);
    bench.put_pod(running(0));
    let mut text = String::new();
    until(&mut stream, &mut text, "one\n").await;
    bench.remove_pod("p");
    let end = timeout(LIMIT, stream.message())
        .await
        .expect("in time")
        .expect("no failure");
    assert!(end.is_none());
    bench.end().await;
}

#[test]
fn a_container_may_write_again_only_if_it_is_started_again() {
    use crate::control::logs::may_write;
    let terminated = |code: i32| json!({ "terminated": { "exitCode": code } });
    for (policy, state, phase, deleted, expected) in [
        ("Always", json!({ "running": {} }), "Running", false, true),
        ("Always", terminated(0), "Running", false, true),
        ("Always", terminated(0), "Running", true, false),
        ("Always", json!({ "running": {} }), "Running", true, true),
        ("OnFailure", terminated(1), "Running", false, true),
        ("OnFailure", terminated(0), "Running", false, false),
        ("Never", terminated(1), "Running", false, false),
        ("Never", json!({ "waiting": {} }), "Pending", false, true),
        ("Always", terminated(1), "Failed", false, false),
    ] {
        let mut object = pod(phase, 0, state.clone());
        object["spec"]["restartPolicy"] = json!(policy);
        if deleted {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod: Pod = serde_json::from_value(object).expect("a pod");
        assert_eq!(
            may_write(&pod, "c"),
            expected,
            "{policy} {state} {phase} {deleted}"
        );
    }
}
