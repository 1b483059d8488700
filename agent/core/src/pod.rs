//! Pods: what to do next, and what to say of them.
//!
//! ```text
//! Pod (desired) ─┐                    ┌─► plan   ─► steps, all independent of each other, and when to look again
//! Observed ──────┴─► containers::decide ┤
//!                                     └─► status ─► phase, conditions, container states
//! ```
//! Both sides ask the same decisions, so what a user reads is what the agent acts on. Nothing is derived from a position
//! in code: only from the pod, what the runtime shows, and one durable mark that the pod is over.
//!
//! | room | decides |
//! |---|---|
//! | `observed` | the vocabulary: what the machine shows of a pod |
//! | `containers` | what each container should do now: run, wait (and why), restart, end |
//! | `plan` | the next steps: sandbox, containers, termination |
//! | `status`, `conditions` | phase, container states and conditions, in Kubernetes' words |
//! | `backoff` | how long a crashed container waits |
//! | `resources` | QoS class, CPU shares and quota, memory, oom_score_adj |
//! | `env`, `spec` | what CRI is told: environment, mounts, security, labels, cgroup |
//! | `validate` | what a pod may say; what this version does not implement is refused by name |

pub mod backoff;
pub mod conditions;
pub mod containers;
pub mod env;
pub mod observed;
pub mod plan;
pub mod resources;
pub mod spec;
pub mod status;
pub mod supported;
pub mod validate;

pub use observed::{Container, ImageState, Observed, Pull, Sandbox, State, Trouble, Volumes};
pub use plan::{Kill, Plan, Step, plan};
pub use status::status;
#[cfg(test)]
mod tests;
