//! Shared tc blocks: one filter on a block is the program of every pod link bound to it.
//!
//! A block lives as long as a link is bound to it. Whoever binds a link makes sure that the filter is there afterwards; the
//! kernel serialises the attempts, and "exists" is as good as "made".

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::Netlink;
use crate::error::{Error, Result};

const RTM_NEWTFILTER: u16 = 44;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// In the place of an ifindex: the parent field names a block.
const TCM_IFINDEX_MAGIC_BLOCK: u32 = u32::MAX;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const PRIORITY: u32 = 1;
const HANDLE: u32 = 1;

/// What to do with a filter that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it.
    Keep,
    /// Put ours in its place, in one step.
    Replace,
}

/// Put a program on a block. Returns false where the block does not exist, because no link is bound to it.
pub fn set_block_filter(
    netlink: &mut Netlink,
    block: u32,
    name: &str,
    program: BorrowedFd<'_>,
    existing: Existing,
) -> Result<bool> {
    let mut options = attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    options.extend(attribute(TCA_BPF_NAME, &[name.as_bytes(), &[0]].concat()));
    options.extend(attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()));
    // tcm_info: priority above, protocol (all, network order) below.
    let info = (PRIORITY << 16) | u32::from((libc::ETH_P_ALL as u16).to_be());
    let mut body = header(TCM_IFINDEX_MAGIC_BLOCK, HANDLE, block, info);
    body.extend(attribute(TCA_KIND, b"bpf\0"));
    body.extend(attribute(TCA_OPTIONS, &options));
    let flags = match existing {
        Existing::Keep => NLM_F_CREATE | NLM_F_EXCL,
        Existing::Replace => NLM_F_CREATE | NLM_F_REPLACE,
    };
    match netlink.change_raw(RTM_NEWTFILTER, flags, &body) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) && existing == Existing::Keep => Ok(true),
        Err(error) if no_such_block(&error) => Ok(false),
        Err(error) => Err(Error::system(
            "putting the program on",
            format!("tc block {block:#x}"),
            error,
        )),
    }
}

/// Bind a link to both blocks. Bound already is fine.
pub fn bind_link(netlink: &mut Netlink, ifindex: u32, ingress: u32, egress: u32) -> Result<()> {
    let mut body = header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
    body.extend(attribute(TCA_KIND, b"clsact\0"));
    body.extend(attribute(TCA_INGRESS_BLOCK, &ingress.to_ne_bytes()));
    body.extend(attribute(TCA_EGRESS_BLOCK, &egress.to_ne_bytes()));
    match netlink.change_raw(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &body) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(Error::system(
            "binding to the shared blocks",
            format!("device {ifindex}"),
            error,
        )),
        _ => Ok(()),
    }
}

/// Unbind a link; not bound is fine.
pub fn unbind_link(netlink: &mut Netlink, ifindex: u32) -> Result<()> {
    let mut body = header(ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0);
    body.extend(attribute(TCA_KIND, b"clsact\0"));
    match netlink.change_raw(RTM_DELQDISC, 0, &body) {
        Err(error)
            if !matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
            ) =>
        {
            Err(Error::system(
                "unbinding from the shared blocks",
                format!("device {ifindex}"),
                error,
            ))
        }
        _ => Ok(()),
    }
}

fn no_such_block(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT))
}

/// `struct tcmsg`.
fn header(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [ifindex, handle, parent, info] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend_from_slice(&(length as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}
