//! Workloads: Deployments become pods.
//!
//! A Deployment's templates, the current and the former ones whose pods still run, are its *generations*: what other
//! systems keep as ReplicaSet objects is a value here ([`Generation`]), kept in the node's store and shown nowhere. Each has
//! a number of pods it shall have; [`rollout`] moves these numbers, [`replicas`] makes the pods follow.

pub mod pods;
pub mod replicas;
pub mod rollout;
pub mod selector;
pub mod status;
pub mod template;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus},
    core::v1::{Pod, PodTemplateSpec},
};
use serde::{Deserialize, Serialize};

use self::pods::{Member, earliest};
use crate::object::Key;

/// A template of a Deployment and how many pods are made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Value of the pods' label `pod-template-hash`.
    pub hash: String,
    /// The template. `None` where only its pods are known: such a generation can shrink, but not grow.
    pub template: Option<PodTemplateSpec>,
    /// How many pods there shall be.
    pub replicas: i32,
}

/// What is to be done for a Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Its generations from now on, oldest first.
    pub generations: Vec<Generation>,
    /// Hashes of the generations to make a pod of, one entry per pod. [`template::pod`] makes it.
    pub create: Vec<String>,
    /// Pods to end: name and UID.
    pub delete: Vec<(Key, String)>,
    /// Its status.
    pub status: DeploymentStatus,
    /// When time alone may change the plan.
    pub again: Option<Timestamp>,
}

/// Plan for one Deployment. `pods` are those it owns, `generations` what the last plan said.
pub fn plan(deployment: &Deployment, pods: &[&Pod], generations: &[Generation], now: Timestamp) -> Plan {
    let Some(spec) = &deployment.spec else {
        return Plan::default();
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let members: Vec<Member<'_>> = pods.iter().map(|pod| Member::of(pod, min_ready, now)).collect();
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let mut known = template::generations(spec, &members, generations, collisions);
    rollout::advance(spec, &members, &mut known);
    let steps = replicas::steps(&known.all, &members, now);
    let (status, deadline) = status::status(deployment, &members, &known, now);
    let ripe = members.iter().filter_map(|member| member.available_at).min();
    known.forget_empty(&members);
    Plan {
        generations: known.all,
        create: steps.create,
        delete: steps.delete,
        status,
        again: earliest([ripe, steps.again, deadline]),
    }
}
