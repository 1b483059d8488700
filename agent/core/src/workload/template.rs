//! Templates, their hashes, and the pods made of them.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use sha2::{Digest, Sha256};

use super::{
    Generation,
    pods::{Member, State},
};

/// Label by which a generation's pods are told apart.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Letters and digits that cannot be mistaken for each other and make no words; names and hashes are made of them.
pub const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// A pod's name is also its host name: at most 63, of which the tail takes 5.
const NAME_HEAD: usize = 58;

/// All generations of a Deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Generations {
    /// Oldest first.
    pub all: Vec<Generation>,
    /// Which of them is the current template's. `None` while the Deployment is paused with a template never used.
    pub current: Option<usize>,
    /// How often a hash was found to be in use by another template.
    pub collisions: i32,
}

impl Generations {
    /// Former generations that shall have no pods and have none are of no use any more.
    pub(super) fn forget_empty(&mut self, members: &[Member<'_>]) {
        let current = self
            .current
            .and_then(|at| self.all.get(at))
            .map(|one| one.hash.clone());
        self.all.retain(|one| {
            one.replicas > 0
                || current.as_ref() == Some(&one.hash)
                || members.iter().any(|member| member.hash == one.hash)
        });
        self.current = self
            .all
            .iter()
            .position(|one| Some(&one.hash) == current.as_ref());
    }
}

/// The generations that are known, with the current template's and those that only pods tell of.
pub(super) fn generations(
    spec: &DeploymentSpec,
    members: &[Member<'_>],
    known: &[Generation],
    mut collisions: i32,
) -> Generations {
    let mut all = known.to_vec();
    for member in members.iter().filter(|member| member.state == State::Active) {
        if !all.iter().any(|one| one.hash == member.hash) {
            all.insert(
                0,
                Generation {
                    hash: member.hash.to_owned(),
                    template: None,
                    replicas: 0,
                },
            );
        }
    }
    for one in all.iter_mut().filter(|one| one.template.is_none()) {
        let there = members
            .iter()
            .filter(|member| member.active() && member.hash == one.hash)
            .count();
        // What is gone of it cannot be made again.
        one.replicas = if known.iter().any(|known| known.hash == one.hash) {
            one.replicas.min(count(there))
        } else {
            count(there)
        };
    }
    let mut current = all
        .iter()
        .position(|one| one.template.as_ref() == Some(&spec.template));
    if current.is_none() {
        let mut name = hash(&spec.template, collisions);
        // A record that was lost is restored; a template that is known under this hash is another one.
        while let Some(at) = all.iter().position(|one| one.hash == name) {
            if all[at].template.is_none() {
                all[at].template = Some(spec.template.clone());
                current = Some(at);
                break;
            }
            collisions += 1;
            name = hash(&spec.template, collisions);
        }
        if current.is_none() && spec.paused != Some(true) {
            all.push(Generation {
                hash: name,
                template: Some(spec.template.clone()),
                replicas: 0,
            });
            current = Some(all.len() - 1);
        }
    }
    // A template that is used again is the newest again.
    if let Some(at) = current.filter(|at| at + 1 != all.len()) {
        let one = all.remove(at);
        all.push(one);
        current = Some(all.len() - 1);
    }
    Generations {
        all,
        current,
        collisions,
    }
}

/// The hash of a template: the same for the same template, on every node.
pub fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // A template always serialises; should it not, all templates are one generation, and nothing is replaced.
    let mut text = serde_json::to_vec(template).unwrap_or_default();
    if collisions > 0 {
        text.extend(collisions.to_le_bytes());
    }
    let digest = Sha256::digest(&text);
    digest
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// The tail of a pod's name from five random bytes.
pub fn tail(random: [u8; 5]) -> String {
    random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// A pod of a generation. `tail` and `uid` are random.
pub fn pod(
    deployment: &Deployment,
    generation: &Generation,
    node: &str,
    tail: &str,
    uid: &str,
    now: Timestamp,
) -> Option<Pod> {
    let template = generation.template.as_ref()?;
    let metadata = template.metadata.clone().unwrap_or_default();
    let owner = &deployment.metadata;
    let mut head = format!("{}-{}-", owner.name.as_deref()?, generation.hash);
    // Names are ASCII, so this cuts no character apart.
    head.truncate(NAME_HEAD);
    let mut labels = metadata.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), generation.hash.clone());
    let mut spec = template.spec.clone()?;
    spec.node_name = Some(node.to_owned());
    Some(Pod {
        metadata: ObjectMeta {
            name: Some(head + tail),
            namespace: owner.namespace.clone(),
            uid: Some(uid.to_owned()),
            labels: Some(labels),
            annotations: metadata.annotations,
            // Whole seconds, as they are written.
            creation_timestamp: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
            generation: Some(1),
            resource_version: Some("1".to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "apps/v1".to_owned(),
                kind: "Deployment".to_owned(),
                name: owner.name.clone()?,
                uid: owner.uid.clone()?,
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    })
}

/// The UID of the Deployment that owns a pod.
pub fn owner(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.controller == Some(true) && owner.kind == "Deployment")
        .map(|owner| owner.uid.as_str())
        .next()
}

/// A number of pods.
pub(super) fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}
