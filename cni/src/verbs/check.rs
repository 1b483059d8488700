//! CHECK: compares the attachment with what ADD made and what the runtime remembers of it.

use super::Call;
use crate::{
    attach::Wiring,
    datapath::{self, Look},
    error::{Code, Error, Result},
    netlink::Netlink,
    node,
    result::NetworkResult,
    store::{Phase, Record},
    verify,
};

/// Runs CHECK.
pub fn run(call: &Call) -> Result<()> {
    let settings = call.conf.settings()?;
    let Some(remembered) = &call.conf.prev_result else {
        return Err(Error::new(
            Code::InvalidNetwork,
            "CHECK needs the result of ADD: prevResult is missing",
        ));
    };
    let key = call.key()?;
    let mut node = Netlink::open("the node")?;
    let datapath = datapath::ready(settings, &call.conf.name, &mut node, Look::Quick)?;
    let store = node::open_store(&settings.run, &call.conf.name, &node)?;
    let Some(record) = store
        .peek(&key)?
        .filter(|record| record.phase == Phase::Committed)
    else {
        let link = node.link(&key.host_ifname())?;
        let code = if link.is_some() {
            Code::Mismatch
        } else {
            Code::UnknownContainer
        };
        return Err(Error::new(
            code,
            format!("{key} has no record: it was not attached, or its address is released"),
        ));
    };
    let mut pod = call.namespace()?.netlink()?;
    let wiring = Wiring::of(&record)?;
    let seen = verify::observe(&wiring, &mut node, &mut pod, &datapath)?;
    let mut found = remembered_otherwise(&record, remembered);
    if record.netns_cookie != pod.cookie()? {
        found.push("CNI_NETNS is not the namespace that ADD was given".to_owned());
    }
    found.extend(verify::differences(&wiring, datapath.blocks(), &seen));
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Code::Mismatch,
        format!("{key} is not as ADD made it: {}", found.join("; ")),
    )
    .details("DEL and ADD make it anew"))
}

/// What the runtime was told, against what is on record. More addresses and interfaces are another plugin's.
fn remembered_otherwise(record: &Record, result: &NetworkResult) -> Vec<String> {
    let ifname = &record.key.ifname;
    let Some((interface, ips)) = result.container_interface(ifname) else {
        return vec![format!("prevResult has no interface {ifname}")];
    };
    let mut found = Vec::new();
    if !interface.mac.is_empty() && !interface.mac.eq_ignore_ascii_case(&record.pod_mac.to_string()) {
        found.push(format!(
            "prevResult has MAC {} for {ifname}, the record {}",
            interface.mac, record.pod_mac
        ));
    }
    for address in &record.addresses {
        if !ips.iter().any(|net| net.addr() == *address) {
            found.push(format!("prevResult does not have {address} on {ifname}"));
        }
    }
    found
}
