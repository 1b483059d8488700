//! A dry run: the loaded programs on the live maps, with a packet that nobody sent.
//!
//! The packet carries the node's dry-run mark, by which the programs write nothing but the trace of the CPU they run on. The run is
//! bound to one CPU, so that this trace is its own.

use std::sync::{Mutex, PoisonError};

use keelson_abi::{BACKEND_BLOCK, Backend, BackendBlock, BackendKey, MAP_BACKEND, Trace};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    dataplane::Dataplane,
    error::{Error, Result},
    maps::Table,
    netlink::{Netlink, link::Device},
    test_run::TestContext,
};

/// No Service has more endpoints shown.
const MOST_SLOTS: u32 = 1024;

impl Dataplane {
    /// What `program` would do with `packet` on the device of that index. Must be called in the node's network namespace.
    pub fn dry_run(&self, program: &str, packet: &[u8], ifindex: u32) -> Result<Trace> {
        // One at a time in this process; another process's run on the same CPU shows by its tuple.
        static ONE: Mutex<()> = Mutex::new(());
        let mark = self.node()?.dry_run_mark;
        if mark == 0 {
            return Err(Error::system(
                "running dry",
                program,
                std::io::Error::other("the node's values have not been written yet"),
            ));
        }
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let context = TestContext {
            ifindex,
            ingress_ifindex: ifindex,
            mark,
        };
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let cpu = bind().map_err(Error::on("binding to one CPU the run of", program))?;
                self.test_run(program, packet, context)?;
                let traces = self.traces()?;
                Ok(traces.get(cpu).copied().unwrap_or_default())
            });
            run.join().unwrap_or_else(|_| {
                Err(Error::system(
                    "running dry",
                    program,
                    std::io::Error::other("it panicked"),
                ))
            })
        })
    }

    /// Slots of a Service's revision, from `first` on.
    pub fn slots(&self, service: u32, revision: u32, first: u32, count: u32) -> Result<Vec<Backend>> {
        let table = Table::<BackendKey, BackendBlock>::open(self.generation(), MAP_BACKEND)?;
        let mut slots = Vec::new();
        for slot in first..first.saturating_add(count.min(MOST_SLOTS)) {
            let key = BackendKey {
                service,
                revision,
                block: slot / BACKEND_BLOCK,
            };
            if let Some(block) = table.get(&key)? {
                slots.push(block.slots[(slot % BACKEND_BLOCK) as usize]);
            }
        }
        Ok(slots)
    }

    /// Every device of the calling thread's namespace.
    pub fn devices() -> Result<Vec<Device>> {
        Netlink::open()?.devices()
    }
}

/// Bind this thread to the first CPU it may use; its number.
fn bind() -> std::io::Result<usize> {
    let may = sched_getaffinity(Pid::from_raw(0))?;
    let cpu = (0..CpuSet::count())
        .find(|cpu| may.is_set(*cpu).unwrap_or(false))
        .ok_or_else(|| std::io::Error::other("no CPU may be used"))?;
    let mut one = CpuSet::new();
    one.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    Ok(cpu)
}
