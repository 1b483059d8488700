//! `loopback`: brings lo up in the container. Runtimes run it once per pod, beside the pod's network.

use netlink_packet_route::AddressFamily;

use crate::{
    args::Command,
    error::{Code, Error, Result},
    netlink::{Netlink, message},
    netns::Namespace,
    result::{Interface, Ip, NetworkResult},
    verbs::Call,
};

const NAME: &str = "lo";
/// The kernel gives every namespace's lo this index.
const INDEX: u32 = 1;

/// Runs a verb. GC and STATUS have nothing to say: there is no state.
pub fn run(command: Command, call: &Call) -> Result<Option<String>> {
    match command {
        Command::Add => add(call).map(Some),
        Command::Check => check(call).map(|()| None),
        Command::Del => del(call).map(|()| None),
        Command::Gc | Command::Status | Command::Version => Ok(None),
    }
}

fn add(call: &Call) -> Result<String> {
    let namespace = call.namespace()?;
    let mut pod = namespace.netlink()?;
    pod.all(vec![message::set_up(INDEX, true)])?;
    // A loopback that is not first in its chain hands on what it was given.
    let result = match &call.conf.prev_result {
        Some(earlier) => earlier.clone(),
        None => result(call, &mut pod)?,
    };
    Ok(result.to_json(call.conf.version)?.to_string())
}

fn result(call: &Call, pod: &mut Netlink) -> Result<NetworkResult> {
    let mut addresses = pod.link_addresses(INDEX, AddressFamily::Inet)?;
    addresses.extend(pod.link_addresses(INDEX, AddressFamily::Inet6)?);
    let sandbox = call
        .env
        .netns
        .as_ref()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let mac = "00:00:00:00:00:00".to_owned();
    Ok(NetworkResult {
        interfaces: vec![Interface {
            name: NAME.to_owned(),
            mac,
            sandbox,
            ..Interface::default()
        }],
        ips: addresses
            .into_iter()
            .map(|address| Ip {
                address,
                gateway: None,
                interface: Some(0),
            })
            .collect(),
        ..NetworkResult::default()
    })
}

fn check(call: &Call) -> Result<()> {
    let mut pod = call.namespace()?.netlink()?;
    match pod.link(NAME)? {
        Some(link) if link.up => Ok(()),
        _ => Err(Error::new(Code::Mismatch, "the container's lo is down")),
    }
}

fn del(call: &Call) -> Result<()> {
    let Some(path) = call.env.netns.as_deref() else {
        return Ok(());
    };
    let Some(namespace) = Namespace::open(path)? else {
        return Ok(());
    };
    namespace
        .netlink()?
        .all(vec![message::set_up(INDEX, false)])
        .map(|_| ())
}
