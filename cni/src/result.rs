//! The result of ADD, in the shape of any version, and reading one back from any version.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    error::{Code, Error, Result},
    version::SpecVersion,
};

/// A result, in the widest shape (1.1.0).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkResult {
    /// Links that were made.
    pub interfaces: Vec<Interface>,
    /// Addresses that were given.
    pub ips: Vec<Ip>,
    /// Routes inside the container.
    #[serde(deserialize_with = "null_is_empty")]
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
}

/// One link.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU (1.1.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of its network namespace; empty on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Of other plugins (1.1.0).
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// Of other plugins (1.1.0).
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// One address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ip {
    /// With prefix length.
    pub address: IpNet,
    /// Its gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// One route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The fields of 1.1.0, which this plugin only passes on.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Name resolution.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// Runtimes written in other languages send `null` for an empty list.
fn null_is_empty<'de, D, T>(input: D) -> std::result::Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(input)?.unwrap_or_default())
}

impl Dns {
    /// The `dns` key of a configuration.
    pub fn parse(value: &Value) -> std::result::Result<Self, String> {
        Option::<Self>::deserialize(value)
            .map(Option::unwrap_or_default)
            .map_err(|e| e.to_string())
    }

    /// The `dns` capability, whose keys have other names. `None` when it says nothing.
    #[must_use]
    pub fn parse_runtime(value: &Value) -> Option<Self> {
        let list = |key: &str| {
            value
                .get(key)?
                .as_array()
                .map(|l| l.iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect())
        };
        let dns = Self {
            nameservers: list("servers").unwrap_or_default(),
            search: list("searches").unwrap_or_default(),
            options: list("options").unwrap_or_default(),
            domain: String::new(),
        };
        (dns != Self::default()).then_some(dns)
    }
}

impl NetworkResult {
    /// Reads a result of any version.
    pub fn parse(value: &Value) -> std::result::Result<Self, String> {
        if value.get("ip4").is_some() || value.get("ip6").is_some() {
            return Self::parse_old(value);
        }
        let mut object = value.as_object().cloned().ok_or("not a JSON object")?;
        for list in ["interfaces", "ips", "routes", "dns"] {
            if object.get(list).is_some_and(Value::is_null) {
                object.remove(list);
            }
        }
        let result = Self::deserialize(Value::Object(object)).map_err(|e| e.to_string())?;
        match result
            .ips
            .iter()
            .filter_map(|ip| ip.interface)
            .find(|&i| i >= result.interfaces.len())
        {
            Some(index) => Err(format!(
                "an address refers to interface {index}, which is not listed"
            )),
            None => Ok(result),
        }
    }

    fn parse_old(value: &Value) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Family {
            ip: IpNet,
            gateway: Option<IpAddr>,
            #[serde(default, deserialize_with = "null_is_empty")]
            routes: Vec<Route>,
        }
        let mut result = Self {
            dns: Dns::parse(value.get("dns").unwrap_or(&Value::Null))?,
            ..Self::default()
        };
        for key in ["ip4", "ip6"] {
            let Some(family) = value.get(key).filter(|v| !v.is_null()) else {
                continue;
            };
            let family = Family::deserialize(family).map_err(|e| format!("{key}: {e}"))?;
            result.ips.push(Ip {
                address: family.ip,
                gateway: family.gateway,
                interface: None,
            });
            result.routes.extend(family.routes);
        }
        Ok(result)
    }

    /// The result as `version` writes it.
    pub fn to_json(&self, version: SpecVersion) -> Result<Value> {
        let mut value = if version < SpecVersion::V0_3_0 {
            self.with_families()?
        } else {
            self.with_interfaces(version)?
        };
        value["cniVersion"] = version.as_str().into();
        if self.dns != Dns::default() {
            value["dns"] = to_value(&self.dns)?;
        }
        Ok(value)
    }

    /// 0.1.0 and 0.2.0: the first address of each family, with the routes of that family.
    fn with_families(&self) -> Result<Value> {
        if self.ips.is_empty() {
            return Err(Error::new(
                Code::IncompatibleVersion,
                "a result without addresses has no form before 0.3.0",
            ));
        }
        let mut value = json!({});
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == v4) else {
                continue;
            };
            let routes: Vec<Value> = self
                .routes
                .iter()
                .filter(|r| r.dst.addr().is_ipv4() == v4)
                .map(old_route)
                .collect();
            let mut family = json!({ "ip": ip.address });
            if let Some(gateway) = ip.gateway {
                family["gateway"] = json!(gateway);
            }
            if !routes.is_empty() {
                family["routes"] = routes.into();
            }
            value[key] = family;
        }
        Ok(value)
    }

    /// 0.3.0 and later.
    fn with_interfaces(&self, version: SpecVersion) -> Result<Value> {
        let mut value = json!({ "interfaces": to_value(&self.interfaces)?, "ips": to_value(&self.ips)? });
        if !self.routes.is_empty() {
            value["routes"] = if version < SpecVersion::V1_1_0 {
                self.routes.iter().map(old_route).collect()
            } else {
                to_value(&self.routes)?
            };
        }
        if version < SpecVersion::V1_1_0 {
            for interface in value["interfaces"].as_array_mut().into_iter().flatten() {
                for key in ["mtu", "socketPath", "pciID"] {
                    interface.as_object_mut().map(|o| o.remove(key));
                }
            }
        }
        if version < SpecVersion::V1_0_0 {
            for (ip, json) in self
                .ips
                .iter()
                .zip(value["ips"].as_array_mut().into_iter().flatten())
            {
                json["version"] = if ip.address.addr().is_ipv4() { "4" } else { "6" }.into();
            }
        }
        Ok(value)
    }

    /// This result behind an earlier plugin's, with the indexes shifted.
    #[must_use]
    pub fn after(mut self, earlier: Option<Self>) -> Self {
        let Some(mut all) = earlier else { return self };
        let shift = all.interfaces.len();
        for ip in &mut self.ips {
            ip.interface = ip.interface.map(|index| index + shift);
        }
        all.interfaces.append(&mut self.interfaces);
        all.ips.append(&mut self.ips);
        all.routes.append(&mut self.routes);
        if self.dns != Dns::default() {
            all.dns = self.dns;
        }
        all
    }

    /// Index, and addresses, of the interface with this name in a container.
    #[must_use]
    pub fn container_interface(&self, name: &str) -> Option<(&Interface, Vec<IpNet>)> {
        let index = self
            .interfaces
            .iter()
            .position(|i| i.name == name && !i.sandbox.is_empty())?;
        let ips = self
            .ips
            .iter()
            .filter(|ip| ip.interface == Some(index))
            .map(|ip| ip.address)
            .collect();
        Some((&self.interfaces[index], ips))
    }
}

fn old_route(route: &Route) -> Value {
    let mut value = json!({ "dst": route.dst });
    if let Some(gw) = route.gw {
        value["gw"] = json!(gw);
    }
    value
}

fn to_value(part: &impl Serialize) -> Result<Value> {
    serde_json::to_value(part).map_err(|e| Error::new(Code::Decode, format!("write the result: {e}")))
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
