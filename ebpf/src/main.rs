//! The kernel programs of Keelson's dataplane: one file per hook, shared parts beside them.
//!
//! A packet goes parse → tuple → decide → rewrite → deliver. Only [`packet`] and [`rewrite`] know how an address
//! family looks on the wire; everything between works on tuples of both families. The working set of one packet
//! lies in a per-CPU [`packet::Work`], because the stack of a program is 512 bytes.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod answer;
mod atomic;
mod crc32c;
mod deliver;
mod direct;
mod egress;
mod fib;
mod flow;
mod fragment;
mod host_ingress;
mod icmp;
mod ingress;
mod lo_egress;
mod maps;
mod packet;
mod pod_egress;
mod pod_ingress;
mod refuse;
mod report;
mod rewrite;
mod ring;
mod service;
mod socket;
mod tunnel;
mod tunnel_egress;
mod tunnel_ingress;
mod uplink_egress;
mod uplink_ingress;
mod work;

/// The helpers used are reserved for programs under a licence the kernel knows as compatible.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: a surviving panic makes the verifier refuse the program.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
