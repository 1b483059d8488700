//! The kinds of objects that the control API shows, by all the names users give them.

use std::fmt;

use keelson_core::manifest::object::Kind;

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `v1 Pod`
    Pods,
    /// `apps/v1 Deployment`
    Deployments,
    /// `v1 Service`
    Services,
    /// `discovery.k8s.io/v1 EndpointSlice`
    EndpointSlices,
    /// `v1 ConfigMap`
    ConfigMaps,
    /// `v1 Secret`
    Secrets,
    /// `v1 Event`
    Events,
    /// `v1 Node`
    Nodes,
    /// `keelson.dev/v1 KeelsonPeer`
    Peers,
    /// `v1 Namespace`
    Namespaces,
    /// Files of the folder of manifests.
    Manifests,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Pods,
        Self::Deployments,
        Self::Services,
        Self::EndpointSlices,
        Self::ConfigMaps,
        Self::Secrets,
        Self::Events,
        Self::Nodes,
        Self::Peers,
        Self::Namespaces,
        Self::Manifests,
    ];

    /// Plural first, then singular, then the short names.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Pods => &["pods", "pod", "po"],
            Self::Deployments => &["deployments", "deployment", "deploy"],
            Self::Services => &["services", "service", "svc"],
            Self::EndpointSlices => &["endpointslices", "endpointslice", "endpoints", "ep", "eps"],
            Self::ConfigMaps => &["configmaps", "configmap", "cm"],
            Self::Secrets => &["secrets", "secret"],
            Self::Events => &["events", "event", "ev"],
            Self::Nodes => &["nodes", "node", "no"],
            Self::Peers => &["keelsonpeers", "keelsonpeer", "peers", "peer"],
            Self::Namespaces => &["namespaces", "namespace", "ns"],
            Self::Manifests => &["manifests", "manifest"],
        }
    }

    /// The resource that `name` means: plural, singular, short, or with its group (`deployments.apps`).
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (word, group) = name.split_once('.').unwrap_or((&name, ""));
        let found = Self::ALL
            .into_iter()
            .find(|resource| resource.names().contains(&word))?;
        (group.is_empty() || group == found.group()).then_some(found)
    }

    /// In the plural: its name in messages and in the API.
    pub fn plural(self) -> &'static str {
        self.names()[0]
    }

    /// `pod`, or `deployment.apps` where there is a group: as kubectl names an object of it.
    pub fn qualified(self) -> String {
        match self.group() {
            "" => self.names()[1].to_owned(),
            group => format!("{}.{group}", self.names()[1]),
        }
    }

    /// The plural with its group: `deployments.apps`, as in messages.
    pub fn qualified_plural(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    fn group(self) -> &'static str {
        match self {
            Self::Deployments => "apps",
            Self::EndpointSlices => "discovery.k8s.io",
            Self::Peers => "keelson.dev",
            _ => "",
        }
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(self) -> bool {
        !matches!(
            self,
            Self::Nodes | Self::Peers | Self::Namespaces | Self::Manifests
        )
    }

    /// What manifests call it; `None` for what no manifest holds.
    pub fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::Pods => Kind::Pod,
            Self::Deployments => Kind::Deployment,
            Self::Services => Kind::Service,
            Self::EndpointSlices => Kind::EndpointSlice,
            Self::ConfigMaps => Kind::ConfigMap,
            Self::Secrets => Kind::Secret,
            Self::Namespaces => Kind::Namespace,
            Self::Nodes => Kind::Node,
            Self::Peers => Kind::KeelsonPeer,
            Self::Events | Self::Manifests => return None,
        })
    }

    /// What manifests call `kind`.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::ConfigMap => Self::ConfigMaps,
            Kind::Deployment => Self::Deployments,
            Kind::EndpointSlice => Self::EndpointSlices,
            Kind::KeelsonPeer => Self::Peers,
            Kind::Namespace => Self::Namespaces,
            Kind::Node => Self::Nodes,
            Kind::Pod => Self::Pods,
            Kind::Secret => Self::Secrets,
            Kind::Service => Self::Services,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_one_resource() {
        for (index, name) in Resource::ALL
            .iter()
            .flat_map(|resource| resource.names())
            .enumerate()
        {
            let meant = Resource::ALL
                .iter()
                .filter(|resource| resource.names().contains(name));
            assert_eq!(meant.count(), 1, "{index}: {name}");
        }
        for (name, expected) in [
            ("po", Some(Resource::Pods)),
            ("Pod", Some(Resource::Pods)),
            ("svc", Some(Resource::Services)),
            ("ep", Some(Resource::EndpointSlices)),
            ("deployments.apps", Some(Resource::Deployments)),
            ("deployment.apps", Some(Resource::Deployments)),
            ("pods.apps", None),
            ("ingress", None),
            ("", None),
        ] {
            assert_eq!(Resource::named(name), expected, "{name:?}");
        }
    }

    #[test]
    fn kinds_and_resources_name_each_other() {
        for kind in Kind::ALL {
            assert_eq!(Resource::of(kind).kind(), Some(kind));
        }
    }
}
