//! `keelson rollout status`

use std::time::Duration;

use anyhow::{anyhow, bail};
use k8s_openapi::api::apps::v1::Deployment;

use super::{
    args::RolloutStatus,
    client::{self, Change, Client, Which, refused},
    columns, get, print, target,
};
use crate::control::resource::Resource;

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not there yet: what is missing.
    Waiting(String),
    /// All is as it should be.
    Done(String),
    /// It took longer than the Deployment allows.
    Failed(String),
}

/// Judge a Deployment by its status.
pub fn progress(deployment: &Deployment) -> Progress {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let (updated, total) = (status.updated_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
    let available = status.available_replicas.unwrap_or(0);
    if deployment.metadata.generation.unwrap_or(0) > status.observed_generation.unwrap_or(0) {
        return Progress::Waiting("Waiting for deployment spec update to be observed...".to_owned());
    }
    let late = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    if late {
        return Progress::Failed(format!(
            "error: deployment {name:?} exceeded its progress deadline"
        ));
    }
    let waiting = |what: String| {
        Progress::Waiting(format!(
            "Waiting for deployment {name:?} rollout to finish: {what}..."
        ))
    };
    if updated < wanted {
        return waiting(format!(
            "{updated} out of {wanted} new replicas have been updated"
        ));
    }
    if total > updated {
        return waiting(format!(
            "{} old replicas are pending termination",
            total - updated
        ));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Progress::Done(format!("deployment {name:?} successfully rolled out"))
}

/// Say how far it is, until it is done.
pub async fn run(client: &mut Client, args: &RolloutStatus) -> anyhow::Result<()> {
    let targets = target::parse(&args.target)?;
    let [target] = targets.as_slice() else {
        bail!("error: name one deployment");
    };
    let (Resource::Deployments, [name]) = (target.resource, target.names.as_slice()) else {
        bail!("error: name one deployment, such as deployment/web");
    };
    let which = Which {
        namespace: get::namespace(&args.namespace),
        name: name.clone(),
        selector: String::new(),
    };
    let follow = follow(client, &which, args.watch);
    if args.timeout == Duration::ZERO {
        return follow.await;
    }
    tokio::time::timeout(args.timeout, follow)
        .await
        .map_err(|_| anyhow!("error: timed out waiting for the rollout of deployment {name:?}"))?
}

async fn follow(client: &mut Client, which: &Which, watch: bool) -> anyhow::Result<()> {
    // One that is not there is an error at once.
    client::list(client, Resource::Deployments, which)
        .await
        .map_err(|status| refused(&status))?;
    let mut changes = client::watch(client, Resource::Deployments, which)
        .await
        .map_err(|status| refused(&status))?;
    let mut said = String::new();
    loop {
        let object = match changes.next().await.map_err(|status| refused(&status))? {
            Change::Is(object) => object,
            Change::Gone(_) => bail!("error: the deployment was deleted"),
            Change::Listed => continue,
        };
        let deployment: Deployment = columns::read(&object)?;
        match progress(&deployment) {
            Progress::Waiting(text) => {
                if text != said {
                    print::text(&format!("{text}\n"))?;
                }
                if !watch {
                    return Ok(());
                }
                said = text;
            }
            Progress::Done(text) => return print::text(&format!("{text}\n")),
            Progress::Failed(text) => bail!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_is_done_when_only_new_replicas_are_left_and_available() {
        for (status, expected) in [
            (json!({ "observedGeneration": 1 }), "spec update to be observed"),
            (
                json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 1 }),
                "1 out of 2 new replicas",
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2 }),
                "1 old replicas are pending",
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1 }),
                "1 of 2 updated replicas are available",
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 }),
                "deployment \"web\" successfully rolled out",
            ),
            (
                json!({ "observedGeneration": 2, "conditions": [{ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" }] }),
                "exceeded its progress deadline",
            ),
        ] {
            let deployment = serde_json::from_value(json!({ "metadata": { "name": "web", "generation": 2 },
                "spec": { "replicas": 2, "selector": {}, "template": {} }, "status": status }))
            .expect("a deployment");
            let (Progress::Waiting(text) | Progress::Done(text) | Progress::Failed(text)) =
                progress(&deployment);
            assert!(text.contains(expected), "{text}");
        }
    }
}
