//! The network configuration: what the runtime hands over on standard input, and the list file the agent writes.
//!
//! A key that this plugin owns and does not know is refused by name: a typing error must not become a default.
//! Keys of the specification and `cni.dev/*` are let through. DEL and GC read leniently: what cannot be understood
//! must not keep a pod from going away.

mod runtime;
mod settings;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::Ipv4Net;
use serde_json::{Map, Value};

use crate::{
    args::{Arguments, validate_name},
    error::{Code, Error, Result},
    mac::Mac,
    result::{Dns, NetworkResult},
    version::SpecVersion,
};

pub use settings::{PortRange, Settings};

use runtime::RuntimeConfig;
use settings::{default_bpf, default_run, settings};

/// Network names become folders and parts of link aliases.
const NAME_LIMIT: usize = 100;

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
#[path = "conf/tests.rs"]
mod tests;
