//! Tables of single steps; simulated clusters in which anything may happen at any time.

mod simulation;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentCondition},
        core::v1::{Pod, PodCondition, PodStatus},
    },
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};
use serde_json::json;

use super::{Generation, Plan, plan, rollout, template};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

fn deployment(replicas: i32, image: &str, strategy: serde_json::Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d1", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "c", "image": image}]}}}
    }))
    .expect("a Deployment")
}

fn rolling(surge: serde_json::Value, unavailable: serde_json::Value) -> serde_json::Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

/// Set a pod's phase and readiness since `now`.
fn set(pod: &mut Pod, phase: &str, ready: bool, now: Timestamp) {
    pod.status = Some(PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(vec![PodCondition {
            type_: "Ready".to_owned(),
            status: if ready { "True" } else { "False" }.to_owned(),
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    });
}

/// A Deployment with its pods, and what the loop would do with a plan.
struct Cluster {
    deployment: Deployment,
    pods: Vec<Pod>,
    generations: Vec<Generation>,
    made: u32,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            pods: Vec::new(),
            generations: Vec::new(),
            made: 0,
        }
    }

    fn plan(&self, now: Timestamp) -> Plan {
        plan(
            &self.deployment,
            &self.pods.iter().collect::<Vec<_>>(),
            &self.generations,
            now,
        )
    }

    fn apply(&mut self, plan: &Plan, now: Timestamp) {
        self.generations.clone_from(&plan.generations);
        self.deployment.status = Some(plan.status.clone());
        for hash in &plan.create {
            self.create(hash, now);
        }
        for (_, uid) in &plan.delete {
            self.end(uid, now);
        }
    }

    fn create(&mut self, hash: &str, now: Timestamp) {
        self.made += 1;
        let generation = self
            .generations
            .iter()
            .find(|one| one.hash == hash)
            .expect("known");
        let tail = format!("{:05}", self.made);
        let uid = format!("p{}", self.made);
        self.pods.push(
            template::pod(&self.deployment, generation, "n1", &tail, &uid, now).expect("has a template"),
        );
    }

    fn end(&mut self, uid: &str, now: Timestamp) {
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| pod.metadata.uid.as_deref() == Some(uid))
            .expect("known");
        pod.metadata.deletion_timestamp = Some(Time(now));
    }

    fn step(&mut self, now: Timestamp) -> Plan {
        let plan = self.plan(now);
        self.apply(&plan, now);
        plan
    }

    fn all_ready(&mut self, now: Timestamp) {
        self.pods
            .iter_mut()
            .filter(|pod| pod.status.is_none())
            .for_each(|pod| set(pod, "Running", true, now));
    }

    fn ended_are_gone(&mut self) {
        self.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().expect("spec");
        spec.template.spec.as_mut().expect("spec").containers[0].image = Some(image.to_owned());
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|number| number + 1);
    }

    fn scale(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().expect("spec").replicas = Some(replicas);
    }

    /// Names of pods that are not ending, of this image.
    fn running(&self, image: &str) -> usize {
        self.pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .filter(|pod| {
                pod.spec
                    .as_ref()
                    .is_some_and(|spec| spec.containers[0].image.as_deref() == Some(image))
            })
            .count()
    }
}

fn of<'a>(plan: &'a Plan, type_: &str) -> &'a DeploymentCondition {
    plan.status
        .conditions
        .iter()
        .flatten()
        .find(|one| one.type_ == type_)
        .expect("has it")
}

fn says(plan: &Plan, type_: &str) -> (String, String) {
    let condition = of(plan, type_);
    (
        condition.status.clone(),
        condition.reason.clone().unwrap_or_default(),
    )
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn surge_is_rounded_up_and_unavailability_down() {
    for (replicas, surge, unavailable, most, available) in [
        (1, json!("25%"), json!("25%"), 2, 1),
        (2, json!("25%"), json!("25%"), 3, 2),
        (4, json!("25%"), json!("25%"), 5, 3),
        (5, json!("25%"), json!("25%"), 7, 4),
        (10, json!("30%"), json!("30%"), 13, 7),
        (3, json!(0), json!("10%"), 3, 2),
        (3, json!(1), json!(0), 4, 3),
        (3, json!(0), json!(5), 3, 0),
        (0, json!("25%"), json!("25%"), 0, 0),
        (3, json!("200%"), json!("100%"), 9, 0),
    ] {
        let spec = deployment(replicas, "a", rolling(surge.clone(), unavailable.clone()))
            .spec
            .expect("spec");
        let limits = rollout::limits(&spec);
        assert_eq!(
            (limits.most, limits.available),
            (most, available),
            "{replicas} {surge} {unavailable}"
        );
    }
    let text = |text: &str| IntOrString::String(text.to_owned());
    for wrong in ["25", "%", "-1%", "a%", "", "1.5%"] {
        assert_eq!(rollout::scaled(&text(wrong), 10, true), None, "{wrong}");
    }
    assert_eq!(rollout::scaled(&IntOrString::Int(-1), 10, true), None);
    assert_eq!(rollout::scaled(&text("9999999999999999%"), i32::MAX, true), None);
}

#[test]
fn pods_are_named_labelled_and_owned_as_their_users_expect() {
    let mut cluster = Cluster::new(deployment(2, "a", rolling(json!(1), json!(1))));
    let plan = cluster.step(at(0));
    assert_eq!(
        (plan.create.len(), plan.delete.len(), plan.generations.len()),
        (2, 0, 1)
    );
    let hash = &plan.generations[0].hash;
    assert_eq!(hash.len(), 10);
    let pod = &cluster.pods[0];
    assert_eq!(pod.metadata.name, Some(format!("web-{hash}-00001")));
    assert_eq!(pod.metadata.namespace.as_deref(), Some("n"));
    let labels = pod.metadata.labels.as_ref().expect("labels");
    assert_eq!(
        (labels["app"].as_str(), &labels["pod-template-hash"]),
        ("web", hash)
    );
    assert_eq!(template::owner(pod), Some("d1"));
    assert_eq!(
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()),
        Some("n1")
    );
    let tail = template::tail([0, 1, 27, 255, 254]);
    assert!(
        tail.len() == 5 && tail.bytes().all(|byte| template::ALPHABET.contains(&byte)),
        "{tail}"
    );
    let mut long = cluster.deployment.clone();
    long.metadata.name = Some("x".repeat(60));
    let pod = template::pod(&long, &plan.generations[0], "n1", "abcde", "u", at(0)).expect("made");
    assert_eq!(
        pod.metadata.name.map(|name| name.len()),
        Some(63),
        "a host name holds no more"
    );
}

#[test]
fn a_rolling_update_starts_new_pods_and_ends_old_ones_as_the_new_become_available() {
    let mut cluster = Cluster::new(deployment(4, "a", rolling(json!(1), json!(1))));
    cluster.step(at(0));
    cluster.all_ready(at(1));
    let settled = cluster.step(at(2));
    assert!(settled.create.is_empty() && settled.delete.is_empty());
    assert_eq!(
        says(&settled, "Progressing"),
        pair("True", "NewReplicaSetAvailable")
    );

    cluster.image("b");
    let plan = cluster.step(at(3));
    assert_eq!(
        (cluster.running("a"), cluster.running("b")),
        (3, 1),
        "one more and one less than four"
    );
    assert_eq!(says(&plan, "Progressing"), pair("True", "ReplicaSetUpdated"));
    let plan = cluster.step(at(4));
    assert_eq!(
        (plan.create.len(), plan.delete.len()),
        (1, 0),
        "the ended one made room"
    );
    let plan = cluster.step(at(5));
    assert_eq!(
        (plan.create.len(), plan.delete.len()),
        (0, 0),
        "nothing more before new ones are available"
    );
    cluster.all_ready(at(6));
    for second in 7..20 {
        cluster.step(at(second));
        cluster.all_ready(at(second));
        cluster.ended_are_gone();
    }
    assert_eq!((cluster.running("a"), cluster.running("b")), (0, 4));
    let plan = cluster.step(at(20));
    assert_eq!(
        (plan.generations.len(), plan.status.updated_replicas, plan.again),
        (1, Some(4), None)
    );
    assert_eq!(says(&plan, "Progressing"), pair("True", "NewReplicaSetAvailable"));
}

#[test]
fn a_new_template_that_never_becomes_ready_leaves_the_old_pods_serving_and_is_reported_late() {
    let mut cluster = Cluster::new(deployment(4, "a", rolling(json!(1), json!(0))));
    cluster
        .deployment
        .spec
        .as_mut()
        .expect("spec")
        .progress_deadline_seconds = Some(60);
    cluster.step(at(0));
    cluster.all_ready(at(1));
    cluster.step(at(1));
    cluster.image("bad");
    let plan = cluster.step(at(2));
    assert_eq!(plan.again, Some(at(62)));
    // The pod that was made is progress; after that there is none.
    for second in 3..63 {
        assert_eq!(
            says(&cluster.step(at(second)), "Progressing"),
            pair("True", "ReplicaSetUpdated")
        );
        assert_eq!((cluster.running("a"), cluster.running("bad")), (4, 1));
    }
    let plan = cluster.step(at(63));
    assert_eq!(
        says(&plan, "Progressing"),
        pair("False", "ProgressDeadlineExceeded")
    );
    assert_eq!(says(&plan, "Available"), pair("True", "MinimumReplicasAvailable"));
    // An old pod that dies meanwhile is made again from the old template.
    cluster.pods.remove(0);
    cluster.step(at(64));
    assert_eq!((cluster.running("a"), cluster.running("bad")), (4, 1));
    // Back to the old template: the pods that run are of it, so nothing is replaced.
    cluster.image("a");
    cluster.all_ready(at(65));
    cluster.step(at(65));
    cluster.ended_are_gone();
    assert_eq!((cluster.running("a"), cluster.running("bad")), (4, 0));
    assert_eq!(
        says(&cluster.step(at(66)), "Progressing"),
        pair("True", "NewReplicaSetAvailable")
    );
}

#[test]
fn min_ready_seconds_must_pass_before_a_pod_counts() {
    let mut cluster = Cluster::new(deployment(1, "a", rolling(json!(1), json!(0))));
    cluster.deployment.spec.as_mut().expect("spec").min_ready_seconds = Some(10);
    cluster.step(at(0));
    cluster.all_ready(at(5));
    let plan = cluster.step(at(6));
    assert_eq!(
        (plan.status.ready_replicas, plan.status.available_replicas),
        (Some(1), Some(0))
    );
    assert_eq!(plan.again, Some(at(15)));
    assert_eq!(
        says(&plan, "Available"),
        pair("False", "MinimumReplicasUnavailable")
    );
    assert_eq!(cluster.step(at(15)).status.available_replicas, Some(1));
    cluster.image("b");
    cluster.step(at(16));
    cluster.all_ready(at(20));
    cluster.step(at(29));
    assert_eq!(
        cluster.running("a"),
        1,
        "the new one is ready, but not for long enough"
    );
    cluster.step(at(30));
    assert_eq!(cluster.running("a"), 0);
}

#[test]
fn recreate_ends_all_old_pods_before_it_makes_a_new_one() {
    let mut cluster = Cluster::new(deployment(2, "a", json!({"type": "Recreate"})));
    cluster.step(at(0));
    cluster.all_ready(at(1));
    cluster.image("b");
    let plan = cluster.step(at(2));
    assert_eq!((plan.create.len(), plan.delete.len()), (0, 2));
    let plan = cluster.step(at(3));
    assert!(plan.create.is_empty(), "they are still ending");
    cluster.ended_are_gone();
    assert_eq!(cluster.step(at(4)).create.len(), 2);
    // A new pod that is lost while an old one is still ending waits as well.
    cluster.image("c");
    cluster.step(at(4));
    cluster.generations.last_mut().expect("the new one").replicas = 2;
    assert!(cluster.step(at(4)).create.is_empty());
    // An old pod whose containers have ended is no reason to wait.
    cluster
        .pods
        .iter_mut()
        .for_each(|pod| set(pod, "Failed", false, at(4)));
    assert_eq!(cluster.step(at(4)).create.len(), 2);
    // Scaling needs no waiting.
    cluster.scale(3);
    assert_eq!(cluster.step(at(5)).create.len(), 1);
}

#[test]
fn a_paused_deployment_scales_but_does_not_replace() {
    let mut cluster = Cluster::new(deployment(2, "a", rolling(json!(1), json!(1))));
    cluster.step(at(0));
    cluster.all_ready(at(1));
    cluster.step(at(1));
    cluster.deployment.spec.as_mut().expect("spec").paused = Some(true);
    cluster.image("b");
    let plan = cluster.step(at(2));
    assert_eq!((plan.create.len(), plan.delete.len()), (0, 0));
    assert_eq!(says(&plan, "Progressing"), pair("Unknown", "DeploymentPaused"));
    cluster.scale(3);
    cluster.step(at(3));
    assert_eq!((cluster.running("a"), cluster.running("b")), (3, 0));
    cluster.scale(1);
    cluster.step(at(4));
    assert_eq!((cluster.running("a"), cluster.running("b")), (1, 0));
    cluster.deployment.spec.as_mut().expect("spec").paused = None;
    let plan = cluster.step(at(5));
    assert_eq!(
        (says(&plan, "Progressing"), cluster.running("b")),
        (pair("True", "DeploymentResumed"), 1)
    );
}

#[test]
fn scaling_down_ends_those_that_serve_least() {
    let mut cluster = Cluster::new(deployment(6, "a", rolling(json!(1), json!(1))));
    cluster.step(at(0));
    let names: Vec<String> = cluster
        .pods
        .iter()
        .filter_map(|pod| pod.metadata.uid.clone())
        .collect();
    set(&mut cluster.pods[0], "Running", true, at(10));
    set(&mut cluster.pods[1], "Running", true, at(50));
    set(&mut cluster.pods[2], "Running", false, at(1));
    set(&mut cluster.pods[3], "Pending", false, at(1));
    set(&mut cluster.pods[4], "Running", true, at(5));
    cluster.pods[4].metadata.annotations = Some(
        [(
            "controller.kubernetes.io/pod-deletion-cost".to_owned(),
            "-5".to_owned(),
        )]
        .into(),
    );
    set(&mut cluster.pods[5], "Running", true, at(10));
    cluster.pods[5]
        .status
        .as_mut()
        .expect("status")
        .container_statuses = Some(vec![
        serde_json::from_value(
            json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}),
        )
        .expect("status"),
    ]);
    let mut order = Vec::new();
    for replicas in (0..6).rev() {
        cluster.scale(replicas);
        let plan = cluster.step(at(60));
        assert_eq!(plan.delete.len(), 1);
        order.push(
            names
                .iter()
                .position(|name| *name == plan.delete[0].1)
                .expect("known"),
        );
    }
    // Not started, not ready, cheap, ready for the shortest time, most restarts, the rest.
    assert_eq!(order, [3, 2, 4, 1, 5, 0]);
}

#[test]
fn failed_pods_are_replaced_ever_more_slowly_and_removed_in_the_end() {
    let mut cluster = Cluster::new(deployment(1, "a", rolling(json!(1), json!(1))));
    let mut made = Vec::new();
    for second in 0..200 {
        let plan = cluster.step(at(second));
        if !plan.create.is_empty() {
            made.push(second);
            // The node refuses it at once.
            let pod = cluster.pods.last_mut().expect("made");
            set(pod, "Failed", false, at(second));
        } else if let Some(again) = plan.again {
            assert!(again > at(second), "waking up must be for something");
        }
        cluster.ended_are_gone();
    }
    assert_eq!(made, [0, 1, 11, 31, 71, 151]);
    let late = at(151 + 600);
    let plan = cluster.step(late);
    assert_eq!((plan.create.len(), plan.delete.len()), (1, 5));
}

#[test]
fn scaling_down_in_the_middle_of_a_rollout_makes_no_pods_beyond_the_new_limit() {
    let mut cluster = Cluster::new(deployment(4, "a", rolling(json!(1), json!(0))));
    cluster.step(at(0));
    cluster.all_ready(at(1));
    cluster.image("b");
    cluster.step(at(2));
    cluster.scale(3);
    // An old pod fails: with those of the new template there are as many as there may be.
    set(&mut cluster.pods[0], "Failed", false, at(3));
    let plan = cluster.step(at(3));
    assert!(plan.create.is_empty(), "{plan:?}");
}

#[test]
fn pods_that_were_to_end_but_serve_by_now_are_counted_once() {
    let mut cluster = Cluster::new(deployment(3, "a", rolling(json!(0), json!(2))));
    cluster.step(at(0));
    set(&mut cluster.pods[1], "Running", true, at(1));
    cluster.image("b");
    // The agent was killed after it had planned, before it ended the two that serve nobody.
    cluster.generations = cluster.plan(at(2)).generations;
    set(&mut cluster.pods[0], "Running", true, at(3));
    cluster.step(at(4));
    let serving = cluster.pods[..2]
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .count();
    assert_eq!(serving, 1, "one of three must be available");
    // Should more be needed by now, they stay.
    let mut cluster = Cluster::new(deployment(3, "a", rolling(json!(0), json!(2))));
    cluster.step(at(0));
    cluster.image("b");
    cluster.generations = cluster.plan(at(2)).generations;
    cluster.all_ready(at(3));
    cluster
        .deployment
        .spec
        .as_mut()
        .expect("spec")
        .strategy
        .as_mut()
        .expect("strategy")
        .rolling_update = None;
    cluster.step(at(4));
    assert_eq!(cluster.running("a"), 3);
}

#[test]
fn a_lost_record_is_made_good_from_the_pods() {
    let mut cluster = Cluster::new(deployment(3, "a", rolling(json!(1), json!(1))));
    cluster.step(at(0));
    cluster.all_ready(at(1));
    cluster.generations.clear();
    let plan = cluster.step(at(2));
    assert_eq!((plan.create.len(), plan.delete.len()), (0, 0));
    // Lost while the template changed as well: the old pods' template is unknown, they are replaced all the same.
    cluster.image("b");
    cluster.generations.clear();
    for second in 3..20 {
        cluster.step(at(second));
        cluster.all_ready(at(second));
        cluster.ended_are_gone();
    }
    assert_eq!((cluster.running("a"), cluster.running("b")), (0, 3));
}

#[test]
fn two_templates_never_share_a_hash() {
    let mut cluster = Cluster::new(deployment(1, "a", rolling(json!(1), json!(1))));
    let own = template::hash(&cluster.deployment.spec.as_ref().expect("spec").template, 0);
    let other = deployment(1, "other", json!({})).spec.expect("spec").template;
    cluster.generations = vec![Generation {
        hash: own.clone(),
        template: Some(other),
        replicas: 0,
    }];
    let plan = cluster.step(at(0));
    assert_ne!(plan.create[0], own);
    assert_eq!(plan.status.collision_count, Some(1));
}

#[test]
fn the_status_of_a_settled_deployment_does_not_change_with_time() {
    let mut cluster = Cluster::new(deployment(2, "a", rolling(json!(1), json!(1))));
    cluster.step(at(0));
    cluster.all_ready(at(1));
    let first = cluster.step(at(2)).status;
    assert_eq!(cluster.step(at(5000)).status, first);
    // A pod that is not ready for a while is no rollout.
    set(&mut cluster.pods[0], "Running", false, at(5001));
    let plan = cluster.step(at(5002));
    assert_eq!(says(&plan, "Progressing"), pair("True", "NewReplicaSetAvailable"));
    assert_eq!(plan.status.unavailable_replicas, Some(1));
    let later = cluster.plan(at(5002) + SignedDuration::from_hours(1));
    assert_eq!(
        says(&later, "Progressing"),
        pair("True", "NewReplicaSetAvailable")
    );
}
