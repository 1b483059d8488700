//! What one Service asks of this node: addresses and their endpoints, without ids and revisions.
//!
//! One [`Group`] per Service port and family: all its addresses share two sets of endpoints, one for the Cluster policy and one for
//! the Local policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use keelson_abi::{Backend, FRONTEND_MEMBERS, FrontendKey};

pub use super::node::NodeView;
use super::{address, annotations, frontends::Builder, health::HealthCheck};
use crate::object::Key;

/// Another proxy serves this Service.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Nothing is programmed for this Service or slice.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// What makes a group the same one after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// IPv6 addresses and endpoints.
    pub v6: bool,
    /// IPPROTO_*.
    pub proto: u8,
    /// The Service port.
    pub port: u16,
}

/// Frontends of one Service port and family, and the endpoints they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which one of its Service.
    pub id: GroupId,
    /// What clients ask for and the `FRONTEND_*` flags of each, in the order of keys.
    pub frontends: BTreeMap<FrontendKey, u32>,
    /// Endpoints for the Cluster policy, where anybody is given them; in the order of addresses and ports.
    pub cluster: Vec<Backend>,
    /// Endpoints for the Local policy, likewise.
    pub local: Vec<Backend>,
    /// Every endpoint that serves or is chosen, with `MEMBER_*` flags: flows to any other are at their end.
    pub serving: Vec<(Backend, u16)>,
    /// Sources that frontends with `FRONTEND_RANGES` let in.
    pub ranges: BTreeSet<IpNet>,
    /// ClientIP affinity, seconds; 0 = none.
    pub affinity_seconds: u32,
    /// A Maglev table over the Cluster endpoints instead of random choice.
    pub maglev: bool,
}

impl Group {
    /// Whether the `member` map is to hold this group's endpoints.
    pub fn has_members(&self) -> bool {
        self.frontends
            .values()
            .next()
            .is_some_and(|flags| flags & FRONTEND_MEMBERS != 0)
    }
}

/// Something of a Service that is not programmed as its author may expect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// Reason of the event, in CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// All that one Service asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// In the order of their ids.
    pub groups: Vec<Group>,
    /// Its cluster addresses: their undefined ports are refused.
    pub guards: BTreeSet<IpAddr>,
    /// What its health check port answers.
    pub health: Option<HealthCheck>,
    /// What was left out.
    pub reports: BTreeSet<Report>,
}

/// Who keeps an address and port that two Services ask for: the older one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// An object without it counts as old.
    pub created: Option<Timestamp>,
    /// Decides between those of the same age.
    pub key: Key,
}

impl Rank {
    /// Of an object.
    pub fn of(key: &Key, service: &Service) -> Self {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Self {
            created,
            key: key.clone(),
        }
    }
}

/// Whether the endpoints of a slice count at all.
pub fn counts(slice: &EndpointSlice) -> bool {
    !labelled(slice.metadata.labels.as_ref(), HEADLESS) && slice.address_type != "FQDN"
}

/// What a Service asks of this node, given its slices in the order of their names.
pub fn view(service: &Service, slices: &[&EndpointSlice], node: &NodeView) -> ServiceView {
    let mut view = ServiceView::default();
    let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(service, spec)) else {
        return view;
    };
    let settings = Settings::of(service, spec, node, &mut view.reports);
    let mut builder = Builder::new(service, spec, settings, slices, node, &mut view);
    for v6 in [false, true] {
        if let Some(cluster_ip) = cluster_address(spec, v6) {
            builder.family(cluster_ip);
        }
    }
    builder.finish();
    view
}

fn labelled(labels: Option<&BTreeMap<String, String>>, name: &str) -> bool {
    labels.is_some_and(|labels| labels.contains_key(name))
}

/// Whether a Service is programmed at all: ours, with an address.
fn is_proxied(service: &Service, spec: &ServiceSpec) -> bool {
    let labels = service.metadata.labels.as_ref();
    let address = spec
        .cluster_ip
        .as_ref()
        .or_else(|| spec.cluster_ips.as_ref()?.first());
    let has_address = address.is_some_and(|address| !address.is_empty() && address != "None");
    has_address
        && spec.type_.as_deref() != Some("ExternalName")
        && !labelled(labels, SERVICE_PROXY_NAME)
        && !labelled(labels, HEADLESS)
}

/// The cluster address of a family: the first one in `clusterIPs`, or `clusterIP` where only that is set.
fn cluster_address(spec: &ServiceSpec, v6: bool) -> Option<IpAddr> {
    let several = spec.cluster_ips.iter().flatten();
    several
        .chain(spec.cluster_ip.iter())
        .filter_map(|text| address::parse(text))
        .find(|address| address.is_ipv6() == v6)
}

/// What holds for every port of a Service.
pub(super) struct Settings {
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`, where anybody outside can ask.
    pub external_local: bool,
    /// See [`Group::affinity_seconds`].
    pub affinity_seconds: u32,
    /// Connections to endpoints that are gone are reset.
    pub reset_gone: bool,
    /// See [`Group::maglev`].
    pub maglev: bool,
}

impl Settings {
    fn of(service: &Service, spec: &ServiceSpec, node: &NodeView, reports: &mut BTreeSet<Report>) -> Self {
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let kind = spec.type_.as_deref();
        let accessible = matches!(kind, Some("NodePort" | "LoadBalancer"))
            || spec.external_ips.as_ref().is_some_and(|all| !all.is_empty());
        Self {
            internal_local: is_local(&spec.internal_traffic_policy),
            external_local: accessible && is_local(&spec.external_traffic_policy),
            affinity_seconds: affinity(spec),
            reset_gone: chosen(
                service,
                annotations::GONE_CONNECTIONS,
                (annotations::KEEP, annotations::RESET),
                reports,
            )
            .unwrap_or(node.reset_gone),
            maglev: chosen(
                service,
                annotations::LOAD_BALANCING,
                (annotations::RANDOM, annotations::MAGLEV),
                reports,
            )
            .unwrap_or(node.maglev),
        }
    }
}

/// The value of an annotation that has two; another one is told and counts as unset.
fn chosen(
    service: &Service,
    name: &str,
    (no, yes): (&str, &str),
    reports: &mut BTreeSet<Report>,
) -> Option<bool> {
    let value = service.metadata.annotations.as_ref()?.get(name)?.as_str();
    if value == no || value == yes {
        return Some(value == yes);
    }
    let message = format!("annotation {name}: {value:?} is neither {no:?} nor {yes:?}; it counts as not set");
    reports.insert(Report {
        reason: "UnknownAnnotationValue",
        message,
    });
    None
}

fn affinity(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    seconds
        .and_then(|seconds| u32::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .unwrap_or(10_800)
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
