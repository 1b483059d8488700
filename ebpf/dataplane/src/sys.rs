//! The few `bpf(2)` calls that aya lacks: pins and links by descriptor, link updates, test runs with a context.
//!
//! This is the only room of the crate with `unsafe` in it besides the marker of plain data in the ABI.
#![allow(
    unsafe_code,
    reason = "bpf(2) has no safe form; every block says why it is sound"
)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// Which way packets go through a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the host.
    Ingress,
    /// Away from it.
    Egress,
}

/// `union bpf_attr`, as far as these calls fill it.
#[repr(C, align(8))]
struct Attr([u8; 144]);

impl Attr {
    fn new() -> Self {
        Self([0; 144])
    }
    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn fd(self, offset: usize, fd: RawFd) -> Self {
        self.u32(offset, fd.cast_unsigned())
    }
    fn read(&self, offset: usize) -> u32 {
        let bytes = [
            self.0[offset],
            self.0[offset + 1],
            self.0[offset + 2],
            self.0[offset + 3],
        ];
        u32::from_ne_bytes(bytes)
    }
}

/// SAFETY contract: every address inside `attr` must be valid for the length `attr` says, until the call returns.
unsafe fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<RawFd> {
    // SAFETY: `attr` is a live, aligned block of the size given; what it points to is the caller's contract.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.0.as_mut_ptr(), attr.0.len()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Open a pinned map, program or link.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Attr::new().u64(0, path.as_ptr() as u64);
    // SAFETY: `path` is a NUL-terminated string that lives until the call returns.
    unsafe { bpf(BPF_OBJ_GET, &mut attr) }.map(own)
}

/// Pin a descriptor.
pub fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Attr::new().u64(0, path.as_ptr() as u64).fd(8, fd.as_raw_fd());
    // SAFETY: `path` is a NUL-terminated string that lives until the call returns.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Make a map of this type, key size, value size, capacity and flags.
pub fn map_create(kind: u32, key: u32, value: u32, capacity: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::new()
        .u32(0, kind)
        .u32(4, key)
        .u32(8, value)
        .u32(12, capacity)
        .u32(16, flags);
    // SAFETY: no addresses inside.
    unsafe { bpf(BPF_MAP_CREATE, &mut attr) }.map(own)
}

/// Put an entry of zeros into a map whose keys and values are `key` and `value` bytes long.
pub fn map_put_zero(map: BorrowedFd<'_>, key: usize, value: usize) -> io::Result<()> {
    let (key, value) = (vec![0_u8; key], vec![0_u8; value]);
    let mut attr = Attr::new()
        .fd(0, map.as_raw_fd())
        .u64(8, key.as_ptr() as u64)
        .u64(16, value.as_ptr() as u64);
    // SAFETY: both buffers are as long as the caller says that the map's keys and values are, and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Attach a program to a device of the calling thread's namespace by a tcx link.
pub fn link_create_tcx(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> io::Result<OwnedFd> {
    let attach_type = match direction {
        Direction::Ingress => BPF_TCX_INGRESS,
        Direction::Egress => BPF_TCX_EGRESS,
    };
    let mut attr = Attr::new()
        .fd(0, program.as_raw_fd())
        .u32(4, ifindex)
        .u32(8, attach_type);
    // SAFETY: no addresses inside.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.map(own)
}

/// Swap the program of a link in one step.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::new().fd(0, link.as_raw_fd()).fd(4, program.as_raw_fd());
    // SAFETY: no addresses inside.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Program id and device of a tcx link; device 0 = the device is gone.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut info = Attr::new();
    let mut attr = Attr::new()
        .fd(0, link.as_raw_fd())
        .u32(4, 64)
        .u64(8, info.0.as_mut_ptr() as u64);
    // SAFETY: `info` is larger than the 64 bytes announced and lives until the call returns.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    // struct bpf_link_info: type, id, prog_id, padding, then { ifindex, attach_type } for tcx.
    Ok((info.read(8), info.read(16)))
}

/// Id of a program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = Attr::new();
    let mut attr = Attr::new()
        .fd(0, program.as_raw_fd())
        .u32(4, 64)
        .u64(8, info.0.as_mut_ptr() as u64);
    // SAFETY: as in `link_info`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    // struct bpf_prog_info: type, id, …
    Ok(info.read(4))
}

/// What a test run came to.
pub struct RawTestRun {
    /// The program's return code.
    pub code: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// `struct __sk_buff` afterwards, as words.
    pub context: [u32; 48],
    /// How long the program ran, as the kernel measured it.
    pub nanoseconds: u32,
}

/// Run a program once on a packet, with a `struct __sk_buff` given as words.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8], context: [u32; 48]) -> io::Result<RawTestRun> {
    let mut output = vec![0_u8; 65_536 + 512];
    let mut after = [0_u32; 48];
    let context_size = size_of_val(&context) as u32;
    let mut attr = Attr::new()
        .fd(0, program.as_raw_fd())
        .u32(8, packet.len() as u32)
        .u32(12, output.len() as u32)
        .u64(16, packet.as_ptr() as u64)
        .u64(24, output.as_mut_ptr() as u64)
        .u32(40, context_size)
        .u32(44, context_size)
        .u64(48, context.as_ptr() as u64)
        .u64(56, after.as_mut_ptr() as u64);
    // SAFETY: every address points to a live buffer of the size announced beside it.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    output.truncate(attr.read(12) as usize);
    Ok(RawTestRun {
        code: attr.read(4),
        nanoseconds: attr.read(36),
        packet: output,
        context: after,
    })
}

/// SO_NETNS_COOKIE of the calling thread's network namespace.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which is that long; both outlive the call.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if status == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Where a listing goes on; opaque. Hash maps use four bytes of it, tries a whole key.
#[derive(Clone, Copy)]
pub struct BatchToken {
    bytes: [u8; 64],
    begun: bool,
}

impl Default for BatchToken {
    fn default() -> Self {
        Self {
            bytes: [0; 64],
            begun: false,
        }
    }
}

/// `struct { in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags } batch` of `union bpf_attr`.
fn batch(map: BorrowedFd<'_>, keys: u64, values: u64, count: usize) -> Attr {
    Attr::new()
        .u64(16, keys)
        .u64(24, values)
        .u32(32, u32::try_from(count).unwrap_or(u32::MAX))
        .fd(36, map.as_raw_fd())
}

/// Write many entries. The caller has checked that the map's key and value sizes are those of `K` and `V`.
pub fn map_update_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    if keys.len() != values.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut attr = batch(map, keys.as_ptr() as u64, values.as_ptr() as u64, keys.len());
    // SAFETY: both arrays are live and hold as many entries as announced, of the sizes the map has.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Delete many entries. Returns how many were deleted before it ended or failed.
pub fn map_delete_batch<K: aya::Pod>(map: BorrowedFd<'_>, keys: &[K]) -> (usize, io::Result<()>) {
    if keys.is_empty() {
        return (0, Ok(()));
    }
    let mut attr = batch(map, keys.as_ptr() as u64, 0, keys.len());
    // SAFETY: the array is live and holds as many keys as announced, of the size the map has.
    let result = unsafe { bpf(BPF_MAP_DELETE_BATCH, &mut attr) }.map(drop);
    (attr.read(32) as usize, result)
}

/// Read up to `size` entries from where the token stands. Returns whether there are more.
pub fn map_lookup_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    token: &mut BatchToken,
    size: usize,
    found: &mut Vec<(K, V)>,
) -> io::Result<bool> {
    let mut keys: Vec<K> = Vec::with_capacity(size);
    let mut values: Vec<V> = Vec::with_capacity(size);
    let mut next = [0_u8; 64];
    let from = if token.begun {
        token.bytes.as_ptr() as u64
    } else {
        0
    };
    let mut attr = batch(map, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, size)
        .u64(0, from)
        .u64(8, next.as_mut_ptr() as u64);
    // SAFETY: the arrays have room for as many entries as announced; the tokens are larger than any key of ours.
    let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    let more = match result {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
        Err(error) => return Err(error),
    };
    let count = (attr.read(32) as usize).min(size);
    // SAFETY: the kernel has written that many entries, and any bytes are a valid value of plain data.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    found.extend(keys.into_iter().zip(values));
    token.bytes = next;
    token.begun = true;
    Ok(more)
}
