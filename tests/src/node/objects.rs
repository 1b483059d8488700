//! What tests say about objects.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Node;
use crate::{http, namespace};

/// Pods become ready within this time, or the test fails.
pub const READY: Duration = Duration::from_secs(60);

impl Node {
    /// Put a manifest into the folder, whole.
    pub fn write_manifest(&self, name: &str, text: &str) -> Result<()> {
        let path = self.manifests().join(name);
        let temporary = self.manifests().join(format!(".{name}.tmp"));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Take a manifest away.
    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        let path = self.manifests().join(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Objects of a kind, as JSON.
    pub fn list(&self, resource: &str) -> Result<Vec<Value>> {
        let text = self.keelson(&["get", resource, "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)
            .with_context(|| format!("keelson get {resource} printed {text:?}"))?;
        Ok(match list.get("items") {
            Some(Value::Array(items)) => items.clone(),
            _ => vec![list],
        })
    }

    /// One object.
    pub fn object(&self, resource: &str, name: &str) -> Result<Value> {
        let all = self.list(resource)?;
        let found = all.into_iter().find(|object| object["metadata"]["name"] == name);
        found.with_context(|| format!("there is no {resource} {name}"))
    }

    /// Pods with a label, without those that are terminating.
    pub fn pods(&self, app: &str) -> Result<Vec<Value>> {
        let mut pods = self.list("pods")?;
        pods.retain(|pod| {
            pod["metadata"]["labels"]["app"] == app && pod["metadata"]["deletionTimestamp"].is_null()
        });
        Ok(pods)
    }

    /// Wait until exactly so many pods of a label are there, all ready; returns them.
    pub fn wait_ready(&self, app: &str, count: usize) -> Result<Vec<Value>> {
        self.wait(&format!("{count} ready pods of {app}"), READY, |node| {
            let pods = node.pods(app)?;
            if pods.len() == count && pods.iter().all(is_ready) {
                return Ok(Some(pods));
            }
            bail!("{}", node.keelson(&["get", "pods", "-A", "-o", "wide"])?)
        })
    }

    /// Wait until a pod's status satisfies `condition`; returns the pod.
    pub fn wait_pod(&self, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait(&format!("pod {name} {what}"), READY, |node| {
            let pod = node.object("pods", name)?;
            if condition(&pod) {
                return Ok(Some(pod));
            }
            bail!("its status is {}", pod["status"])
        })
    }

    /// The NodePort of a Service's first port, as clients reach it.
    pub fn node_port(&self, service: &str) -> Result<SocketAddr> {
        let object = self.object("services", service)?;
        let port = object["spec"]["ports"][0]["nodePort"]
            .as_u64()
            .context("it has no nodePort yet")?;
        Ok(SocketAddr::from((self.address(), u16::try_from(port)?)))
    }

    /// The cluster address of a Service with its first port.
    pub fn cluster_address(&self, service: &str) -> Result<SocketAddr> {
        let object = self.object("services", service)?;
        let ip = object["spec"]["clusterIP"]
            .as_str()
            .context("it has no clusterIP yet")?;
        let port = object["spec"]["ports"][0]["port"]
            .as_u64()
            .context("it has no port")?;
        Ok(format!("{ip}:{port}").parse()?)
    }

    /// Wait until a GET from the client is answered with 200; returns the body.
    pub fn wait_http(&self, address: SocketAddr) -> Result<String> {
        self.wait(
            &format!("{address} to answer the client"),
            READY,
            |node| match node.client().enter(move || http::get(address, "/"))?? {
                (200, body) => Ok(Some(body)),
                (status, body) => bail!("{status}: {body}"),
            },
        )
    }

    /// Process id of a pod's first container: its namespaces are the pod's.
    pub fn pod_pid(&self, pod: &Value) -> Result<u32> {
        let id = pod["status"]["containerStatuses"][0]["containerID"]
            .as_str()
            .context("no container yet")?;
        let id = id.rsplit('/').next().unwrap_or(id);
        let tasks = self.ctr(&["tasks", "list"])?;
        let line = tasks
            .lines()
            .find(|line| line.starts_with(id))
            .with_context(|| format!("no task {id}"))?;
        Ok(line.split_whitespace().nth(1).context("no pid")?.parse()?)
    }

    /// Do something in a pod's network namespace.
    pub fn in_pod<T: Send + 'static>(
        &self,
        pod: &Value,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        namespace::enter(self.pod_pid(pod)?, action)
    }

    /// Ping once from a pod.
    pub fn ping_from_pod(&self, pod: &Value, address: &str) -> Result<()> {
        let target = format!("--target={}", self.pod_pid(pod)?);
        self.run(
            "nsenter",
            &[&target, "--net", "--", "ping", "-c", "1", "-W", "3", address],
        )
        .map(drop)
    }

    /// Run a command in a pod's first container.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.keelson(&[&["exec", pod, "--"], command].concat())
    }
}

/// Whether a pod's Ready condition holds.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// A pod's address.
pub fn pod_ip(pod: &Value) -> Result<std::net::IpAddr> {
    Ok(pod["status"]["podIP"]
        .as_str()
        .context("the pod has no address")?
        .parse()?)
}

/// A pod's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
