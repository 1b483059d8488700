//! All Services of the node as their objects come and go, and the plan for what changed.
//!
//! A change of one object costs the work of one Service, and of those that ask for the same addresses. What the maps end in depends
//! on the objects alone and not on the way there (ids, revisions and generations aside).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use keelson_abi::FrontendKey;

use super::{
    desired::{self, NodeView, Rank, Report, ServiceView},
    health::HealthChecks,
    plan::{Observed, Plan},
    planner::{Holding, Planner},
    slices::SERVICE_NAME,
};
use crate::object::Key;

/// So many changed Services at once have what they ask for kept between the two looks at it; more would cost memory.
const KEPT: usize = 64;

/// The Services of this node.
#[derive(Debug, Default)]
pub struct Services {
    node: NodeView,
    known: BTreeMap<Key, Known>,
    slice_of: BTreeMap<Key, String>,
    claims: BTreeSet<Claim>,
    guards: BTreeMap<IpAddr, u32>,
    routes: BTreeMap<IpAddr, u32>,
    health: HealthChecks,
    dirty: BTreeSet<Key>,
    planner: Option<Planner>,
    sweep: bool,
}

/// One Service, or slices that wait for one.
#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    rank: Option<Arc<Rank>>,
    claimed: Vec<FrontendKey>,
    guards: BTreeSet<IpAddr>,
    routes: BTreeSet<IpAddr>,
    holdings: Vec<Holding>,
    reports: BTreeSet<Report>,
}

/// A Service asks for an address and port. The first one in order has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim(FrontendKey, Arc<Rank>);

/// What planning came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What to write.
    pub plan: Plan,
    /// What is not programmed as its author may expect, each told once.
    pub reports: Vec<(Key, Report)>,
    /// [`Services::health_checks`] changed.
    pub health: bool,
    /// [`Services::routes`] changed.
    pub routes: bool,
}

impl Services {
    /// This node as it is now.
    pub fn set_node(&mut self, node: NodeView) {
        if self.node != node {
            self.node = node;
            self.dirty = self.known.keys().cloned().collect();
        }
    }

    /// A Service as it is now; `None` = gone.
    pub fn set_service(&mut self, key: &Key, service: Option<Arc<Service>>) {
        let known = self.known.entry(key.clone()).or_default();
        if known.service != service {
            known.service = service;
            self.dirty.insert(key.clone());
        }
    }

    /// A slice as it is now; `None` = gone. The Service it belongs to may change.
    pub fn set_slice(&mut self, key: &Key, slice: Option<Arc<EndpointSlice>>) {
        let owner = slice.as_deref().and_then(owner);
        let previous = self.slice_of.get(key).cloned();
        if let Some(previous) = previous.filter(|previous| Some(previous.as_str()) != owner) {
            let service = Key::new(&key.namespace, &previous);
            if let Some(known) = self.known.get_mut(&service) {
                known.slices.remove(&key.name);
            }
            self.slice_of.remove(key);
            self.dirty.insert(service);
        }
        let (Some(owner), Some(slice)) = (owner.map(str::to_owned), slice) else {
            return;
        };
        let service = Key::new(&key.namespace, &owner);
        let known = self.known.entry(service.clone()).or_default();
        let before = known.slices.insert(key.name.clone(), slice.clone());
        if before.is_none_or(|before| before != slice) {
            self.dirty.insert(service);
        }
        self.slice_of.insert(key.clone(), owner);
    }

    /// The Services that there are, so that those no longer there can be told apart.
    pub fn services(&self) -> impl Iterator<Item = &Key> {
        let there = self.known.iter().filter(|(_, known)| known.service.is_some());
        there.map(|(key, _)| key)
    }

    /// The slices that there are.
    pub fn slices(&self) -> impl Iterator<Item = &Key> {
        self.slice_of.keys()
    }

    /// The maps were read: everything is planned afresh against them, and what belongs to no Service is removed.
    /// `first_generation` is a random number, where the generations of new Services begin.
    pub fn observe(&mut self, maps: Observed, first_generation: u32) {
        self.planner = Some(Planner::new(maps, first_generation));
        self.sweep = true;
        self.dirty = self.known.keys().cloned().collect();
        for known in self.known.values_mut() {
            known.holdings.clear();
        }
    }

    /// A plan was not carried out to its end: the maps must be read before the next one.
    pub fn forget_maps(&mut self) {
        self.planner = None;
    }

    /// Whether [`Services::observe`] is needed before planning.
    pub fn needs_maps(&self) -> bool {
        self.planner.is_none()
    }

    /// The maps as they are once all plans are carried out; `None` before they were read.
    pub fn maps(&self) -> Option<&Observed> {
        self.planner.as_ref().map(Planner::maps)
    }

    /// What health check ports answer.
    pub fn health_checks(&self) -> &HealthChecks {
        &self.health
    }

    /// Addresses that need a route of their own, so that processes of the host reach the dataplane.
    pub fn routes(&self) -> impl Iterator<Item = IpAddr> {
        self.routes.keys().copied()
    }

    /// What a Service asks for, whoever else asks for the same.
    pub fn view(&self, key: &Key) -> ServiceView {
        let known = self.known.get(key);
        let Some((known, service)) = known.and_then(|known| Some((known, known.service.as_deref()?))) else {
            return ServiceView::default();
        };
        let slices: Vec<&EndpointSlice> = known.slices.values().map(AsRef::as_ref).collect();
        desired::view(service, &slices, &self.node)
    }

    /// Plan for what changed. Empty without maps.
    pub fn plan(&mut self) -> Outcome {
        let Some(mut planner) = self.planner.take() else {
            return Outcome::default();
        };
        let mut outcome = Outcome::default();
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut views = BTreeMap::new();
        let mut contested = BTreeSet::new();
        let mut guards = BTreeSet::new();
        for key in &dirty {
            let view = self.view(key);
            self.claim(key, &view, &mut contested);
            self.addresses(key, &view, &mut guards, &mut outcome);
            if dirty.len() <= KEPT {
                views.insert(key.clone(), view);
            }
        }
        dirty.extend(contested);
        let sweep = std::mem::take(&mut self.sweep);
        let mut pass = planner.pass(sweep);
        for key in &dirty {
            let view = views.remove(key).unwrap_or_else(|| self.view(key));
            let view = self.without_others(key, view);
            let Some(known) = self.known.get_mut(key) else {
                continue;
            };
            let had = std::mem::take(&mut known.holdings);
            known.holdings = pass.service(had, &view.groups);
            for report in view.reports.difference(&known.reports) {
                outcome.reports.push((key.clone(), report.clone()));
            }
            known.reports = view.reports;
            if known.service.is_none() && known.slices.is_empty() {
                self.known.remove(key);
            }
        }
        if sweep {
            guards.extend(self.guards.keys());
        }
        for address in guards {
            pass.guard(address, self.guards.contains_key(&address));
        }
        outcome.plan = pass.finish();
        self.planner = Some(planner);
        outcome
    }

    /// Bring the claims of a Service up to date. Those who ask for the same addresses must be looked at again.
    fn claim(&mut self, key: &Key, view: &ServiceView, contested: &mut BTreeSet<Key>) {
        let Some(known) = self.known.get_mut(key) else {
            return;
        };
        let rank = known.service.as_deref().map(|service| Rank::of(key, service));
        let wanted: Vec<FrontendKey> = view
            .groups
            .iter()
            .flat_map(|group| group.frontends.keys().copied())
            .collect();
        if known.rank.as_deref() == rank.as_ref() && known.claimed == wanted {
            return;
        }
        let before = std::mem::replace(&mut known.claimed, wanted.clone());
        let old_rank = std::mem::replace(&mut known.rank, rank.map(Arc::new));
        let rank = known.rank.clone();
        if let Some(old_rank) = old_rank {
            for frontend in &before {
                self.claims.remove(&Claim(*frontend, old_rank.clone()));
            }
        }
        if let Some(rank) = rank {
            for frontend in &wanted {
                self.claims.insert(Claim(*frontend, rank.clone()));
            }
        }
        for frontend in before.iter().chain(&wanted) {
            let others = self.claims_of(frontend).filter(|rank| rank.key != *key);
            contested.extend(others.map(|rank| rank.key.clone()));
        }
    }

    fn claims_of(&self, frontend: &FrontendKey) -> impl Iterator<Item = &Rank> {
        let nobody = Arc::new(Rank {
            created: None,
            key: Key::new("", ""),
        });
        let frontend = *frontend;
        self.claims
            .range(Claim(frontend, nobody)..)
            .take_while(move |claim| claim.0 == frontend)
            .map(|claim| claim.1.as_ref())
    }

    /// The view without what an older Service has; what is lost is reported.
    fn without_others(&self, key: &Key, mut view: ServiceView) -> ServiceView {
        for group in &mut view.groups {
            group.frontends.retain(|frontend, _| {
                let owner = self.claims_of(frontend).next().filter(|rank| rank.key != *key);
                if let Some(owner) = owner {
                    let address = IpAddr::from(frontend.addr);
                    let port = u16::from_be(frontend.port_be);
                    let protocol = protocol_name(frontend.proto);
                    view.reports.insert(Report {
                        reason: "AddressConflict",
                        message: format!(
                            "{address} port {port}/{protocol} belongs to the older Service {}: it is not programmed for this one",
                            owner.key
                        ),
                    });
                }
                owner.is_none()
            });
        }
        view
    }

    /// Follow what a Service's addresses need besides frontends, and its health check.
    fn addresses(
        &mut self,
        key: &Key,
        view: &ServiceView,
        guards: &mut BTreeSet<IpAddr>,
        outcome: &mut Outcome,
    ) {
        let routes: BTreeSet<IpAddr> = view
            .groups
            .iter()
            .flat_map(|group| group.frontends.keys())
            .map(|frontend| IpAddr::from(frontend.addr))
            .filter(|address| self.node.needs_route(*address))
            .collect();
        let Some(known) = self.known.get_mut(key) else {
            return;
        };
        let old_guards = std::mem::replace(&mut known.guards, view.guards.clone());
        guards.extend(recount(&mut self.guards, &old_guards, &view.guards));
        let old_routes = std::mem::replace(&mut known.routes, routes.clone());
        outcome.routes |= !recount(&mut self.routes, &old_routes, &routes).is_empty();
        let health = match &view.health {
            Some(health) => self.health.insert(key.clone(), health.clone()),
            None => self.health.remove(key),
        };
        outcome.health |= health != view.health;
    }
}

/// Count who needs an address; returns those whose last or first user this is.
fn recount(
    users: &mut BTreeMap<IpAddr, u32>,
    before: &BTreeSet<IpAddr>,
    now: &BTreeSet<IpAddr>,
) -> Vec<IpAddr> {
    let mut changed = Vec::new();
    for address in now.difference(before) {
        let count = users.entry(*address).or_default();
        *count += 1;
        if *count == 1 {
            changed.push(*address);
        }
    }
    for address in before.difference(now) {
        if let Some(count) = users.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                users.remove(address);
                changed.push(*address);
            }
        }
    }
    changed
}

/// The Service that a slice belongs to, by its label; `None` where the slice does not count.
fn owner(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels
        .get(SERVICE_NAME)
        .filter(|_| desired::counts(slice))
        .map(String::as_str)
}

fn protocol_name(proto: u8) -> &'static str {
    match proto {
        6 => "TCP",
        17 => "UDP",
        _ => "SCTP",
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
