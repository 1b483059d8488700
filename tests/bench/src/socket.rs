//! Socket options that make two runs comparable.

use std::{io, net::TcpStream, os::fd::AsRawFd};

/// The congestion control of every benchmark socket: a namespace may start with another default.
pub const CONGESTION_CONTROL: &str = "cubic";

/// Set what every benchmark connection shares: no Nagle, the same congestion control.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_option(
        stream.as_raw_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_CONGESTION,
        CONGESTION_CONTROL.as_bytes(),
    )
}

/// Close with a reset, so that short connections leave no TIME_WAIT behind that would fill the port range.
pub fn close_by_reset(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: `linger` is plain data and lives until the end of this function.
    let bytes =
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&linger).cast::<u8>(), size_of_val(&linger)) };
    set_option(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, bytes)
}

fn set_option(fd: i32, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes from a live slice.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
