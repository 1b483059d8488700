//! Probes and hooks, and what both are made of.

use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Checker, container::Context};
use crate::pod::spec;

impl Context<'_> {
    pub(super) fn probes(self, checker: &mut Checker, at: &str) {
        let probes = [
            ("livenessProbe", &self.container.liveness_probe),
            ("readinessProbe", &self.container.readiness_probe),
            ("startupProbe", &self.container.startup_probe),
        ];
        for (name, probe) in probes {
            if let Some(probe) = probe {
                self.probe(probe, checker, &format!("{at}.{name}"), name == "readinessProbe");
            }
        }
    }

    fn probe(self, probe: &Probe, checker: &mut Checker, at: &str, readiness: bool) {
        let set = [
            probe.exec.is_some(),
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.grpc.is_some(),
        ];
        checker.exactly_one(&set, at, "handler type", "exec, httpGet, tcpSocket or grpc");
        let numbers = [
            ("initialDelaySeconds", probe.initial_delay_seconds, 0),
            ("timeoutSeconds", probe.timeout_seconds, 1),
            ("periodSeconds", probe.period_seconds, 1),
            ("successThreshold", probe.success_threshold, 1),
            ("failureThreshold", probe.failure_threshold, 1),
        ];
        for (name, value, least) in numbers {
            checker.between(value.map(i64::from), &format!("{at}.{name}"), least, i64::MAX);
        }
        if !readiness && probe.success_threshold.is_some_and(|threshold| threshold > 1) {
            checker.fault(format!("{at}.successThreshold"), "Invalid value: must be 1");
        }
        let grace = probe.termination_grace_period_seconds;
        let path = format!("{at}.terminationGracePeriodSeconds");
        if readiness && grace.is_some() {
            checker.fault(path, "Invalid value: must not be set for readinessProbes");
        } else {
            checker.between(grace, &path, 1, i64::MAX);
        }
        if let Some(exec) = &probe.exec {
            checker.exec(exec, at);
        }
        if let Some(get) = &probe.http_get {
            checker.http_get(get, self.container, at);
        }
        if let Some(socket) = &probe.tcp_socket {
            checker.port(&socket.port, self.container, &format!("{at}.tcpSocket.port"));
        }
        if let Some(grpc) = &probe.grpc {
            checker.between(Some(grpc.port.into()), &format!("{at}.grpc.port"), 1, 65_535);
        }
    }

    pub(super) fn hooks(self, checker: &mut Checker, at: &str) {
        let Some(lifecycle) = &self.container.lifecycle else {
            return;
        };
        for (name, hook) in [
            ("postStart", &lifecycle.post_start),
            ("preStop", &lifecycle.pre_stop),
        ] {
            if let Some(hook) = hook {
                self.hook(hook, checker, &format!("{at}.lifecycle.{name}"));
            }
        }
    }

    fn hook(self, hook: &LifecycleHandler, checker: &mut Checker, at: &str) {
        let set = [
            hook.exec.is_some(),
            hook.http_get.is_some(),
            hook.sleep.is_some(),
            hook.tcp_socket.is_some(),
        ];
        checker.exactly_one(&set, at, "handler type", "exec, httpGet or sleep");
        if let Some(exec) = &hook.exec {
            checker.exec(exec, at);
        }
        if let Some(get) = &hook.http_get {
            checker.http_get(get, self.container, at);
        }
        if let Some(sleep) = &hook.sleep {
            // A longer one would be cut off by the grace period in any case.
            let most = self
                .spec
                .termination_grace_period_seconds
                .filter(|seconds| *seconds >= 0)
                .unwrap_or(30);
            checker.between(Some(sleep.seconds), &format!("{at}.sleep.seconds"), 0, most);
        }
    }
}

impl Checker {
    fn exec(&mut self, exec: &ExecAction, at: &str) {
        if exec.command.as_ref().is_none_or(Vec::is_empty) {
            self.required(format!("{at}.exec.command"));
        }
    }

    fn http_get(&mut self, get: &HTTPGetAction, container: &Container, at: &str) {
        let at = format!("{at}.httpGet");
        if get.path.as_deref() == Some("") {
            self.required(format!("{at}.path"));
        }
        self.port(&get.port, container, &format!("{at}.port"));
        self.one_of(get.scheme.as_deref(), &format!("{at}.scheme"), &["HTTP", "HTTPS"]);
        for (index, header) in get.http_headers.iter().flatten().enumerate() {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if header.name.is_empty() || !header.name.chars().all(word) {
                self.fault(
                    format!("{at}.httpHeaders[{index}].name"),
                    format!(
                        "Invalid value: \"{}\": must be letters, digits and '-'",
                        header.name
                    ),
                );
            }
        }
    }

    fn port(&mut self, port: &IntOrString, container: &Container, path: &str) {
        match port {
            IntOrString::Int(number) => self.between(Some((*number).into()), path, 1, 65_535),
            IntOrString::String(_) if spec::port_number(container, port).is_some() => {}
            IntOrString::String(name) => {
                self.fault(
                    path,
                    format!("Invalid value: \"{name}\": no port of the container is named so"),
                );
            }
        }
    }
}
