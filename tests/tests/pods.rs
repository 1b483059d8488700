//! What a pod may ask for, on a real runtime.

use anyhow::{Context, Result, bail, ensure};
use keelson_tests::node::{
    Node, Options,
    objects::{READY, is_ready, name},
};
use serde_json::Value;

fn node() -> Result<Node> {
    Node::start(Options {
        images: vec!["busybox"],
        ..Options::default()
    })
}

fn state(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]
}

fn waiting_reason(pod: &Value) -> &str {
    state(pod)["waiting"]["reason"].as_str().unwrap_or_default()
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"]
        .as_u64()
        .unwrap_or_default()
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one manifest, and what each of its parts must give"
)]
fn environment_files_and_arguments_reach_the_container() -> Result<()> {
    let node = node()?;
    node.write_manifest(
        "all.yaml",
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOR: blue, file.txt: "from a ConfigMap"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {token: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: all, labels: {app: all}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: first, image: "busybox:1", command: [sh, -c, "echo one > /shared/order"], resources: {limits: {cpu: 100m, memory: 16Mi}}, volumeMounts: [{name: shared, mountPath: /shared}]}
  - {name: second, image: "busybox:1", command: [sh, -c, "echo two >> /shared/order"], resources: {limits: {cpu: 100m, memory: 16Mi}}, volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c]
    args: ["echo started as $(POD) with $(COLOR); exec sleep 1000"]
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: COLOR}}}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
    envFrom: [{configMapRef: {name: settings}, prefix: ALL_}]
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host, readOnly: true}
    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 200m, memory: 32Mi}}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: config, configMap: {name: settings}}
  - {name: secret, secret: {secretName: keys, defaultMode: 0400}}
  - {name: host, hostPath: {path: /etc, type: Directory}}
"#,
    )?;
    node.wait_ready("all", 1)?;
    let sh = |script: &str| node.exec("all", &["sh", "-c", script]);
    ensure!(
        sh("cat /shared/order")? == "one\ntwo\n",
        "the init containers ran in order"
    );
    ensure!(sh("echo $POD $COLOR $TOKEN $ALL_COLOR")? == "all blue s3cret blue\n");
    ensure!(sh("cat /config/file.txt; echo; cat /secret/token")? == "from a ConfigMap\ns3cret");
    ensure!(sh("stat -L -c %a /secret/token")? == "400\n");
    ensure!(sh("grep -c ' /memory tmpfs' /proc/mounts")? == "1\n");
    ensure!(sh("test -f /host/passwd && ! touch /host/x 2>/dev/null && echo ok")? == "ok\n");
    let logs = node.keelson(&["logs", "all"])?;
    ensure!(logs == "started as all with blue\n", "{logs:?}");
    let pod = node.object("pods", "all")?;
    ensure!(pod["status"]["qosClass"] == "Burstable");
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let limit = node.run("sh", &["-c", &format!("cat /sys/fs/cgroup/memory{}/kubepods/burstable/pod{uid}/memory.limit_in_bytes || cat /sys/fs/cgroup{}/kubepods/burstable/pod{uid}/memory.max", node.cgroup().path(), node.cgroup().path())])?;
    ensure!(limit.trim() == "33554432", "the pod's memory limit is {limit}");
    // A changed ConfigMap reaches the running pod.
    let text = std::fs::read_to_string(node.manifests().join("all.yaml"))?;
    node.write_manifest("all.yaml", &text.replace("from a ConfigMap", "changed"))?;
    node.wait("the changed file", READY, |_| {
        Ok((sh("cat /config/file.txt")? == "changed").then_some(()))
    })?;
    node.down()
}

#[test]
fn a_container_that_crashes_is_restarted_and_then_backs_off() -> Result<()> {
    let node = node()?;
    node.write_manifest(
        "crash.yaml",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: crash, labels: {app: crash}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "busybox:1", command: [sh, -c, "echo try; exit 3"]}
"#,
    )?;
    let pod = node.wait_pod("crash", "to back off", |pod| {
        waiting_reason(pod) == "CrashLoopBackOff"
    })?;
    ensure!(
        restarts(&pod) >= 1,
        "it was restarted once at once: {}",
        pod["status"]
    );
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    ensure!(last["exitCode"] == 3 && last["reason"] == "Error", "{last}");
    ensure!(
        node.keelson(&["logs", "-p", "crash"])? == "try\n",
        "the previous log is there"
    );
    let events = node.keelson(&["get", "events"])?;
    ensure!(events.contains("BackOff"), "{events}");
    let shown = node.keelson(&["get", "pods"])?;
    ensure!(shown.contains("CrashLoopBackOff"), "{shown}");
    node.down()
}

#[test]
fn a_failed_liveness_probe_restarts_the_container_and_a_startup_probe_holds_it_off() -> Result<()> {
    let node = node()?;
    node.write_manifest(
        "probes.yaml",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: sick, labels: {app: sick}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "touch /tmp/well; sleep 1000"]
    livenessProbe: {exec: {command: [test, -f, /tmp/well]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: slow, labels: {app: slow}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "sleep 4; touch /tmp/up; httpd -f -p 8081 -h /tmp"]
    startupProbe: {exec: {command: [test, -f, /tmp/up]}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1, failureThreshold: 3, initialDelaySeconds: 1}
    readinessProbe: {httpGet: {path: /up, port: 8081}, periodSeconds: 1}
"#,
    )?;
    node.wait_ready("sick", 1)?;
    node.exec("sick", &["rm", "/tmp/well"])?;
    node.wait_pod("sick", "to be restarted", |pod| restarts(pod) == 1)?;
    let slow = node.wait_ready("slow", 1)?;
    ensure!(
        restarts(&slow[0]) == 0,
        "liveness waited for startup: {}",
        slow[0]["status"]
    );
    let events = node.keelson(&["describe", "pod", "sick"])?;
    ensure!(
        events.contains("Unhealthy") && events.contains("Killing"),
        "{events}"
    );
    node.down()
}

#[test]
fn pods_that_end_say_how_and_stay_ended() -> Result<()> {
    let node = node()?;
    let pod = |name: &str, policy: &str, command: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  terminationGracePeriodSeconds: 0\n  \
             containers:\n  - {{name: main, image: \"busybox:1\", command: [sh, -c, \"{command}\"]}}\n---\n"
        )
    };
    let all = pod("good", "Never", "exit 0")
        + &pod("bad", "Never", "echo last words > /dev/termination-log; exit 7")
        + &pod("tries", "OnFailure", "exit 0");
    node.write_manifest("ends.yaml", &all)?;
    let phase =
        |name: &str, phase: &'static str| node.wait_pod(name, phase, |pod| pod["status"]["phase"] == phase);
    let good = phase("good", "Succeeded")?;
    ensure!(state(&good)["terminated"]["reason"] == "Completed");
    let bad = phase("bad", "Failed")?;
    ensure!(state(&bad)["terminated"]["exitCode"] == 7);
    ensure!(
        state(&bad)["terminated"]["message"]
            .as_str()
            .unwrap_or_default()
            .contains("last words"),
        "{}",
        bad["status"]
    );
    phase("tries", "Succeeded")?;
    node.down()
}

#[test]
fn what_is_missing_keeps_one_pod_waiting_with_its_reason_and_others_go_on() -> Result<()> {
    let node = node()?;
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: no-image}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "nowhere:1", imagePullPolicy: Never}]}
---
apiVersion: v1
kind: Pod
metadata: {name: no-key}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "busybox:1", command: [sleep, "1000"], env: [{name: X, valueFrom: {configMapKeyRef: {name: later, key: x}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: no-volume}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "busybox:1", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, secret: {secretName: later}}]
---
apiVersion: v1
kind: Pod
metadata: {name: fine, labels: {app: fine}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1", command: [sleep, "1000"]}]}
"#;
    node.write_manifest("missing.yaml", manifest)?;
    node.wait_ready("fine", 1)?;
    node.wait_pod("no-image", "to name the image", |pod| {
        waiting_reason(pod) == "ErrImageNeverPull"
    })?;
    node.wait_pod("no-key", "to name the key", |pod| {
        waiting_reason(pod) == "CreateContainerConfigError"
    })?;
    node.wait_pod("no-volume", "to wait", |pod| {
        waiting_reason(pod) == "ContainerCreating"
    })?;
    node.wait("the event about the volume", READY, |node| {
        let text = node.keelson(&["describe", "pod", "no-volume"])?;
        if text.contains("FailedMount") && text.contains("later") {
            Ok(Some(()))
        } else {
            bail!("{text}")
        }
    })?;
    node.write_manifest("later.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: later}\ndata: {x: \"1\"}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: later}\nstringData: {x: \"1\"}\n")?;
    node.wait_pod("no-key", "to run", is_ready)?;
    node.wait_pod("no-volume", "to run", is_ready)?;
    node.down()
}

#[test]
fn a_killed_container_comes_back_within_the_same_pod() -> Result<()> {
    let node = node()?;
    node.write_manifest(
        "one.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: one, labels: {app: one}}\nspec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: \"busybox:1\", command: [sleep, \"1000\"]}]}\n",
    )?;
    let before = node.wait_ready("one", 1)?;
    let pid = node.pod_pid(&before[0])?;
    node.run("kill", &["-KILL", &pid.to_string()])?;
    let after = node.wait_pod("one", "to be restarted", |pod| {
        restarts(pod) == 1 && is_ready(pod)
    })?;
    ensure!(after["metadata"]["uid"] == before[0]["metadata"]["uid"]);
    ensure!(
        after["status"]["podIP"] == before[0]["status"]["podIP"],
        "the sandbox stayed"
    );
    let last = &after["status"]["containerStatuses"][0]["lastState"]["terminated"];
    ensure!(last["exitCode"] == 137, "{last}");
    node.down()
}

#[test]
fn termination_runs_the_pre_stop_hook_and_gives_the_grace() -> Result<()> {
    let node = node()?;
    node.write_manifest(
        "polite.yaml",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: polite, labels: {app: polite}}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "trap 'echo term >> /out/log; exit 0' TERM; while true; do sleep 0.1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook >> /out/log"]}}}
    volumeMounts: [{name: out, mountPath: /out}]
  volumes: [{name: out, hostPath: {path: /run/polite, type: DirectoryOrCreate}}]
"#,
    )?;
    node.wait_ready("polite", 1)?;
    node.remove_manifest("polite.yaml")?;
    node.wait("the pod to be gone", READY, |node| {
        Ok(node.list("pods")?.is_empty().then_some(()))
    })?;
    ensure!(node.run("cat", &["/run/polite/log"])? == "hook\nterm\n");
    ensure!(
        node.ctr(&["containers", "list", "-q"])?.trim().is_empty(),
        "nothing is left in the runtime"
    );
    let left = node.run(
        "sh",
        &[
            "-c",
            "ls /var/lib/kubelet/pods /var/log/pods | grep -v : | tr -d '\\n'",
        ],
    )?;
    ensure!(left.is_empty(), "directories are left: {left}");
    let links = node.run("ip", &["-o", "link"])?;
    ensure!(
        !links.lines().any(|line| line.contains(": kl")),
        "a pod link is left: {links}"
    );
    node.down()
}

#[test]
fn a_duplicate_name_or_node_port_is_refused_and_both_owners_are_named() -> Result<()> {
    let node = node()?;
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, selector: {{app: x}}, ports: [{{port: 80, nodePort: 30080}}]}}\n"
        )
    };
    node.write_manifest("a.yaml", &service("first"))?;
    node.wait("the first Service", READY, |node| {
        Ok(node.node_port("first").is_ok().then_some(()))
    })?;
    node.write_manifest("b.yaml", &service("second"))?;
    node.write_manifest("c.yaml", &service("first"))?;
    let told = |words: [&'static str; 3]| {
        node.wait(&format!("a report of {words:?}"), READY, |node| {
            let text = node.keelson(&["get", "manifests", "-o", "wide"])?
                + &node.keelson(&["get", "events", "-A"])?;
            if words.iter().all(|word| text.contains(word)) {
                Ok(Some(()))
            } else {
                bail!("{text}")
            }
        })
    };
    told(["first", "second", "30080"])?;
    told(["a.yaml", "c.yaml", "first"])?;
    ensure!(
        node.node_port("first")?.port() == 30080,
        "the first keeps what it has"
    );
    node.down()
}

#[test]
fn a_bad_manifest_leaves_the_last_good_state_running_and_is_told_with_its_place() -> Result<()> {
    let node = node()?;
    let pod = |line: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: other}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: one, labels: {{app: one}}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {line}\n  containers:\n  - {{name: main, image: \"busybox:1\", command: [sleep, \"1000\"]}}\n"
        )
    };
    node.write_manifest("one.yaml", &pod("restartPolicy: Always"))?;
    let before = node.wait_ready("one", 1)?;
    for (bad, word) in [
        ("restartPolicy: [", "line"),
        ("restartPolize: Always", "restartPolize"),
        ("runtimeClassName: x", "runtimeClassName"),
    ] {
        node.write_manifest("one.yaml", &pod(bad))?;
        node.wait(&format!("a report that names {word}"), READY, |node| {
            let text = node.keelson(&["get", "manifests", "-o", "wide"])?;
            if text.contains("one.yaml") && text.contains(word) {
                Ok(Some(()))
            } else {
                bail!("{text}")
            }
        })?;
        let now = node.pods("one")?;
        ensure!(
            now.len() == 1
                && name(&now[0]) == "one"
                && now[0]["metadata"]["uid"] == before[0]["metadata"]["uid"],
            "the pod runs on"
        );
    }
    let text = node.keelson(&["get", "manifests", "-o", "wide"])?;
    ensure!(text.contains("document 2"), "the document is named: {text}");
    ensure!(
        node.keelson(&["get", "events", "-A"])?.contains("one.yaml"),
        "there is an event"
    );
    ensure!(node.log_tail(200).contains("one.yaml"), "the log names the file");
    // And it survives a restart of the agent while the file is still bad.
    let mut node = node;
    node.kill_agent()?;
    node.start_agent()?;
    let now = node.wait_ready("one", 1)?;
    ensure!(
        now[0]["metadata"]["uid"] == before[0]["metadata"]["uid"],
        "the last good state survived the restart"
    );
    node.down()
}
