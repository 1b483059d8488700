//! The keys of our own: the node's networks and paths.

use std::{net::IpAddr, path::PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::invalid;
use crate::error::{Code, Error, Result};

/// Keys that the specification, or the runtime on its behalf, puts beside ours.
const SPEC_KEYS: [&str; 17] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "args",
    "dns",
    "ipMasq",
    "ipam",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
    "description",
    "comment",
];

/// Our own keys: the node's networks and paths. All but `podCIDR` have defaults.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Where pods' addresses come from.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// Where Services' addresses come from.
    #[serde(rename = "serviceCIDR", default, skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<Ipv4Net>,
    /// The same in IPv6.
    #[serde(rename = "serviceCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub service_cidr_v6: Option<Ipv6Net>,
    /// Pods of this node in IPv6, as far as the dataplane needs to know; the plugin gives out none of them.
    #[serde(rename = "podCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// Pods of all nodes: what comes from there is of the cluster.
    #[serde(rename = "clusterCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_cidrs: Vec<IpNet>,
    /// First and last NodePort, as `30000-32767`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port_range: Option<PortRange>,
    /// State that a reboot clears.
    #[serde(default = "default_run")]
    pub run: PathBuf,
    /// Where bpffs is, or shall be, mounted.
    #[serde(default = "default_bpf")]
    pub bpf: PathBuf,
    /// Devices that are never an uplink.
    #[serde(default)]
    pub excluded_interfaces: Vec<String>,
    /// Translate the source of pods that leave for outside.
    #[serde(default = "yes")]
    pub snat: bool,
    /// First and last port of translated sources, as `20000-29999`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat_ports: Option<PortRange>,
    /// Masquerade everything that asks a Service.
    #[serde(default, skip_serializing_if = "is_off")]
    pub masquerade_all: bool,
    /// The node's address, where it is not that of the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address: Option<IpAddr>,
    /// Addresses of the pod network that are the node's own: no pod gets them.
    #[serde(default, rename = "reservedAddresses", skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<IpAddr>,
    /// Of pod links; 0 = that of the device that has the default route.
    #[serde(default)]
    pub mtu: u32,
}

pub(super) fn default_run() -> PathBuf {
    "/run/keelson".into()
}
pub(super) fn default_bpf() -> PathBuf {
    "/sys/fs/bpf".into()
}
const fn yes() -> bool {
    true
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
const fn is_off(value: &bool) -> bool {
    !*value
}

impl Settings {
    /// The defaults around a pod network.
    #[must_use]
    pub fn new(pod_cidr: Ipv4Net) -> Self {
        Self {
            pod_cidr,
            service_cidr: None,
            service_cidr_v6: None,
            pod_cidr_v6: None,
            cluster_cidrs: Vec::new(),
            node_port_range: None,
            run: default_run(),
            bpf: default_bpf(),
            excluded_interfaces: Vec::new(),
            snat: true,
            snat_ports: None,
            masquerade_all: false,
            node_address: None,
            reserved: Vec::new(),
            mtu: 0,
        }
    }

    /// The list file that makes a runtime call this plugin. `cniVersion` is what every runtime in use understands;
    /// newer ones take the highest of `cniVersions` that they know, and with it GC and STATUS.
    pub fn conflist(&self, network: &str) -> Result<String> {
        let fail =
            |e: serde_json::Error| Error::new(Code::Decode, format!("write the network configuration: {e}"));
        let mut plugin = serde_json::to_value(self).map_err(fail)?;
        plugin["type"] = "keelson-cni".into();
        let list = serde_json::json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": network,
            "plugins": [plugin],
        });
        serde_json::to_string_pretty(&list).map_err(fail)
    }
}

/// First and last port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange(pub u16, pub u16);

impl TryFrom<String> for PortRange {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        let ports = text
            .split_once('-')
            .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match ports {
            Some((first, last)) if 0 < first && first <= last => Ok(Self(first, last)),
            _ => Err(format!("{text:?} is not a port range like 30000-32767")),
        }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.0, range.1)
    }
}

/// Our own keys out of the object, everything else accounted for.
pub(super) fn settings(object: &Map<String, Value>, strict: bool) -> Result<Settings> {
    let own: Map<String, Value> = object
        .iter()
        .filter(|(key, _)| !SPEC_KEYS.contains(&key.as_str()) && !key.starts_with("cni.dev/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if strict {
        refuse_foreign(object)?;
    }
    if let Some(Value::String(cidr)) = own.get("podCIDR")
        && cidr.parse::<ipnet::Ipv6Net>().is_ok()
    {
        return Err(Error::new(
            Code::UnsupportedField,
            format!("podCIDR {cidr}: IPv6 pod networks are not supported by this version"),
        ));
    }
    let mut settings: Settings = serde_json::from_value(Value::Object(own)).map_err(|e| {
        let code = if e.to_string().starts_with("unknown field") {
            Code::UnsupportedField
        } else {
            Code::InvalidNetwork
        };
        Error::new(code, format!("network configuration: {e}"))
    })?;
    if let (None, Some(Value::Bool(masquerade))) = (object.get("snat"), object.get("ipMasq")) {
        settings.snat = *masquerade;
    }
    if settings.pod_cidr != settings.pod_cidr.trunc() {
        return Err(invalid(format!(
            "podCIDR {} has host bits; write {}",
            settings.pod_cidr,
            settings.pod_cidr.trunc()
        )));
    }
    if let Some(services) = settings.service_cidr
        && (services.contains(&settings.pod_cidr) || settings.pod_cidr.contains(&services))
    {
        return Err(invalid(format!(
            "podCIDR {} and serviceCIDR {services} overlap",
            settings.pod_cidr
        )));
    }
    if settings.mtu != 0 && !(576..=65535).contains(&settings.mtu) {
        return Err(invalid(format!(
            "mtu {} is not between 576 and 65535 (0 = from the uplink)",
            settings.mtu
        )));
    }
    Ok(settings)
}

fn refuse_foreign(object: &Map<String, Value>) -> Result<()> {
    if let Some(ipam) = object.get("ipam").filter(|i| !i.is_null()) {
        let kind = ipam.get("type").and_then(Value::as_str).unwrap_or_default();
        if !matches!(kind, "" | "keelson" | "keelson-cni") {
            return Err(Error::new(
                Code::UnsupportedField,
                format!(
                    "ipam.type {kind:?} is not supported: addresses come from podCIDR; leave \"ipam\" out"
                ),
            ));
        }
    }
    Ok(())
}
