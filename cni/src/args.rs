//! The call's environment: `CNI_*` variables, read once, validated in the order every runtime expects.

use std::path::PathBuf;

use crate::error::{Code, Error, Result};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Compare with what ADD made.
    Check,
    /// Remove what the runtime no longer knows.
    Gc,
    /// Tell whether ADD would work.
    Status,
    /// Tell the supported versions.
    Version,
}

/// The variables, empty ones as absent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`, as it stands.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub ifname: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
    /// `CNI_PATH`; not used (nothing is delegated), but required by the protocol.
    pub path: Option<String>,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the node's own.
    pub netns_override: bool,
}

impl Environment {
    /// Reads the variables through `get`. `None`: there is no command at all, and the plugin only introduces itself.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        Some(Self {
            command: get("CNI_COMMAND")?,
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS").map(PathBuf::from),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
            path: get("CNI_PATH"),
            netns_override: get("CNI_NETNS_OVERRIDE")
                .is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true")),
        })
    }

    /// The command, if it is one.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        Some(match self.command.as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            _ => return None,
        })
    }

    /// Variables that the command needs and the caller did not set, then malformed names. An unknown command passes:
    /// it is refused after the configuration was read.
    pub fn validate(&self) -> Result<()> {
        let Some(command) = self.command() else {
            return Ok(());
        };
        let missing = self.missing(command);
        if !missing.is_empty() {
            return Err(Error::new(
                Code::InvalidEnvironment,
                format!("required environment variables missing: {}", missing.join(", ")),
            ));
        }
        // For VERSION runtimes put fillers here, which are nobody's business.
        if command == Command::Version {
            return Ok(());
        }
        if let Some(id) = &self.container_id {
            validate_name("CNI_CONTAINERID", id).map_err(|why| Error::new(Code::InvalidEnvironment, why))?;
        }
        self.ifname.as_deref().map_or(Ok(()), validate_ifname)
    }

    fn missing(&self, command: Command) -> Vec<&'static str> {
        use Command::{Add, Check, Del, Version};
        let attachment = matches!(command, Add | Check | Del);
        let needs = [
            ("CNI_CONTAINERID", attachment, self.container_id.is_some()),
            ("CNI_NETNS", matches!(command, Add | Check), self.netns.is_some()),
            ("CNI_IFNAME", attachment, self.ifname.is_some()),
            ("CNI_PATH", command != Version, self.path.is_some()),
        ];
        needs
            .iter()
            .filter(|(_, needed, set)| *needed && !set)
            .map(|(name, ..)| *name)
            .collect()
    }

    /// `CNI_ARGS`, split. Unknown keys are the runtime's own business and ignored when it says so.
    pub fn arguments(&self) -> Result<Arguments> {
        Arguments::parse(self.args.as_deref().unwrap_or_default())
    }
}

/// What `CNI_ARGS` asks of us.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Arguments {
    /// `IP`: the address to give, with or without a prefix length.
    pub ip: Option<String>,
    /// `MAC`: of the pod's end.
    pub mac: Option<String>,
    /// `K8S_POD_NAMESPACE`/`K8S_POD_NAME`: whose it is, where a kubelet's runtime calls.
    pub pod: Option<String>,
}

impl Arguments {
    /// Parses `K=V;K=V`.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: String| Err(Error::new(Code::InvalidEnvironment, format!("CNI_ARGS: {why}")));
        let mut found = Self::default();
        let mut unknown = None;
        let mut ignore_unknown = false;
        let (mut namespace, mut name) = (None, None);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.split('=');
            let (Some(key), Some(value), None) = (halves.next(), halves.next(), halves.next()) else {
                return refuse(format!("{pair:?} is not of the form KEY=VALUE"));
            };
            match key {
                "IP" => found.ip = Some(value.to_owned()).filter(|v| !v.is_empty()),
                "MAC" => found.mac = Some(value.to_owned()).filter(|v| !v.is_empty()),
                "IgnoreUnknown" => ignore_unknown = value == "1" || value.eq_ignore_ascii_case("true"),
                "GATEWAY" => {
                    return refuse(
                        "GATEWAY cannot be chosen: pods are routed through 169.254.1.1".to_owned(),
                    );
                }
                "K8S_POD_NAMESPACE" => namespace = Some(value),
                "K8S_POD_NAME" => name = Some(value),
                known if known.starts_with("K8S_POD_") => {}
                other => unknown = unknown.or_else(|| Some(other.to_owned())),
            }
        }
        found.pod = namespace
            .zip(name)
            .map(|(namespace, name)| format!("{namespace}/{name}"));
        match unknown {
            Some(key) if !ignore_unknown => refuse(format!("unknown key {key:?} and no IgnoreUnknown=1")),
            _ => Ok(found),
        }
    }
}

/// The rule for container ids and network names. The error says what is wrong, not where.
pub fn validate_name(what: &str, name: &str) -> std::result::Result<(), String> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
        return Ok(());
    }
    Err(format!(
        "{what} {name:?} must be letters, digits, '_', '.', '-' and begin with a letter or digit"
    ))
}

fn validate_ifname(name: &str) -> Result<()> {
    let why = if name.len() > 15 {
        "is longer than 15 bytes"
    } else if matches!(name, "." | "..") {
        "is not a name"
    } else if name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace()) {
        "holds '/', ':' or a blank"
    } else {
        return Ok(());
    };
    Err(Error::new(
        Code::InvalidEnvironment,
        format!("CNI_IFNAME {name:?} {why}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let get = |name: &str| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        };
        Environment::read(get).unwrap()
    }

    #[test]
    fn an_empty_variable_is_an_absent_one() {
        assert_eq!(Environment::read(|_| Some(String::new())), None);
        let env = environment(&[("CNI_COMMAND", "GC"), ("CNI_NETNS", ""), ("CNI_PATH", "/x")]);
        assert_eq!(env.netns, None);
        assert!(env.validate().is_ok());
    }

    #[test]
    fn every_missing_variable_is_named_at_once() {
        for (command, names) in [
            ("ADD", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"),
            ("CHECK", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"),
            ("DEL", "CNI_CONTAINERID, CNI_IFNAME, CNI_PATH"),
            ("GC", "CNI_PATH"),
            ("STATUS", "CNI_PATH"),
        ] {
            let error = environment(&[("CNI_COMMAND", command)]).validate().unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.msg.ends_with(names), "{command}: {}", error.msg);
        }
        assert!(environment(&[("CNI_COMMAND", "VERSION")]).validate().is_ok());
    }

    #[test]
    fn version_takes_fillers_and_an_unknown_command_waits_for_the_configuration() {
        let env = environment(&[
            ("CNI_COMMAND", "VERSION"),
            ("CNI_IFNAME", "no/such name"),
            ("CNI_CONTAINERID", "-"),
        ]);
        assert!(env.validate().is_ok());
        let env = environment(&[("CNI_COMMAND", "FLY")]);
        assert!(env.validate().is_ok() && env.command().is_none());
    }

    #[test]
    fn malformed_names_get_code_4() {
        let base = [("CNI_COMMAND", "DEL"), ("CNI_PATH", "/x")];
        for (id, ifname) in [
            ("", "eth0"),
            ("-a", "eth0"),
            ("a b", "eth0"),
            ("a/b", "eth0"),
            ("ok", "."),
            ("ok", ".."),
            ("ok", "sixteen-bytes-xx"),
            ("ok", "a/b"),
            ("ok", "a:b"),
            ("ok", "a b"),
        ] {
            let mut pairs = base.to_vec();
            pairs.extend([("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname)]);
            let error = environment(&pairs).validate().unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment, "{id} {ifname}");
        }
        let mut pairs = base.to_vec();
        pairs.extend([
            ("CNI_CONTAINERID", "default-1.a_B"),
            ("CNI_IFNAME", "exactly-15-byte"),
        ]);
        assert!(environment(&pairs).validate().is_ok());
    }

    #[test]
    fn arguments_are_pairs_and_unknown_keys_need_leave() {
        let args =
            Arguments::parse("IgnoreUnknown=1;K8S_POD_NAME=a;K8S_POD_NAMESPACE=b;K8S_POD_UID=c;IP=10.0.0.9;MAC=02:00:00:00:00:01;X=y").unwrap();
        assert_eq!(args.ip.as_deref(), Some("10.0.0.9"));
        assert_eq!(args.pod.as_deref(), Some("b/a"));
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert!(Arguments::parse("X=y;IgnoreUnknown=true").is_ok());
        assert!(Arguments::parse("").is_ok());
        for wrong in ["X=y", "IP", "IP=1=2", "X=y;IgnoreUnknown=0", "GATEWAY=10.0.0.1"] {
            assert_eq!(
                Arguments::parse(wrong).unwrap_err().code,
                Code::InvalidEnvironment,
                "{wrong}"
            );
        }
    }
}
