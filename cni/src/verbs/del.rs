//! DEL: ends the pod's traffic, removes its link, lets its address cool down.
//!
//! What is missing is success: the namespace, the link, the record, the programs, everything. Only a lock that stays
//! busy is an error, and a kernel that refuses.

use super::Call;
use crate::{
    attach,
    datapath::{self, Datapath},
    error::Result,
    netlink::Netlink,
    netns, node,
};

/// Runs DEL.
pub fn run(call: &Call) -> Result<()> {
    let key = call.key()?;
    let hash = key.hash();
    let mut node = Netlink::open("the node")?;
    let store = node::open_store(&call.conf.run, &call.conf.name, &node)?;
    let attachment = store.lock(&key, call.deadline)?;
    let mut addresses = attachment
        .record()
        .map(|r| r.addresses.clone())
        .unwrap_or_default();
    if let Some(result) = &call.conf.prev_result {
        // Entries are removed only where they are this attachment's, so an old result does no harm.
        addresses.extend(
            result
                .ips
                .iter()
                .map(|ip| ip.address.addr())
                .filter(|ip| !addresses.contains(ip))
                .collect::<Vec<_>>(),
        );
    }
    let loaded = datapath::existing(&call.conf);
    let datapath = loaded.as_ref().map(|d| d as &dyn Datapath);
    let linked = attach::detach(&key, &addresses, &mut node, datapath)?;
    store.release(attachment, linked, hash, netns::boot_clock_ms()?, call.deadline)
}
