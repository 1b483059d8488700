//! `runtimeConfig` and `args`: what the runtime adds for this one container.

use serde_json::{Map, Value};

use crate::{
    error::{Code, Error, Result},
    result::Dns,
};

/// What the runtime adds for this one container.
#[derive(Default)]
pub(super) struct RuntimeConfig {
    pub(super) ips: Vec<String>,
    pub(super) mac: Option<String>,
    pub(super) dns: Option<Dns>,
}

impl RuntimeConfig {
    pub(super) fn read(object: &Map<String, Value>, strict: bool) -> Result<Self> {
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
