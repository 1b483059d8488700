//! The way in for the calling shell and its browser: a socket on 127.0.0.1 of the machine, and connections made from the
//! client's namespace. Nothing else of the machine's network is touched.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Asked for first; any free one if it is taken.
const PORT: u16 = 8080;
/// A target that does not answer within this time is refused to the caller.
const LIMIT: Duration = Duration::from_secs(5);

/// Listen here, say the port, then connect from the namespace of `pid` to `target` for everyone who comes.
pub fn serve(pid: u32, target: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("listening on 127.0.0.1")?;
    let port = listener.local_addr().context("asking for the port")?.port();
    // The listener stays where it was made; sockets made from now on are the client's.
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).context("entering the client's namespace")?;
    println!("{port}");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        thread::spawn(move || {
            // Whoever came sees a closed connection; there is nobody else to tell.
            let _ = carry(stream, target);
        });
    }
    Ok(())
}

fn carry(near: TcpStream, target: SocketAddr) -> io::Result<()> {
    let far = TcpStream::connect_timeout(&target, LIMIT)?;
    let (mut from_near, mut to_far) = (near.try_clone()?, far.try_clone()?);
    let upstream = thread::spawn(move || copy(&mut from_near, &mut to_far));
    let (mut from_far, mut to_near) = (far, near);
    copy(&mut from_far, &mut to_near)?;
    upstream.join().unwrap_or(Ok(()))
}

fn copy(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    let result = io::copy(from, to);
    // The end of one direction is passed on; the other may go on.
    let closed = to.shutdown(Shutdown::Write);
    result.and(closed)
}
