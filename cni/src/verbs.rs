//! From a call to its verb, with every check that comes before.

pub mod add;
pub mod check;
pub mod del;
pub mod gc;
pub mod status;

use std::io::Read;

use crate::{
    args::{Command, Environment},
    conf::{NetworkConf, Reading},
    error::{Code, Error, Result},
    key::Key,
    loopback,
    netns::Namespace,
    store::Deadline,
    version::{self, SpecVersion},
};

/// Which plugin the binary is called as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// `keelson-cni`: pods' links.
    Pods,
    /// `loopback`: lo.
    Loopback,
}

impl Role {
    /// By the program's name, whatever the path before it.
    #[must_use]
    pub fn of(program: &str) -> Self {
        if program.rsplit('/').next() == Some("loopback") {
            Self::Loopback
        } else {
            Self::Pods
        }
    }

    /// The name in the greeting.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pods => "keelson-cni",
            Self::Loopback => "loopback",
        }
    }
}

/// A call that has passed every check.
pub struct Call {
    /// The variables.
    pub env: Environment,
    /// The network configuration.
    pub conf: NetworkConf,
    /// Until when locks may be waited for.
    pub deadline: Deadline,
}

impl Call {
    /// The attachment meant. Only for verbs whose variables were checked.
    pub fn key(&self) -> Result<Key> {
        let missing = || {
            Error::new(
                Code::InvalidEnvironment,
                "CNI_CONTAINERID and CNI_IFNAME are missing",
            )
        };
        Ok(Key {
            network: self.conf.name.clone(),
            container: self.env.container_id.clone().ok_or_else(missing)?,
            ifname: self.env.ifname.clone().ok_or_else(missing)?,
        })
    }

    /// The pod's namespace, which must be one.
    pub fn namespace(&self) -> Result<Namespace> {
        let path = self.env.netns.as_deref();
        Namespace::require(path.ok_or_else(|| Error::new(Code::InvalidEnvironment, "CNI_NETNS is missing"))?)
    }
}

/// Runs a call: reads the input, checks, does. The text is for standard output. The version is for the error object.
pub fn run(
    role: Role,
    env: Environment,
    input: impl Read,
    deadline: Deadline,
) -> std::result::Result<Option<String>, (Error, SpecVersion)> {
    let mut version = SpecVersion::CURRENT;
    dispatch(role, env, input, deadline, &mut version).map_err(|error| (error, version))
}

fn dispatch(
    role: Role,
    env: Environment,
    mut input: impl Read,
    deadline: Deadline,
    version: &mut SpecVersion,
) -> Result<Option<String>> {
    env.validate()?;
    let command = env.command();
    if command == Some(Command::Version) {
        return Ok(Some(version::answer()));
    }
    let mut bytes = Vec::new();
    let read = input.read_to_end(&mut bytes);
    read.map_err(|e| {
        Error::new(
            Code::Io,
            format!("read the network configuration from standard input: {e}"),
        )
    })?;
    *version = crate::conf::version_of(&bytes);
    let reading = match command {
        Some(Command::Del | Command::Gc) => Reading::Lenient,
        _ => Reading::Whole,
    };
    let conf = NetworkConf::parse(&bytes, reading, role == Role::Pods)?;
    let Some(command) = command else {
        let unknown = format!("unknown CNI_COMMAND {:?}", env.command);
        return Err(Error::new(Code::InvalidEnvironment, unknown));
    };
    allowed(command, &conf)?;
    let call = Call { env, conf, deadline };
    not_own_namespace(command, &call)?;
    match (role, command) {
        (Role::Loopback, _) => loopback::run(command, &call),
        (_, Command::Add) => add::run(&call).map(Some),
        (_, Command::Del) => del::run(&call).map(|()| None),
        (_, Command::Check) => check::run(&call).map(|()| None),
        (_, Command::Gc) => gc::run(&call).map(|()| None),
        (_, Command::Status) => status::run(&call).map(|()| None),
        (_, Command::Version) => Ok(Some(version::answer())),
    }
}

/// Verbs that came later than the configuration's version.
fn allowed(command: Command, conf: &NetworkConf) -> Result<()> {
    let (name, since) = match command {
        Command::Check => ("CHECK", SpecVersion::V0_4_0),
        Command::Gc => ("GC", SpecVersion::V1_1_0),
        Command::Status => ("STATUS", SpecVersion::V1_1_0),
        _ => return Ok(()),
    };
    if conf.version < since {
        return Err(Error::new(
            Code::IncompatibleVersion,
            format!(
                "config version {} does not allow {name}, which needs {since}",
                conf.version
            ),
        ));
    }
    Ok(())
}

/// The node's own namespace is no pod's; ADD and DEL there would take the node's network apart.
fn not_own_namespace(command: Command, call: &Call) -> Result<()> {
    let attaching = matches!(command, Command::Add | Command::Del);
    let Some(path) = call
        .env
        .netns
        .as_deref()
        .filter(|_| attaching && !call.env.netns_override)
    else {
        return Ok(());
    };
    let namespace = match command {
        Command::Add => Some(Namespace::require(path)?),
        // A path that is gone, or unreadable, does not keep a pod from going away.
        _ => Namespace::open(path).unwrap_or(None),
    };
    match namespace {
        Some(namespace) if namespace.is_own()? => Err(Error::new(
            Code::InvalidNetns,
            format!(
                "CNI_NETNS {} is the plugin's own network namespace",
                path.display()
            ),
        )
        .details("CNI_NETNS_OVERRIDE=1 allows it")),
        _ => Ok(()),
    }
}
