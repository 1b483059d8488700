//! The network configuration: what the runtime hands over on standard input, and the list file the agent writes.
//!
//! A key that this plugin owns and does not know is refused by name: a typing error must not become a default.
//! Keys of the specification and `cni.dev/*` are let through. DEL and GC read leniently: what cannot be understood
//! must not keep a pod from going away.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    args::{Arguments, validate_name},
    error::{Code, Error, Result},
    mac::Mac,
    result::{Dns, NetworkResult},
    version::SpecVersion,
};

/// Network names become folders and parts of link aliases.
const NAME_LIMIT: usize = 100;

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
    /// The node's address, where it is not that of the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address: Option<IpAddr>,
    /// Of pod links; 0 = that of the device that has the default route.
    #[serde(default)]
    pub mtu: u32,
}

fn default_run() -> PathBuf {
    "/run/keelson".into()
}
fn default_bpf() -> PathBuf {
    "/sys/fs/bpf".into()
}
const fn yes() -> bool {
    true
}

impl Settings {
    /// The defaults around a pod network.
    #[must_use]
    pub fn new(pod_cidr: Ipv4Net) -> Self {
        Self {
            pod_cidr,
            service_cidr: None,
            node_port_range: None,
            run: default_run(),
            bpf: default_bpf(),
            excluded_interfaces: Vec::new(),
            snat: true,
            node_address: None,
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

/// Whom the runtime still knows, in GC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValidAttachments {
    /// The key is absent: the runtime does not say.
    Unknown,
    /// These and no others (`null` is an empty list): container id, interface name.
    These(Vec<(String, String)>),
}

/// Which part of the input must be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Everything: ADD, CHECK, STATUS.
    Whole,
    /// What is needed to find and remove: DEL, GC. Unknown keys, wrong values of what only ADD needs, pass.
    Lenient,
}

/// One call's network configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct NetworkConf {
    /// In which version to answer.
    pub version: SpecVersion,
    /// The network's name: scope of addresses and of GC.
    pub name: String,
    /// Our own keys. In a lenient reading `None` where they make no sense.
    pub settings: Option<Settings>,
    /// State folder and bpffs, found even when the other settings make no sense.
    pub run: PathBuf,
    /// See `run`.
    pub bpf: PathBuf,
    /// Passed through to the result.
    pub dns: Dns,
    /// An earlier plugin's result (ADD), or the final one (CHECK, DEL).
    pub prev_result: Option<NetworkResult>,
    /// GC's list.
    pub valid: ValidAttachments,
    /// `runtimeConfig.ips`, else `args.cni.ips`: the address to give.
    pub ips: Vec<String>,
    /// `runtimeConfig.mac`.
    pub mac: Option<String>,
}

/// What a caller may fix about an attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// This address and no other.
    pub address: Option<Ipv4Addr>,
    /// MAC of the pod's end.
    pub mac: Option<Mac>,
}

fn invalid(msg: impl Into<String>) -> Error {
    Error::new(Code::InvalidNetwork, msg)
}

/// The basic part that even the lenient reading needs: JSON, version, name. In the order that runtimes expect.
fn object(input: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(input) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::new(
            Code::Decode,
            "network configuration: not a JSON object",
        )),
        Err(e) => Err(Error::new(Code::Decode, format!("network configuration: {e}"))),
    }
}

/// The version an input asks for, for error objects about an input that is wrong otherwise.
#[must_use]
pub fn version_of(input: &[u8]) -> SpecVersion {
    object(input)
        .ok()
        .and_then(|o| SpecVersion::parse(o.get("cniVersion").and_then(Value::as_str)).ok())
        .unwrap_or(SpecVersion::CURRENT)
}

impl NetworkConf {
    /// Reads and validates the input. `own` is false for `loopback`, which has no keys of its own.
    pub fn parse(input: &[u8], reading: Reading, own: bool) -> Result<Self> {
        let object = object(input)?;
        let name = match object.get("name") {
            Some(Value::String(name)) if !name.is_empty() => name.clone(),
            _ => return Err(invalid("network configuration: \"name\" is missing")),
        };
        validate_name("network name", &name).map_err(invalid)?;
        if name.len() > NAME_LIMIT {
            return Err(invalid(format!(
                "network name {name:?} is longer than {NAME_LIMIT} bytes"
            )));
        }
        let version = match object.get("cniVersion") {
            None => SpecVersion::parse(None),
            Some(Value::String(text)) => SpecVersion::parse(Some(text)),
            Some(other) => Err(Error::new(
                Code::Decode,
                format!("network configuration: cniVersion {other} is not a string"),
            )),
        }?;
        let whole = reading == Reading::Whole;
        let settings = match own.then(|| settings(&object, whole)) {
            None => None,
            Some(Err(error)) if whole => return Err(error),
            Some(settings) => settings.ok(),
        };
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(PathBuf::from);
        let runtime = RuntimeConfig::read(&object, whole && own)?;
        let prev_result = match object.get("prevResult") {
            None | Some(Value::Null) => None,
            Some(value) => match NetworkResult::parse(value) {
                Err(why) if whole => return Err(Error::new(Code::Decode, format!("prevResult: {why}"))),
                parsed => parsed.ok(),
            },
        };
        let mut dns: Dns = object
            .get("dns")
            .map_or(Ok(Dns::default()), Dns::parse)
            .or_else(|e| {
                if whole {
                    Err(Error::new(Code::Decode, format!("dns: {e}")))
                } else {
                    Ok(Dns::default())
                }
            })?;
        if let Some(wanted) = runtime.dns {
            dns = wanted;
        }
        Ok(Self {
            version,
            name,
            run: text("run").unwrap_or_else(default_run),
            bpf: text("bpf").unwrap_or_else(default_bpf),
            settings,
            dns,
            prev_result,
            valid: valid_attachments(&object)?,
            ips: runtime.ips,
            mac: runtime.mac,
        })
    }

    /// The settings of a whole reading.
    pub fn settings(&self) -> Result<&Settings> {
        self.settings
            .as_ref()
            .ok_or_else(|| invalid("network configuration: \"podCIDR\" is missing"))
    }

    /// What the caller fixes: the configuration goes before `CNI_ARGS`.
    pub fn request(&self, args: &Arguments) -> Result<Request> {
        let pool = self.settings()?.pod_cidr;
        let ips: Vec<&String> = if self.ips.is_empty() {
            args.ip.iter().collect()
        } else {
            self.ips.iter().collect()
        };
        let address = match ips.as_slice() {
            [] => None,
            [one] => Some(requested_address(one, pool)?),
            more => {
                return Err(Error::new(
                    Code::UnsupportedField,
                    format!("ips {more:?}: one address per interface is supported"),
                ));
            }
        };
        let mac = self.mac.as_ref().or(args.mac.as_ref());
        let mac = mac
            .map(|m| Mac::parse(m).ok_or_else(|| invalid(format!("mac {m:?} is not a unicast MAC address"))));
        Ok(Request {
            address,
            mac: mac.transpose()?,
        })
    }
}

fn requested_address(text: &str, pool: Ipv4Net) -> Result<Ipv4Addr> {
    let bare = text.split('/').next().unwrap_or_default();
    match bare.parse() {
        Ok(IpAddr::V4(ip)) if pool.contains(&ip) => Ok(ip),
        Ok(IpAddr::V4(_)) => Err(invalid(format!(
            "requested address {text} is not in podCIDR {pool}"
        ))),
        Ok(IpAddr::V6(_)) => Err(Error::new(
            Code::UnsupportedField,
            format!("requested address {text}: IPv6 addresses are not supported by this version"),
        )),
        Err(_) => Err(invalid(format!(
            "requested address {text:?} is not an IP address"
        ))),
    }
}

/// Our own keys out of the object, everything else accounted for.
fn settings(object: &Map<String, Value>, strict: bool) -> Result<Settings> {
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

/// What the runtime adds for this one container.
#[derive(Default)]
struct RuntimeConfig {
    ips: Vec<String>,
    mac: Option<String>,
    dns: Option<Dns>,
}

impl RuntimeConfig {
    fn read(object: &Map<String, Value>, strict: bool) -> Result<Self> {
        let mut read = Self::default();
        if let Some(ips) = object.get("args").and_then(|a| a.get("cni")?.get("ips")) {
            read.ips = strings(ips);
        }
        let Some(Value::Object(config)) = object.get("runtimeConfig") else {
            return Ok(read);
        };
        for (key, value) in config {
            match key.as_str() {
                "ips" if !strings(value).is_empty() => read.ips = strings(value),
                "mac" => read.mac = value.as_str().filter(|m| !m.is_empty()).map(str::to_owned),
                "dns" => read.dns = Dns::parse_runtime(value),
                // They tell, they do not ask.
                "ips" | "cgroupPath" | "io.kubernetes.cri.pod-annotations" | "aliases" => {}
                _ if empty(value) || !strict => {}
                other => {
                    return Err(Error::new(
                        Code::UnsupportedField,
                        format!("runtimeConfig.{other} = {value} is not supported by this version"),
                    )
                    .details("leave the capability out of the network configuration, or chain a plugin that has it"));
                }
            }
        }
        Ok(read)
    }
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Nothing is asked: null, "", [], {}, and objects and lists of only that.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(empty),
        Value::Object(map) => map.values().all(empty),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(value) => !value,
    }
}

/// Names are checked here: a list that is not understood must not look like an empty one.
fn valid_attachments(object: &Map<String, Value>) -> Result<ValidAttachments> {
    let Some(value) = object
        .get("cni.dev/valid-attachments")
        .or_else(|| object.get("cni.dev/attachments"))
    else {
        return Ok(ValidAttachments::Unknown);
    };
    let entries = match value {
        Value::Null => return Ok(ValidAttachments::These(Vec::new())),
        Value::Array(entries) => entries,
        other => {
            return Err(invalid(format!(
                "cni.dev/valid-attachments: {other} is not a list"
            )));
        }
    };
    let mut valid = Vec::with_capacity(entries.len());
    for entry in entries {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        match (text("containerID"), text("ifname")) {
            (Some(container), Some(ifname)) => valid.push((container, ifname)),
            _ => {
                return Err(invalid(format!(
                    "cni.dev/valid-attachments: {entry} has no \"containerID\" and \"ifname\""
                )));
            }
        }
    }
    Ok(ValidAttachments::These(valid))
}

#[cfg(test)]
#[path = "conf_tests.rs"]
mod tests;
