//! Apply, delete, list and watch.

use std::{fs, os::unix::fs::PermissionsExt};

use jiff::Timestamp;
use keelson_proto::keelson::{DeleteRequest, ListRequest, ObjectRef, WatchEvent, watch_event::Type};
use tonic::Code;

use super::*;

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: 'x:1'}\n";

fn config_map(name: &str, namespace: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{a: '{value}'}}\n---\n"
    )
}

fn node_port(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  ports:\n  - {{port: 80, nodePort: {port}}}\n---\n"
    )
}

async fn delete(
    bench: &mut Bench,
    resource: &str,
    name: &str,
    grace: Option<i64>,
) -> Result<String, (Code, String)> {
    let request = DeleteRequest {
        objects: vec![ObjectRef {
            resource: resource.to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
        }],
        grace_seconds: grace,
        ignore_not_found: false,
    };
    let response = bench
        .client
        .delete(request)
        .await
        .map_err(|status| (status.code(), status.message().to_owned()))?;
    Ok(response.into_inner().results.remove(0).uid)
}

fn request(resource: &str, name: &str, selector: &str) -> ListRequest {
    ListRequest {
        resource: resource.to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
        label_selector: selector.to_owned(),
    }
}

#[tokio::test]
async fn what_is_applied_runs_and_is_told_apart_from_what_ran_before() {
    let mut bench = Bench::new("control-apply").await;
    let created = bench.apply(POD, false).await.expect("applied");
    assert_eq!(created, ["created pods/p applied/pod-default-p.yaml"]);
    // The answer comes when the pod is there.
    let uid = |objects: &Objects| objects.pods[&Key::new("default", "p")].metadata.uid.clone();
    let first = uid(&bench.ctx.world.snapshot());
    assert!(first.is_some());
    let again = bench.apply(POD, false).await.expect("applied");
    assert_eq!(again, ["unchanged pods/p applied/pod-default-p.yaml"]);
    // What is written is what was given, not what it means in full.
    let path = bench.manifests().join("applied/pod-default-p.yaml");
    let text = fs::read_to_string(&path).expect("written");
    assert!(!text.contains("restartPolicy"), "{text}");
    let changed = POD.replace("x:1", "x:2");
    let changed = bench.apply(&changed, false).await.expect("applied");
    assert_eq!(changed, ["configured pods/p applied/pod-default-p.yaml"]);
    let objects = bench.ctx.world.snapshot();
    let pod = &objects.pods[&Key::new("default", "p")];
    assert_eq!(
        pod.spec.as_ref().expect("spec").containers[0].image.as_deref(),
        Some("x:2")
    );
    assert_eq!(uid(&objects), first, "another image is the same pod");
    bench.end().await;
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let mut bench = Bench::new("control-dry-run").await;
    let told = bench.apply(POD, true).await.expect("fine");
    assert_eq!(told, ["created pods/p applied/pod-default-p.yaml"]);
    assert!(bench.applied().is_empty() && bench.ctx.world.snapshot().pods.is_empty());
    bench.end().await;
}

#[tokio::test]
async fn nothing_is_written_if_any_document_is_bad() {
    let mut bench = Bench::new("control-all-or-nothing").await;
    let text = format!(
        "{}{}",
        config_map("good", "default", "1"),
        POD.replace("image:", "imag:")
    );
    let refused = bench.apply(&text, false).await.expect_err("refused");
    assert!(
        refused.starts_with("InvalidArgument: f.yaml: document 2, line 11"),
        "{refused}"
    );
    assert!(refused.contains("imag"), "the field is named: {refused}");
    let twice = config_map("m", "default", "1").repeat(2);
    let refused = bench.apply(&twice, false).await.expect_err("refused");
    assert!(
        refused.contains("ConfigMap default/m is given twice"),
        "{refused}"
    );
    let empty = bench.apply("# nothing\n", false).await.expect_err("refused");
    assert!(empty.contains("no objects in f.yaml"), "{empty}");
    assert!(bench.applied().is_empty());
    bench.end().await;
}

#[tokio::test]
async fn objects_of_other_files_are_left_alone_and_the_file_is_named() {
    let mut bench = Bench::new("control-owned").await;
    fs::write(
        bench.manifests().join("hand.yaml"),
        format!("{POD}---\n{}", node_port("s", 30080)),
    )
    .expect("write");
    bench
        .until("the file runs", |objects| objects.pods.len() == 1)
        .await;
    let refused = bench.apply(POD, false).await.expect_err("refused");
    assert!(
        refused.contains("Pod default/p is defined in hand.yaml already"),
        "{refused}"
    );
    let refused = bench
        .apply(&node_port("other", 30080), false)
        .await
        .expect_err("refused");
    assert!(
        refused.contains(
            "nodePort 30080/TCP of Service default/other belongs to Service default/s in hand.yaml"
        ),
        "{refused}"
    );
    let (code, refused) = delete(&mut bench, "pods", "p", None).await.expect_err("refused");
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        refused.contains("Pod default/p is defined in the file hand.yaml"),
        "{refused}"
    );
    assert!(bench.applied().is_empty());
    assert!(bench.manifests().join("hand.yaml").exists());
    // A broken text does not hide what still runs from the file.
    fs::write(bench.manifests().join("hand.yaml"), "a: [").expect("write");
    bench
        .until("the file is refused", |objects| {
            objects.manifests.values().any(|report| !report.errors.is_empty())
        })
        .await;
    let refused = bench.apply(POD, false).await.expect_err("refused");
    assert!(refused.contains("hand.yaml already"), "{refused}");
    bench.end().await;
}

#[tokio::test]
async fn names_that_spell_the_same_file_get_two() {
    let mut bench = Bench::new("control-spelling").await;
    let text = format!("{}{}", config_map("b-c", "a", "1"), config_map("c", "a-b", "2"));
    bench
        .apply(&config_map("b-c", "a", "1"), false)
        .await
        .expect("applied");
    let told = bench.apply(&text, false).await.expect("applied");
    assert_eq!(
        told,
        [
            "unchanged configmaps/b-c applied/configmap-a-b-c.yaml",
            "created configmaps/c applied/configmap-a-b_c.yaml"
        ]
    );
    assert_eq!(bench.ctx.world.snapshot().config_maps.len(), 2);
    bench.end().await;
}

#[tokio::test]
async fn both_of_two_objects_whose_names_spell_the_same_file_can_come_at_once() {
    let mut bench = Bench::new("control-spelling-at-once").await;
    let text = format!("{}{}", config_map("b-c", "a", "1"), config_map("c", "a-b", "2"));
    bench.apply(&text, false).await.expect("applied");
    assert_eq!(bench.ctx.world.snapshot().config_maps.len(), 2);
    assert_eq!(bench.applied().len(), 2);
    bench.end().await;
}

#[tokio::test]
async fn secrets_are_for_root_only() {
    let mut bench = Bench::new("control-secret").await;
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}\n";
    bench.apply(secret, false).await.expect("applied");
    let path = bench.manifests().join("applied/secret-default-s.yaml");
    let mode = fs::metadata(path).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    bench.end().await;
}

#[tokio::test]
async fn what_was_applied_can_be_deleted() {
    let mut bench = Bench::new("control-delete").await;
    bench.apply(POD, false).await.expect("applied");
    let uid = delete(&mut bench, "pods", "p", Some(3)).await.expect("deleted");
    assert!(bench.applied().is_empty());
    let objects = bench.ctx.world.snapshot();
    let metadata = &objects.pods[&Key::new("default", "p")].metadata;
    assert_eq!(metadata.uid.as_deref(), Some(uid.as_str()));
    assert!(metadata.deletion_timestamp.is_some(), "the pod loop ends it");
    assert_eq!(metadata.deletion_grace_period_seconds, Some(3));
    // Still ending: more haste is possible.
    delete(&mut bench, "pods", "p", Some(0)).await.expect("deleted");
    let objects = bench.ctx.world.snapshot();
    let metadata = &objects.pods[&Key::new("default", "p")].metadata;
    assert_eq!(metadata.deletion_grace_period_seconds, Some(0));
    bench.remove_pod("p");
    let (code, why) = delete(&mut bench, "pods", "p", None).await.expect_err("gone");
    assert_eq!((code, why.as_str()), (Code::NotFound, "pods \"p\" not found"));
    for (resource, code) in [
        ("ingresses", Code::InvalidArgument),
        ("nodes", Code::NotFound),
        ("events", Code::InvalidArgument),
        ("deployments", Code::NotFound),
    ] {
        let (found, why) = delete(&mut bench, resource, "x", None).await.expect_err(resource);
        assert_eq!(found, code, "{resource}: {why}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_deployments_pod_is_ended_and_nothing_else() {
    let mut bench = Bench::new("control-delete-owned").await;
    bench.put_pod(json!({ "metadata": { "name": "web-1", "namespace": "default", "uid": "u1",
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d1", "controller": true }] },
        "spec": { "containers": [], "terminationGracePeriodSeconds": 7 } }));
    assert_eq!(
        delete(&mut bench, "pods", "web-1", None).await.expect("deleted"),
        "u1"
    );
    let objects = bench.ctx.world.snapshot();
    let metadata = &objects.pods[&Key::new("default", "web-1")].metadata;
    assert!(
        metadata
            .deletion_timestamp
            .as_ref()
            .is_some_and(|at| at.0 <= Timestamp::now())
    );
    assert_eq!(metadata.deletion_grace_period_seconds, Some(7), "its own");
    bench.end().await;
}

#[tokio::test]
async fn lists_are_chosen_by_namespace_name_and_labels() {
    let mut bench = Bench::bare("control-list").await;
    for (name, namespace, app) in [
        ("a", "default", "web"),
        ("b", "default", "db"),
        ("c", "other", "web"),
    ] {
        bench.put_pod(
            json!({ "metadata": { "name": name, "namespace": namespace, "labels": { "app": app } } }),
        );
    }
    let mut names = async |namespace: &str, name: &str, selector: &str| -> Result<Vec<String>, Code> {
        let request = ListRequest {
            namespace: namespace.to_owned(),
            ..request("pods", name, selector)
        };
        let response = bench.client.list(request).await.map_err(|status| status.code())?;
        let objects = response.into_inner().objects;
        Ok(objects
            .iter()
            .map(|bytes| {
                let object: Value = serde_json::from_slice(bytes).expect("JSON");
                assert_eq!(
                    (&object["kind"], &object["apiVersion"]),
                    (&json!("Pod"), &json!("v1"))
                );
                object["metadata"]["name"].as_str().expect("a name").to_owned()
            })
            .collect())
    };
    assert_eq!(
        names("", "", "").await,
        Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
    );
    assert_eq!(names("default", "", "app=web").await, Ok(vec!["a".to_owned()]));
    assert_eq!(names("other", "c", "").await, Ok(vec!["c".to_owned()]));
    assert_eq!(names("other", "a", "").await, Err(Code::NotFound));
    assert_eq!(names("", "", "app=").await, Ok(vec![]));
    assert_eq!(names("", "", "app in").await, Err(Code::InvalidArgument));
    let unknown = bench
        .client
        .list(request("ingresses", "", ""))
        .await
        .expect_err("unknown");
    assert!(
        unknown.message().contains("it has pods, deployments"),
        "{unknown}"
    );
    let nodes = bench
        .client
        .list(request("nodes", "", ""))
        .await
        .expect("nodes")
        .into_inner();
    assert_eq!(nodes.objects.len(), 1);
    bench.end().await;
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_every_change() {
    let mut bench = Bench::bare("control-watch").await;
    let pod = |name: &str, phase: &str| json!({ "metadata": { "name": name, "namespace": "default" }, "status": { "phase": phase } });
    bench.put_pod(pod("a", "Pending"));
    let mut events = bench
        .client
        .watch(request("pods", "", ""))
        .await
        .expect("a watch")
        .into_inner();
    let mut next = async || -> (Type, String) {
        let event: WatchEvent = timeout(LIMIT, events.message())
            .await
            .expect("in time")
            .expect("no failure")
            .expect("not the end");
        let object: Value = serde_json::from_slice(&event.object).unwrap_or_default();
        let shown = format!("{} {}", object["metadata"]["name"], object["status"]["phase"]);
        (event.r#type(), shown)
    };
    assert_eq!(next().await, (Type::Added, "\"a\" \"Pending\"".to_owned()));
    assert_eq!(next().await.0, Type::Bookmark);
    bench.put_pod(pod("a", "Running"));
    assert_eq!(next().await, (Type::Modified, "\"a\" \"Running\"".to_owned()));
    bench.put_pod(pod("b", "Pending"));
    assert_eq!(next().await, (Type::Added, "\"b\" \"Pending\"".to_owned()));
    bench.remove_pod("a");
    assert_eq!(next().await, (Type::Deleted, "\"a\" \"Running\"".to_owned()));
    // A change of other kinds, and one that changes nothing, are not told.
    bench.ctx.world.update(|objects| objects.revisions.services += 1);
    bench.put_pod(pod("b", "Pending"));
    bench.put_pod(pod("b", "Running"));
    assert_eq!(next().await, (Type::Modified, "\"b\" \"Running\"".to_owned()));
    bench.stop.send_replace(true);
    let end = timeout(LIMIT, events.message()).await.expect("in time");
    assert_eq!(end.expect_err("told").code(), Code::Unavailable);
    bench.end().await;
}

#[tokio::test]
async fn files_are_listed_with_what_is_wrong_with_them() {
    let mut bench = Bench::new("control-manifests").await;
    fs::write(
        bench.manifests().join("bad.yaml"),
        "kind: Pod\napiVersion: v1\nmetadata: {name: p}\n",
    )
    .expect("write");
    bench
        .until("the file is reported", |objects| !objects.manifests.is_empty())
        .await;
    let response = bench
        .client
        .list(request("manifests", "", ""))
        .await
        .expect("listed")
        .into_inner();
    let object: Value = serde_json::from_slice(&response.objects[0]).expect("JSON");
    assert_eq!(object["metadata"]["name"], "bad.yaml");
    assert!(
        object["status"]["errors"][0]
            .as_str()
            .expect("text")
            .contains("document 1"),
        "{object}"
    );
    bench.end().await;
}
