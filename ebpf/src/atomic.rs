//! Atomic operations on map values. The library has none for machines without compare-and-swap, as this one is said to be; the
//! kernel's machine has them all.

use core::arch::asm;

use keelson_abi::Flow;

/// Adds and returns what was there.
#[inline(always)]
pub fn fetch_add(value: *mut u64, mut amount: u64) -> u64 {
    // SAFETY: the pointer is that of a map value, which the verifier checks.
    unsafe {
        asm!(
            "{amount} = atomic_fetch_add((u64 *)({value} + 0), {amount})",
            amount = inout(reg) amount,
            value = in(reg) value,
        );
    }
    amount
}

/// Replaces `old` by `new`; false: something else was there.
#[inline(always)]
pub fn swap_if(value: *mut u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: as above; the machine's operation takes and returns the old value in r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({value} + 0, r0, {new})",
            inout("r0") found,
            value = in(reg) value,
            new = in(reg) new,
        );
    }
    found == old
}

/// The word of a flow that holds its flags: in the upper half, above `last_seen`.
#[inline(always)]
fn flag_word(flow: &mut Flow) -> *mut u64 {
    const _: () = assert!(core::mem::offset_of!(Flow, last_seen) % 8 == 0);
    const _: () = assert!(core::mem::offset_of!(Flow, flags) == core::mem::offset_of!(Flow, last_seen) + 4);
    core::ptr::from_mut(&mut flow.last_seen).cast()
}

/// Sets flags that no other CPU's update can undo.
#[inline(always)]
pub fn set_flags(flow: &mut Flow, flags: u32) {
    let word = flag_word(flow);
    let bits = u64::from(flags) << 32;
    // SAFETY: both halves of the word are fields of this value.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits);
    }
}

/// Clears flags.
#[inline(always)]
pub fn clear_flags(flow: &mut Flow, flags: u32) {
    let word = flag_word(flow);
    let bits = !(u64::from(flags) << 32);
    // SAFETY: as above.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) &= {bits}", word = in(reg) word, bits = in(reg) bits);
    }
}
