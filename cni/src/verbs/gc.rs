//! GC: removes every attachment of this network that the runtime does not name.

use super::Call;
use crate::{
    conf::ValidAttachments,
    datapath::{self, Datapath},
    error::{Code, Error, Result},
    gc::{Wanted, collect},
    netlink::Netlink,
    netns, node,
};

/// Runs GC. A runtime that names nobody (no such key) has not said that nobody is left.
pub fn run(call: &Call) -> Result<()> {
    let ValidAttachments::These(valid) = &call.conf.valid else {
        return Ok(());
    };
    let mut node = Netlink::open("the node")?;
    let store = node::open_store(&call.conf.run, &call.conf.name, &node)?;
    let loaded = datapath::existing(&call.conf);
    let datapath = loaded.as_ref().map(|d| d as &dyn Datapath);
    let wanted = Wanted::Only(valid.iter().cloned().collect());
    let now_ms = netns::boot_clock_ms()?;
    let report = collect(&store, &wanted, &mut node, datapath, now_ms, call.deadline)?;
    if report.failures.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Code::Io,
        format!("not everything could be removed: {}", report.failures.join("; ")),
    ))
}
