//! What a pod may not say, by the path of its field. Each case changes one thing of a pod that is fine.

use super::*;

/// A pod that uses much of what there is, and is fine.
fn fine() -> Value {
    json!({
        "restartPolicy": "Always", "dnsPolicy": "None", "hostname": "web", "subdomain": "sub",
        "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["lan"], "options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["db.lan"]}],
        "terminationGracePeriodSeconds": 30, "activeDeadlineSeconds": 600,
        "readinessGates": [{"conditionType": "example.com/ready"}],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000, "supplementalGroups": [3000],
                            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": "/srv", "type": "Directory"}},
            {"name": "page", "configMap": {"name": "page", "defaultMode": 256, "items": [{"key": "index.html", "path": "www/index.html", "mode": 292}]}},
            {"name": "keys", "secret": {"secretName": "keys", "items": [{"key": "k", "path": "k"}]}},
        ],
        "initContainers": [{"name": "first", "image": "i:1"}],
        "containers": [{
            "name": "c", "image": "i:1", "imagePullPolicy": "IfNotPresent", "terminationMessagePolicy": "File",
            "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                {"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
            "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "2Mi"}},
            "volumeMounts": [
                {"name": "scratch", "mountPath": "/scratch"}, {"name": "page", "mountPath": "/page", "subPath": "www"},
                {"name": "host", "mountPath": "/srv", "subPathExpr": "$(A)", "mountPropagation": "HostToContainer"}],
            "livenessProbe": {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP", "httpHeaders": [{"name": "X-A", "value": "1"}]},
                              "terminationGracePeriodSeconds": 5},
            "readinessProbe": {"exec": {"command": ["true"]}, "successThreshold": 2},
            "startupProbe": {"grpc": {"port": 80, "service": "s"}},
            "lifecycle": {"postStart": {"exec": {"command": ["true"]}}, "preStop": {"sleep": {"seconds": 30}}},
            "securityContext": {"runAsUser": 0, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                                "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}},
        }],
    })
}

/// The pod with the value at a path (as [`Value::pointer`] writes it, `-` appends) replaced; `null` removes.
fn changed(at: &str, value: Value) -> Pod {
    let mut spec = fine();
    let (parent, name) = at.rsplit_once('/').expect("a path");
    match spec.pointer_mut(parent).expect("the parent") {
        Value::Array(list) if name == "-" => list.push(value),
        Value::Array(list) => list[name.parse::<usize>().expect("an index")] = value,
        Value::Object(map) if value.is_null() => {
            map.remove(name);
        }
        Value::Object(map) => {
            map.insert(name.to_owned(), value);
        }
        other => panic!("{parent} is {other}"),
    }
    pod(spec)
}

/// Each line: what to change | to what (JSON) | the path of the one fault that this makes.
fn refuses(table: &str) {
    assert_eq!(validate::validate(&pod(fine())), [], "the base must be fine");
    let lines = table.lines().filter(|line| !line.trim().is_empty());
    for line in lines {
        let parts: Vec<_> = line.split(" | ").map(str::trim).collect();
        let [at, value, path] = parts[..] else {
            panic!("not a case: {line}");
        };
        let value = serde_json::from_str(value).expect("JSON");
        let errors = validate::validate(&changed(at, value));
        let found: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(found, [format!("spec.{path}")], "{line}: {errors:?}");
    }
}

#[test]
fn fields_of_the_pod() {
    refuses(
        r#"
        /dnsPolicy | "Mine" | dnsPolicy
        /dnsConfig | null | dnsConfig.nameservers
        /dnsConfig/nameservers | ["x"] | dnsConfig.nameservers[0]
        /dnsConfig/nameservers | ["::1", "::2", "::3", "::4"] | dnsConfig.nameservers
        /dnsConfig/options/- | {"value": "1"} | dnsConfig.options[1].name
        /hostname | "Web_1" | hostname
        /subdomain | "a.b" | subdomain
        /hostAliases/0/ip | "db" | hostAliases[0].ip
        /hostAliases/0/hostnames | ["a b"] | hostAliases[0].hostnames[0]
        /terminationGracePeriodSeconds | -1 | terminationGracePeriodSeconds
        /activeDeadlineSeconds | 0 | activeDeadlineSeconds
        /activeDeadlineSeconds | 3000000000 | activeDeadlineSeconds
        /readinessGates/0/conditionType | "a b" | readinessGates[0].conditionType
        /restartPolicy | "Sometimes" | restartPolicy
        "#,
    );
    let both =
        json!({"hostPID": true, "shareProcessNamespace": true, "containers": [{"name": "c", "image": "i"}]});
    assert_eq!(
        validate::validate(&pod(both))[0].path,
        "spec.shareProcessNamespace"
    );
}

#[test]
fn users_groups_and_kernel_settings() {
    refuses(
        r#"
        /securityContext/runAsUser | -1 | securityContext.runAsUser
        /securityContext/fsGroup | 4294967296 | securityContext.fsGroup
        /securityContext/supplementalGroups/- | -5 | securityContext.supplementalGroups[1]
        /securityContext/sysctls/0/name | "kernel.panic" | securityContext.sysctls[0].name
        /securityContext/seccompProfile/type | "Mine" | securityContext.seccompProfile.type
        /containers/0/securityContext/runAsGroup | -1 | containers[0].securityContext.runAsGroup
        /containers/0/securityContext/privileged | true | containers[0].securityContext
        /containers/0/securityContext/capabilities/add | ["CAP_SYS_ADMIN"] | containers[0].securityContext
        /containers/0/securityContext/seccompProfile/localhostProfile | null | containers[0].securityContext.seccompProfile.localhostProfile
        /containers/0/securityContext/seccompProfile/localhostProfile | "../x" | containers[0].securityContext.seccompProfile.localhostProfile
        /containers/0/securityContext/seccompProfile/type | "RuntimeDefault" | containers[0].securityContext.seccompProfile.localhostProfile
        "#,
    );
    let mut net = fine();
    net["hostNetwork"] = json!(true);
    assert_eq!(
        validate::validate(&pod(net))[0].path,
        "spec.securityContext.sysctls[0].name"
    );
}

#[test]
fn volumes_and_their_files() {
    refuses(
        r#"
        /volumes/- | {"name": "Scratch_", "emptyDir": {}} | volumes[4].name
        /volumes/0/emptyDir/medium | "HugePages" | volumes[0].emptyDir.medium
        /volumes/0/emptyDir/sizeLimit | "much" | volumes[0].emptyDir.sizeLimit
        /volumes/0/emptyDir/medium | null | volumes[0].emptyDir.sizeLimit
        /volumes/1/hostPath/path | "" | volumes[1].hostPath.path
        /volumes/1/hostPath/path | "/a/../b" | volumes[1].hostPath.path
        /volumes/1/hostPath/type | "Pipe" | volumes[1].hostPath.type
        /volumes/2/configMap/name | "" | volumes[2].configMap.name
        /volumes/2/configMap/defaultMode | 512 | volumes[2].configMap.defaultMode
        /volumes/2/configMap/items/0/key | "" | volumes[2].configMap.items[0].key
        /volumes/2/configMap/items/0/path | "/etc/x" | volumes[2].configMap.items[0].path
        /volumes/2/configMap/items/0/path | "a/../b" | volumes[2].configMap.items[0].path
        /volumes/2/configMap/items/0/path | "..data" | volumes[2].configMap.items[0].path
        /volumes/2/configMap/items/0/mode | -1 | volumes[2].configMap.items[0].mode
        /volumes/3/secret/secretName | null | volumes[3].secret.secretName
        /volumes/- | {"name": "keys", "emptyDir": {}} | volumes[4].name
        /volumes/- | {"name": "none"} | volumes[4]
        /volumes/- | {"name": "two", "emptyDir": {}, "hostPath": {"path": "/x"}} | volumes[4]
        "#,
    );
}

#[test]
fn mounts() {
    refuses(
        r#"
        /containers/0/volumeMounts/0/name | "lost" | containers[0].volumeMounts[0].name
        /containers/0/volumeMounts/0/mountPath | "" | containers[0].volumeMounts[0].mountPath
        /containers/0/volumeMounts/0/mountPath | "/a:b" | containers[0].volumeMounts[0].mountPath
        /containers/0/volumeMounts/0/mountPath | "/page" | containers[0].volumeMounts[1].mountPath
        /containers/0/volumeMounts/1/subPath | "/abs" | containers[0].volumeMounts[1].subPath
        /containers/0/volumeMounts/1/subPath | "a/.." | containers[0].volumeMounts[1].subPath
        /containers/0/volumeMounts/1/subPathExpr | "x" | containers[0].volumeMounts[1].subPathExpr
        /containers/0/volumeMounts/2/mountPropagation | "Both" | containers[0].volumeMounts[2].mountPropagation
        /containers/0/volumeMounts/2/mountPropagation | "Bidirectional" | containers[0].volumeMounts[2].mountPropagation
        "#,
    );
}

#[test]
fn a_containers_name_image_ports_and_policies() {
    refuses(
        r#"
        /containers/0/name | "C" | containers[0].name
        /containers/0/name | "first" | containers[0].name
        /containers/0/image | " i:1" | containers[0].image
        /containers/0/imagePullPolicy | "Often" | containers[0].imagePullPolicy
        /containers/0/terminationMessagePolicy | "Mail" | containers[0].terminationMessagePolicy
        /containers/0/ports/0/containerPort | 0 | containers[0].ports[0].containerPort
        /containers/0/ports/0/protocol | "ICMP" | containers[0].ports[0].protocol
        /containers/0/ports/- | {"name": "x--y", "containerPort": 81} | containers[0].ports[1].name
        /containers/0/ports/- | {"name": "http", "containerPort": 81} | containers[0].ports[1].name
        /containers/0/resources/requests/cpu | "-1" | containers[0].resources.requests[cpu]
        /containers/0/resources/requests/cpu | "2" | containers[0].resources.requests[cpu]
        /initContainers/0/livenessProbe | {"tcpSocket": {"port": 1}} | initContainers[0].livenessProbe.tcpSocket.port
        /initContainers/0/restartPolicy | "Always" | initContainers[0].restartPolicy
        "#,
    );
}

#[test]
fn where_the_environment_comes_from() {
    refuses(
        r#"
        /containers/0/env/0/name | "" | containers[0].env[0].name
        /containers/0/env/0/name | "A=B" | containers[0].env[0].name
        /containers/0/env/0/name | "Ä" | containers[0].env[0].name
        /containers/0/env/1/value | "x" | containers[0].env[1].valueFrom
        /containers/0/env/1/valueFrom | {} | containers[0].env[1].valueFrom
        /containers/0/env/1/valueFrom/secretKeyRef | {"name": "s", "key": "k"} | containers[0].env[1].valueFrom
        /containers/0/env/1/valueFrom/fieldRef/fieldPath | "spec.hostname" | containers[0].env[1].valueFrom.fieldRef.fieldPath
        /containers/0/env/1/valueFrom/fieldRef/fieldPath | "metadata.labels['a b']" | containers[0].env[1].valueFrom.fieldRef.fieldPath
        /containers/0/env/2/valueFrom/resourceFieldRef/resource | "limits.gpu" | containers[0].env[2].valueFrom.resourceFieldRef.resource
        /containers/0/env/2/valueFrom/resourceFieldRef/divisor | "3" | containers[0].env[2].valueFrom.resourceFieldRef.divisor
        /containers/0/env/2/valueFrom/resourceFieldRef/containerName | "d" | containers[0].env[2].valueFrom.resourceFieldRef.containerName
        /containers/0/env/3/valueFrom/configMapKeyRef/key | "" | containers[0].env[3].valueFrom.configMapKeyRef.key
        /containers/0/env/3/valueFrom/configMapKeyRef/name | "" | containers[0].env[3].valueFrom.configMapKeyRef.name
        /containers/0/env/4/valueFrom/secretKeyRef/key | "a/b" | containers[0].env[4].valueFrom.secretKeyRef.key
        /containers/0/envFrom/- | {} | containers[0].envFrom[2]
        /containers/0/envFrom/0/secretRef | {"name": "s"} | containers[0].envFrom[0]
        /containers/0/envFrom/0/configMapRef/name | "" | containers[0].envFrom[0].configMapRef.name
        /containers/0/envFrom/0/prefix | "=" | containers[0].envFrom[0].prefix
        "#,
    );
}

#[test]
fn probes_and_hooks() {
    refuses(
        r#"
        /containers/0/livenessProbe/httpGet | null | containers[0].livenessProbe
        /containers/0/livenessProbe/tcpSocket | {"port": 80} | containers[0].livenessProbe
        /containers/0/livenessProbe/httpGet/port | 0 | containers[0].livenessProbe.httpGet.port
        /containers/0/livenessProbe/httpGet/port | "https" | containers[0].livenessProbe.httpGet.port
        /containers/0/livenessProbe/httpGet/scheme | "FTP" | containers[0].livenessProbe.httpGet.scheme
        /containers/0/livenessProbe/httpGet/path | "" | containers[0].livenessProbe.httpGet.path
        /containers/0/livenessProbe/httpGet/httpHeaders/0/name | "a b" | containers[0].livenessProbe.httpGet.httpHeaders[0].name
        /containers/0/livenessProbe/successThreshold | 2 | containers[0].livenessProbe.successThreshold
        /containers/0/livenessProbe/terminationGracePeriodSeconds | 0 | containers[0].livenessProbe.terminationGracePeriodSeconds
        /containers/0/readinessProbe/terminationGracePeriodSeconds | 5 | containers[0].readinessProbe.terminationGracePeriodSeconds
        /containers/0/readinessProbe/exec/command | [] | containers[0].readinessProbe.exec.command
        /containers/0/readinessProbe/periodSeconds | -1 | containers[0].readinessProbe.periodSeconds
        /containers/0/startupProbe/grpc/port | 70000 | containers[0].startupProbe.grpc.port
        /containers/0/lifecycle/postStart/exec | null | containers[0].lifecycle.postStart
        /containers/0/lifecycle/postStart/httpGet | {"path": "/", "port": 80} | containers[0].lifecycle.postStart
        /containers/0/lifecycle/preStop/sleep/seconds | 31 | containers[0].lifecycle.preStop.sleep.seconds
        /containers/0/lifecycle/preStop/sleep/seconds | -1 | containers[0].lifecycle.preStop.sleep.seconds
        "#,
    );
}

#[test]
fn what_the_node_is_may_be_said_but_not_another() {
    let os = |name: &str| {
        pod(json!({"os": {"name": name}, "hostUsers": true, "containers": [{"name": "c", "image": "i"}]}))
    };
    assert_eq!(validate::validate(&os("linux")), []);
    assert_eq!(validate::validate(&os("windows"))[0].path, "spec.os.name");
    let users = pod(json!({"hostUsers": false, "containers": [{"name": "c", "image": "i"}]}));
    assert_eq!(validate::validate(&users)[0].path, "spec.hostUsers");
}

#[test]
fn a_templates_fields_are_named_from_its_root() {
    let spec = pod(json!({"containers": []})).spec.expect("spec");
    let errors = validate::validate_spec(&spec, "spec.template.spec");
    assert_eq!(errors[0].path, "spec.template.spec.containers");
}
