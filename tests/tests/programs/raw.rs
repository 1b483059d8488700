//! Pinned maps read and written past the typed API: tests put them into states that nobody may ask for otherwise.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use keelson_dataplane::Dataplane;

const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const OBJ_GET: libc::c_long = 7;

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the attribute lives through the call and its size is told; pointers in it point to live values.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

fn open(dataplane: &Dataplane, map: &str) -> OwnedFd {
    let path = CString::new(dataplane.generation().map(map).to_str().expect("path")).expect("path");
    let mut attr = ObjectAttr {
        path: path.as_ptr() as u64,
        ..ObjectAttr::default()
    };
    let fd = bpf(OBJ_GET, &mut attr).expect("pinned map");
    // SAFETY: the kernel just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Writes one element. Key and value must have the map's own types.
pub fn put<K, V>(dataplane: &Dataplane, map: &str, key: &K, value: &V) {
    let fd = open(dataplane, map);
    let mut attr = ElementAttr {
        map: fd.as_raw_fd() as u32,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        ..ElementAttr::default()
    };
    bpf(MAP_UPDATE, &mut attr).expect("map update");
}

/// Reads one element. Key and value must have the map's own types.
pub fn get<K, V: Default>(dataplane: &Dataplane, map: &str, key: &K) -> Option<V> {
    let fd = open(dataplane, map);
    let mut value = V::default();
    let mut attr = ElementAttr {
        map: fd.as_raw_fd() as u32,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        ..ElementAttr::default()
    };
    bpf(MAP_LOOKUP, &mut attr).ok().map(|_| value)
}
