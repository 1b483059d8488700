//! SCTP's checksum after its ports changed, without reading what it covers.
//!
//! CRC32c is linear: the checksum of two messages' difference is the difference of their checksums. The difference here is
//! four bytes followed by zeros, and to run over `n` zero bytes is to multiply by x^8n modulo the polynomial.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;

/// The polynomial, lowest power in the highest bit, as SCTP has it.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^1 in that order of bits.
const X: u32 = 1 << 30;
/// Powers that a length in bytes needs: 2^3 times up to 2^15.
const STEPS: usize = 19;

/// Product of two polynomials, modulo the polynomial.
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut b, mut bit) = (0, b, 0);
    while bit < 32 {
        if a & (1 << (31 - bit)) != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        bit += 1;
    }
    product
}

/// x^(2^n).
static POWERS: [u32; STEPS] = {
    let mut powers = [X; STEPS];
    let mut n = 1;
    while n < STEPS {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// What is multiplied, and by how many bytes.
struct Shift {
    value: u32,
    bytes: u32,
}

/// The change of a checksum over `length` bytes whose first four changed from `old` to `new` (as they stand in memory). In the
/// byte order of the field, too: the least significant byte first.
#[inline(never)]
pub fn change(old: u32, new: u32, length: u32) -> u32 {
    let mut shift = Shift {
        // Running over four bytes from nothing is multiplying them by x^32: four bytes of the shift.
        value: u32::from_le(old ^ new),
        bytes: length & 0xffff,
    };
    // SAFETY: the callback has the type that the helper calls, and the context outlives the call.
    unsafe {
        bpf_loop(
            16,
            step as *mut aya_ebpf::cty::c_void,
            core::ptr::from_mut(&mut shift).cast(),
            0,
        );
    }
    shift.value.to_le()
}

/// Multiplies by x^(8 · 2^n) where the length has that bit.
unsafe extern "C" fn step(n: u32, context: *mut c_void) -> i64 {
    // SAFETY: `change` hands over a valid context and waits for the loop to end.
    let shift = unsafe { &mut *context.cast::<Shift>() };
    if shift.bytes & (1 << (n & 15)) != 0
        && let Some(power) = POWERS.get((n & 15) as usize + 3)
    {
        shift.value = multiply(*power, shift.value);
    }
    0
}
