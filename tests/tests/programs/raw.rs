//! Pinned maps read and written past the typed API: tests put them into states that nobody may ask for otherwise.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use keelson_dataplane::{
    Dataplane,
    abi::{MAP_SOURCE_RANGE, SourceRangeKey},
};

const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const MAP_NEXT_KEY: libc::c_long = 4;
const OBJ_GET: libc::c_long = 7;
const OBJ_INFO: libc::c_long = 15;

/// Beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    rest: [u64; 16],
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// BPF_MAP_TYPE_* whose values have a copy per CPU, and of ring buffers.
const PER_CPU: [u32; 2] = [5, 6];
const RING: u32 = 27;

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

/// Removes one element, whether or not it is there.
pub fn remove<K>(dataplane: &Dataplane, map: &str, key: &K) {
    let fd = open(dataplane, map);
    let mut attr = ElementAttr {
        map: fd.as_raw_fd() as u32,
        key: std::ptr::from_ref(key) as u64,
        ..ElementAttr::default()
    };
    let _ = bpf(MAP_DELETE, &mut attr);
}

/// Lets a network ask a Service.
pub fn put_source_range(dataplane: &Dataplane, service: u32, network: Ipv4Addr, length: u32) {
    let key = SourceRangeKey {
        length: 32 + 96 + length,
        service_be: service.to_be(),
        addr: IpAddr::V4(network).into(),
    };
    put(dataplane, MAP_SOURCE_RANGE, &key, &1_u32);
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

/// The records that lie in a ring buffer of `size` bytes, oldest first, as far as nobody consumed them.
pub fn records<T: Copy>(dataplane: &Dataplane, map: &str, size: usize) -> Vec<T> {
    let fd = open(dataplane, map);
    // SAFETY: asks for the page size.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let length = page + 2 * size;
    // SAFETY: a new read-only mapping of the producer's page and the data, which the kernel maps twice in a row.
    let base = unsafe {
        let at = page as libc::off_t;
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            at,
        )
    };
    assert_ne!(base, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    let base = base.cast::<u8>().cast_const();
    let mut found = Vec::new();
    // SAFETY: all reads are within the mapping: the position counts bytes written, and the ring has not wrapped.
    unsafe {
        let end = base.cast::<u64>().read_volatile() as usize;
        assert!(end < size, "the ring has wrapped");
        let mut at = 0;
        while at < end {
            let header = base.add(page + at).cast::<u32>().read_volatile();
            let (busy, discarded, length) = (header >> 31 != 0, header >> 30 & 1 != 0, header & 0x3fff_ffff);
            assert!(!busy);
            if !discarded {
                assert_eq!(length as usize, size_of::<T>(), "size of a record");
                found.push(base.add(page + at + 8).cast::<T>().read_volatile());
            }
            at += (8 + length as usize).next_multiple_of(8);
        }
        libc::munmap(base.cast_mut().cast(), length);
    }
    found
}

/// Everything that lies in a map, sorted; of a ring buffer how far its producer got.
pub fn dump(dataplane: &Dataplane, map: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let fd = open(dataplane, map);
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_INFO, &mut attr).expect("map info");
    if info.kind == RING {
        return vec![(Vec::new(), produced(&fd).to_ne_bytes().to_vec())];
    }
    let copies = if PER_CPU.contains(&info.kind) { cpus() } else { 1 };
    let size = (info.value as usize).next_multiple_of(8) * copies;
    let mut found = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    loop {
        let mut key = vec![0_u8; info.key as usize];
        let mut attr = ElementAttr {
            map: fd.as_raw_fd() as u32,
            key: last.as_ref().map_or(0, |last| last.as_ptr() as u64),
            value: key.as_mut_ptr() as u64,
            ..ElementAttr::default()
        };
        if let Err(error) = bpf(MAP_NEXT_KEY, &mut attr) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{map}: {error}");
            break;
        }
        let mut value = vec![0_u8; size];
        let mut attr = ElementAttr {
            map: fd.as_raw_fd() as u32,
            key: key.as_ptr() as u64,
            value: value.as_mut_ptr() as u64,
            ..ElementAttr::default()
        };
        bpf(MAP_LOOKUP, &mut attr).unwrap_or_else(|error| panic!("{map}: {error}"));
        last = Some(key.clone());
        found.push((key, value));
    }
    found.sort();
    found
}

/// CPUs that the kernel keeps copies for.
fn cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").expect("list of CPUs");
    let last = text.trim().rsplit(['-', ',']).next().expect("a CPU");
    last.parse::<usize>().expect("a number") + 1
}

/// Bytes ever written to a ring buffer.
fn produced(fd: &OwnedFd) -> u64 {
    // SAFETY: asks for the page size, then maps the producer's page, reads its one word and unmaps it.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE);
        let base = libc::mmap(
            std::ptr::null_mut(),
            page as usize,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            page,
        );
        assert_ne!(base, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let produced = base.cast::<u64>().read_volatile();
        libc::munmap(base, page as usize);
        produced
    }
}
