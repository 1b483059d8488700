//! Anything may happen at any time; the bounds hold at each step, and once nothing happens any more all is as asked for.

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use super::{Cluster, at, deployment, json, rolling, set};
use crate::workload::{
    Plan,
    pods::Member,
    rollout::{is_recreate, limits, wanted},
    template::HASH_LABEL,
};

#[derive(Clone, Debug)]
enum Happening {
    Image(u8),
    Scale(i32),
    Pause(bool),
    /// A pod becomes ready, or not.
    Ready(usize, bool),
    Fail(usize),
    /// A pod is ended by somebody.
    End(usize),
    /// A pod is gone at once.
    Vanish(usize),
    /// Pods that were told to end are gone.
    Gone,
    Wait(i64),
    /// The record of generations is lost.
    Forget,
    /// Plan, and apply all.
    Step,
    /// Plan, and apply only some of it: the agent was killed in between.
    Half(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        1 => (0..3_u8).prop_map(Happening::Image),
        1 => (0..6_i32).prop_map(Happening::Scale),
        1 => any::<bool>().prop_map(Happening::Pause),
        6 => (0..12_usize, prop::bool::weighted(0.8)).prop_map(|(pod, ready)| Happening::Ready(pod, ready)),
        1 => (0..12_usize).prop_map(Happening::Fail),
        1 => (0..12_usize).prop_map(Happening::End),
        1 => (0..12_usize).prop_map(Happening::Vanish),
        3 => Just(Happening::Gone),
        3 => (0..30_i64).prop_map(Happening::Wait),
        1 => Just(Happening::Forget),
        8 => Just(Happening::Step),
        2 => any::<u64>().prop_map(Happening::Half),
    ]
}

fn limit() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        (0..4_i32).prop_map(|number| json!(number)),
        prop_oneof![Just("0%"), Just("25%"), Just("50%"), Just("100%")].prop_map(|share| json!(share)),
    ]
}

fn strategy() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        1 => Just(json!({"type": "Recreate"})),
        4 => (limit(), limit()).prop_map(|(surge, unavailable)| rolling(surge, unavailable)),
    ]
}

struct Simulation {
    cluster: Cluster,
    second: i64,
}

impl Simulation {
    fn members(&self) -> Vec<Member<'_>> {
        let min_ready = self
            .cluster
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        self.cluster
            .pods
            .iter()
            .map(|pod| Member::of(pod, min_ready, at(self.second)))
            .collect()
    }

    fn available(&self) -> i32 {
        self.members().iter().filter(|member| member.available).count() as i32
    }

    fn active(&self) -> i32 {
        self.members().iter().filter(|member| member.active()).count() as i32
    }

    fn pod(&mut self, index: usize) -> Option<&mut Pod> {
        let pods = &mut self.cluster.pods;
        let count = pods.len();
        (count > 0).then(|| &mut pods[index % count])
    }

    /// Apply the plan, or the part of it that `some` has bits for, and check what must hold at every step.
    fn apply(&mut self, some: Option<u64>) -> Result<Plan, TestCaseError> {
        let now = at(self.second);
        let plan = self.cluster.plan(now);
        let spec = self.cluster.deployment.spec.clone().expect("spec");
        let limits = limits(&spec);
        let (available, active) = (self.available(), self.active());
        for (_, uid) in &plan.delete {
            prop_assert!(
                self.cluster
                    .pods
                    .iter()
                    .any(|pod| pod.metadata.uid.as_ref() == Some(uid))
            );
        }
        if is_recreate(&spec) && !plan.create.is_empty() && spec.paused != Some(true) {
            let newest = &plan.generations.last().expect("one").hash;
            for member in self.members().iter().filter(|member| !member.over) {
                prop_assert_eq!(member.hash, newest, "an old pod is there while new ones are made");
            }
        }
        let mut part = plan.clone();
        if let Some(bits) = some {
            let mut bits = (0..).map(|index| bits >> (index % 64) & 1 == 1);
            part.create.retain(|_| bits.next() == Some(true));
            part.delete.retain(|_| bits.next() == Some(true));
        }
        self.cluster.apply(&part, now);
        let after = self.available();
        // A recreation ends what serves: that is what it was asked for. So is scaling while paused.
        if !is_recreate(&spec) && spec.paused != Some(true) {
            prop_assert!(
                after >= available.min(limits.available),
                "{after} of {available}, floor {}",
                limits.available
            );
        }
        if some.is_none() && !plan.create.is_empty() && spec.paused != Some(true) {
            prop_assert!(
                self.active() <= limits.most.max(active),
                "{} of at most {}",
                self.active(),
                limits.most
            );
        }
        Ok(plan)
    }

    fn happen(&mut self, happening: &Happening) -> Result<(), TestCaseError> {
        let now = at(self.second);
        match *happening {
            Happening::Image(image) => self.cluster.image(&image.to_string()),
            Happening::Scale(replicas) => self.cluster.scale(replicas),
            Happening::Pause(paused) => {
                self.cluster.deployment.spec.as_mut().expect("spec").paused = Some(paused);
            }
            Happening::Ready(index, ready) => {
                if let Some(pod) = self.pod(index).filter(|pod| !is_finished(pod)) {
                    set(pod, "Running", ready, now);
                }
            }
            Happening::Fail(index) => {
                if let Some(pod) = self.pod(index) {
                    set(pod, "Failed", false, now);
                }
            }
            Happening::End(index) => {
                if let Some(uid) = self.pod(index).and_then(|pod| pod.metadata.uid.clone()) {
                    self.cluster.end(&uid, now);
                }
            }
            Happening::Vanish(index) => {
                if !self.cluster.pods.is_empty() {
                    let count = self.cluster.pods.len();
                    self.cluster.pods.remove(index % count);
                }
            }
            Happening::Gone => self.cluster.ended_are_gone(),
            Happening::Wait(seconds) => self.second += seconds,
            Happening::Forget => self.cluster.generations.clear(),
            Happening::Step => drop(self.apply(None)?),
            Happening::Half(bits) => drop(self.apply(Some(bits))?),
        }
        Ok(())
    }
}

fn is_finished(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn the_bounds_hold_at_each_step_and_in_the_end_all_is_as_asked_for(
        replicas in 0..6_i32,
        strategy in strategy(),
        min_ready in prop_oneof![Just(0_i32), 0..20_i32],
        story in prop::collection::vec(happening(), 0..60),
    ) {
        let mut cluster = Cluster::new(deployment(replicas, "0", strategy));
        cluster.deployment.spec.as_mut().expect("spec").min_ready_seconds = Some(min_ready);
        let mut simulation = Simulation { cluster, second: 0 };
        for happening in &story {
            simulation.happen(happening)?;
        }
        // From now on everything goes well.
        simulation.cluster.deployment.spec.as_mut().expect("spec").paused = None;
        let mut quiet = 0;
        for _ in 0..400 {
            let plan = simulation.apply(None)?;
            let now = at(simulation.second);
            for pod in simulation.cluster.pods.iter_mut().filter(|pod| !is_finished(pod)) {
                let ready = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).is_some_and(|all| all[0].status == "True");
                if !ready {
                    set(pod, "Running", true, now);
                }
            }
            simulation.cluster.ended_are_gone();
            simulation.second += 7;
            quiet = if plan.create.is_empty() && plan.delete.is_empty() { quiet + 1 } else { 0 };
        }
        prop_assert!(quiet > 100, "it never settles");
        let plan = simulation.cluster.plan(at(simulation.second));
        let spec = simulation.cluster.deployment.spec.as_ref().expect("spec");
        prop_assert_eq!(plan.status.updated_replicas, Some(wanted(spec)));
        prop_assert_eq!(plan.status.available_replicas, Some(wanted(spec)));
        prop_assert_eq!(plan.status.replicas, Some(wanted(spec)));
        prop_assert_eq!(simulation.cluster.pods.len() as i32, wanted(spec), "nothing is left over");
        prop_assert_eq!(plan.generations.len(), 1);
        prop_assert_eq!(&plan.status, simulation.cluster.deployment.status.as_ref().expect("status"));
        prop_assert_eq!(plan.again, None);
        for pod in &simulation.cluster.pods {
            let labels = pod.metadata.labels.as_ref().expect("labels");
            prop_assert_eq!(&labels[HASH_LABEL], &plan.generations[0].hash);
        }
    }
}
