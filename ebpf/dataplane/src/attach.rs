//! Where the programs run: pinned tcx links on the few node devices, one filter per shared block for all pod links.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use keelson_abi::{
    BLOCK_EGRESS, BLOCK_INGRESS, PROG_HOST_INGRESS, PROG_LO_EGRESS, PROG_POD_EGRESS, PROG_POD_INGRESS,
    PROG_TUNNEL_EGRESS, PROG_TUNNEL_INGRESS, PROG_UPLINK_EGRESS, PROG_UPLINK_INGRESS,
};

use crate::{
    error::{Error, Result},
    netlink::{
        Netlink,
        tc::{self, Existing},
    },
    node::Uplink,
    paths::Generation,
    sys::{self, Direction},
};

/// One program on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// Device.
    pub ifindex: u32,
    /// Program.
    pub program: &'static str,
}

/// Index of lo in every namespace.
const LO: u32 = 1;

/// What should be attached by links.
pub fn wanted(uplinks: &[Uplink], keelson1: u32, tunnel: u32) -> Vec<Attachment> {
    let mut wanted = vec![Attachment {
        ifindex: LO,
        program: PROG_LO_EGRESS,
    }];
    if keelson1 != 0 {
        wanted.push(Attachment {
            ifindex: keelson1,
            program: PROG_HOST_INGRESS,
        });
    }
    if tunnel != 0 {
        wanted.extend(
            [PROG_TUNNEL_INGRESS, PROG_TUNNEL_EGRESS].map(|program| Attachment {
                ifindex: tunnel,
                program,
            }),
        );
    }
    // Without an Ethernet header the programs would read the packet at the wrong place.
    for uplink in uplinks.iter().filter(|uplink| uplink.ethernet) {
        for program in [PROG_UPLINK_INGRESS, PROG_UPLINK_EGRESS] {
            wanted.push(Attachment {
                ifindex: uplink.ifindex,
                program,
            });
        }
    }
    wanted
}

/// Make the links exactly those wanted, each with the generation's own program.
pub fn sync_links(generation: &Generation, wanted: &[Attachment]) -> Result<()> {
    for attachment in wanted {
        ensure_link(generation, attachment)?;
    }
    let keep: Vec<_> = wanted
        .iter()
        .map(|a| generation.link(a.ifindex, a.program))
        .collect();
    let folder = generation.links();
    let entries = fs::read_dir(&folder).map_err(Error::on("listing", folder.display().to_string()))?;
    for path in entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !keep.contains(path))
    {
        // Removing the pin is removing the link: nobody else holds it.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::system(
                    "removing the link",
                    path.display().to_string(),
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether every wanted link is there and runs the generation's program: the cheap look before anything is locked.
pub fn links_are_settled(generation: &Generation, wanted: &[Attachment]) -> bool {
    let pins = fs::read_dir(generation.links()).map_or(0, Iterator::count);
    pins == wanted.len()
        && wanted.iter().all(|attachment| {
            let program = program(generation, attachment.program).and_then(|fd| {
                sys::program_id(fd.as_fd()).map_err(Error::on("inspecting the program", attachment.program))
            });
            let link = sys::obj_get(&generation.link(attachment.ifindex, attachment.program));
            let info = link.and_then(|link| sys::link_info(link.as_fd()));
            matches!((program, info), (Ok(id), Ok(info)) if info == (id, attachment.ifindex))
        })
}

/// Whether any device has run a program of this generation.
pub fn has_links(generation: &Generation) -> bool {
    fs::read_dir(generation.links()).is_ok_and(|mut pins| pins.next().is_some())
}

fn ensure_link(generation: &Generation, attachment: &Attachment) -> Result<()> {
    let Attachment {
        ifindex,
        program: name,
    } = *attachment;
    let program = program(generation, name)?;
    let pin = generation.link(ifindex, name);
    let object = || format!("{name} on device {ifindex}");
    if let Ok(link) = sys::obj_get(&pin) {
        let (running, device) =
            sys::link_info(link.as_fd()).map_err(Error::on("inspecting the link", object()))?;
        let id = sys::program_id(program.as_fd()).map_err(Error::on("inspecting the program", name))?;
        if device == ifindex {
            if running == id {
                return Ok(());
            }
            return sys::link_update(link.as_fd(), program.as_fd()).map_err(Error::on("replacing", object()));
        }
        // The device of that index is another one now: the link died with the old one.
        fs::remove_file(&pin).map_err(Error::on("removing the link", pin.display().to_string()))?;
    }
    let direction = if name.ends_with("egress") {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    let link = sys::link_create_tcx(program.as_fd(), ifindex, direction)
        .map_err(Error::on("attaching", object()))?;
    sys::obj_pin(link.as_fd(), &pin).map_err(Error::on("pinning", pin.display().to_string()))
}

/// Put the pod programs on the shared blocks. Returns false where no pod link is bound yet, so that there are no blocks.
pub fn set_block_filters(generation: &Generation, netlink: &mut Netlink, existing: Existing) -> Result<bool> {
    let mut there = true;
    for (block, name) in [(BLOCK_INGRESS, PROG_POD_INGRESS), (BLOCK_EGRESS, PROG_POD_EGRESS)] {
        let program = program(generation, name)?;
        there &= tc::set_block_filter(netlink, block, name, program.as_fd(), existing)?;
    }
    Ok(there)
}

/// Open a program of the generation.
pub fn program(generation: &Generation, name: &str) -> Result<OwnedFd> {
    let path = generation.program(name);
    sys::obj_get(&path).map_err(Error::on("opening the program", path.display().to_string()))
}
