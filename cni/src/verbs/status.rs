//! STATUS: would ADD work? It prepares what ADD would prepare, so that a runtime that waits for a good answer before
//! its first ADD gets one.

use super::Call;
use crate::{
    datapath::{self, Look},
    error::{Code, Error, Result},
    ipam::Range,
    netlink::Netlink,
    netns, node,
};

/// Runs STATUS.
pub fn run(call: &Call) -> Result<()> {
    let settings = call.conf.settings()?;
    let mut node = Netlink::open("the node").map_err(|e| e.with_code(Code::NotAvailable))?;
    let store = node::open_store(&settings.run, &call.conf.name, &node)
        .map_err(|e| e.with_code(Code::NotAvailable))?;
    if let Err(error) = datapath::ready(settings, &call.conf.name, &mut node, Look::Close) {
        // Whoever is attached relied on the same programs.
        let attached = store.records().is_ok_and(|records| !records.is_empty());
        return Err(error.with_code(if attached {
            Code::Degraded
        } else {
            Code::NotAvailable
        }));
    }
    let now_ms = netns::boot_clock_ms()?;
    let usage = store.usage(Some(Range::new(settings.pod_cidr)), now_ms, call.deadline);
    match usage.map_err(|e| e.with_code(Code::NotAvailable))? {
        Some(usage) if usage.used >= usage.size => Err(Error::new(
            Code::NotAvailable,
            format!("all {} addresses of {} are in use", usage.size, settings.pod_cidr),
        )),
        _ => Ok(()),
    }
}
