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
            self.old()?
        } else {
            self.new(version)?
        };
        value["cniVersion"] = version.as_str().into();
        if self.dns != Dns::default() {
            value["dns"] = to_value(&self.dns)?;
        }
        Ok(value)
    }

    /// 0.1.0 and 0.2.0: the first address of each family, with the routes of that family.
    fn old(&self) -> Result<Value> {
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

    fn new(&self, version: SpecVersion) -> Result<Value> {
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
mod tests {
    use super::*;

    fn sample() -> NetworkResult {
        NetworkResult {
            interfaces: vec![
                Interface {
                    name: "kl1".into(),
                    mac: "0e:00:00:00:00:01".into(),
                    mtu: Some(1500),
                    ..Default::default()
                },
                Interface {
                    name: "eth0".into(),
                    mac: "0a:00:00:00:00:01".into(),
                    mtu: Some(1500),
                    sandbox: "/run/netns/a".into(),
                    ..Default::default()
                },
            ],
            ips: vec![Ip {
                address: "10.0.0.2/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
                interface: Some(1),
            }],
            routes: vec![Route {
                dst: "0.0.0.0/0".parse().unwrap(),
                gw: Some("169.254.1.1".parse().unwrap()),
                more: Map::new(),
            }],
            dns: Dns {
                nameservers: vec!["10.96.0.10".into()],
                ..Dns::default()
            },
        }
    }

    #[test]
    fn each_version_has_its_own_shape() {
        for version in SpecVersion::ALL {
            let json = sample().to_json(version).unwrap();
            assert_eq!(json["cniVersion"], version.as_str());
            assert_eq!(json["dns"]["nameservers"][0], "10.96.0.10");
            if version < SpecVersion::V0_3_0 {
                assert_eq!(json["ip4"]["ip"], "10.0.0.2/32");
                assert_eq!(json["ip4"]["gateway"], "169.254.1.1");
                assert_eq!(json["ip4"]["routes"][0]["dst"], "0.0.0.0/0");
                assert!(json.get("ips").is_none() && json.get("ip6").is_none());
                continue;
            }
            assert_eq!(json["ips"][0]["address"], "10.0.0.2/32");
            assert_eq!(json["ips"][0]["interface"], 1);
            assert_eq!(json["interfaces"][1]["sandbox"], "/run/netns/a");
            assert!(json["interfaces"][0].get("sandbox").is_none());
            assert_eq!(
                json["ips"][0].get("version").is_some(),
                version < SpecVersion::V1_0_0
            );
            assert_eq!(
                json["interfaces"][1].get("mtu").is_some(),
                version >= SpecVersion::V1_1_0
            );
        }
    }

    #[test]
    fn reading_back_loses_nothing_that_the_version_can_say() {
        assert_eq!(
            NetworkResult::parse(&sample().to_json(SpecVersion::V1_1_0).unwrap()).unwrap(),
            sample()
        );
        let old = NetworkResult::parse(&sample().to_json(SpecVersion::V0_2_0).unwrap()).unwrap();
        assert_eq!(
            (old.ips[0].address, old.routes),
            (sample().ips[0].address, sample().routes)
        );
        for version in [SpecVersion::V0_4_0, SpecVersion::V1_0_0] {
            let read = NetworkResult::parse(&sample().to_json(version).unwrap()).unwrap();
            assert_eq!(read.ips, sample().ips);
        }
    }

    #[test]
    fn fields_of_other_plugins_survive_a_chain() {
        let earlier = json!({"interfaces": [{"name": "net1", "socketPath": "/s"}], "ips": null,
            "routes": [{"dst": "10.1.0.0/16", "mtu": 1400, "table": 7}]});
        let chained = sample().after(Some(NetworkResult::parse(&earlier).unwrap()));
        let json = chained.to_json(SpecVersion::V1_1_0).unwrap();
        assert_eq!(json["interfaces"][0]["socketPath"], "/s");
        assert_eq!(json["routes"][0]["table"], 7);
        assert_eq!(json["ips"][0]["interface"], 2);
        let (interface, ips) = chained.container_interface("eth0").unwrap();
        assert_eq!((interface.mac.as_str(), ips.len()), ("0a:00:00:00:00:01", 1));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            json!(1),
            json!({"ips": [{"address": "10.0.0.1"}]}),
            json!({"ips": [{"address": "10.0.0.1/24", "interface": 3}]}),
            json!({"ip4": {"ip": 1}}),
            json!({"interfaces": {}}),
        ] {
            assert!(NetworkResult::parse(&wrong).is_err(), "{wrong}");
        }
        assert!(NetworkResult::default().to_json(SpecVersion::V0_2_0).is_err());
    }
}
