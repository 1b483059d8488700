//! The embedded object of the kernel programs.

use crate::error::{Error, Result};

/// Aligned as the ELF parser needs it.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/keelson-ebpf")));

/// The object, unless this was built without the toolchain.
pub fn bytes() -> Result<&'static [u8]> {
    if OBJECT.0.is_empty() {
        Err(Error::NoObject)
    } else {
        Ok(&OBJECT.0)
    }
}

/// What tells two builds of the programs apart.
pub fn build() -> Result<String> {
    // FNV-1a: not against forgery, only against mistaking one build for another.
    let hash = bytes()?.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Ok(format!("{hash:016x}"))
}
