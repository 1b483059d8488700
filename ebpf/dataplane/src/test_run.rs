//! Run a loaded program on a packet of one's own: the rung between a table and real traffic, and the base of dry runs.

use std::os::fd::{AsFd, BorrowedFd};

use crate::{
    attach,
    error::{Error, Result},
    paths::Generation,
    sys,
};

/// Words of `struct __sk_buff` that a test run may set.
const MARK: usize = 2;
const INGRESS_IFINDEX: usize = 9;
const IFINDEX: usize = 10;

/// Where the packet is and what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestContext {
    /// Device the program runs on; it must exist in the calling namespace.
    pub ifindex: u32,
    /// Device the packet came by.
    pub ingress_ifindex: u32,
    /// `skb->mark`: the node's dry-run mark makes the run leave no trace but the trace map.
    pub mark: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOutput {
    /// `TC_ACT_*`.
    pub code: u32,
    /// The packet afterwards, Ethernet header first.
    pub packet: Vec<u8>,
    /// `skb->mark` afterwards.
    pub mark: u32,
    /// How long the program ran, as the kernel measured it.
    pub nanoseconds: u32,
}

/// Run one program once.
pub fn run(
    generation: &Generation,
    program: &str,
    packet: &[u8],
    context: TestContext,
) -> Result<TestOutput> {
    let fd = attach::program(generation, program)?;
    run_program(fd.as_fd(), packet, context).map_err(Error::on("test run of", program))
}

/// Run a program by its descriptor, whoever loaded it.
pub fn run_program(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: TestContext,
) -> std::io::Result<TestOutput> {
    let mut words = [0; 48];
    words[MARK] = context.mark;
    words[INGRESS_IFINDEX] = context.ingress_ifindex;
    words[IFINDEX] = context.ifindex;
    let raw = sys::test_run(program, packet, words)?;
    Ok(TestOutput {
        nanoseconds: raw.nanoseconds,
        code: raw.code,
        packet: raw.packet,
        mark: raw.context[MARK],
    })
}
