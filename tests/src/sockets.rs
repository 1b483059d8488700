//! TCP, UDP and refusals, asked once.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// No exchange takes longer.
const LIMIT: Duration = Duration::from_secs(5);

/// Send so many bytes to a TCP echo server and read them back meanwhile: a server that echoes stops reading when nobody
/// takes what it sends, and how much fits between the two is the kernel's choice.
pub fn tcp_echo(server: SocketAddr, size: usize) -> Result<()> {
    let mut stream =
        TcpStream::connect_timeout(&server, LIMIT).with_context(|| format!("connecting to {server}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let sent: Vec<u8> = (0..size).map(|index| index as u8).collect();
    let mut back = vec![0; size];
    let mut writer = stream.try_clone()?;
    let (written, read) = thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&sent));
        let read = stream.read_exact(&mut back);
        (writing.join(), read)
    });
    written
        .map_err(|_| anyhow!("the writer panicked"))?
        .with_context(|| format!("writing {size} bytes to {server}"))?;
    read.with_context(|| format!("reading {size} bytes back from {server}"))?;
    ensure!(back == sent, "{server} sent other bytes back");
    Ok(())
}

/// Send a datagram to a UDP echo server from a connected socket: only an answer from that very address is taken.
pub fn udp_echo(server: SocketAddr, size: usize) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let sent: Vec<u8> = (0..size).map(|index| index as u8).collect();
    socket
        .send(&sent)
        .with_context(|| format!("sending {size} bytes to {server}"))?;
    let mut back = vec![0; size + 1];
    let length = socket
        .recv(&mut back)
        .with_context(|| format!("waiting for the answer of {server}"))?;
    ensure!(back[..length] == sent[..], "{server} sent other bytes back");
    Ok(())
}

/// Both, small and large.
pub fn echo(server: SocketAddr) -> Result<()> {
    tcp_echo(server, 5)?;
    tcp_echo(server, 200_000)?;
    udp_echo(server, 5)
}

/// A TCP connection must be refused, and at once.
pub fn tcp_refused(server: SocketAddr) -> Result<()> {
    let started = Instant::now();
    match TcpStream::connect_timeout(&server, LIMIT) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => at_once(started, server),
        Err(error) => bail!("{server} did not refuse: {error}"),
        Ok(_) => bail!("{server} accepted"),
    }
}

/// A datagram must be refused, and at once.
pub fn udp_refused(server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let started = Instant::now();
    socket.send(b"x")?;
    match socket.recv(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => at_once(started, server),
        Err(error) => bail!("{server} did not refuse: {error}"),
        Ok(length) => bail!("{server} answered {length} bytes"),
    }
}

fn at_once(started: Instant, server: SocketAddr) -> Result<()> {
    // A second try of the kernel would come after one second.
    let took = started.elapsed();
    ensure!(
        took < Duration::from_millis(900),
        "{server} refused only after {took:?}"
    );
    Ok(())
}

/// An address and a port.
pub fn at(address: &str, port: u16) -> Result<SocketAddr> {
    let ip: IpAddr = address
        .parse()
        .with_context(|| format!("{address:?} is not an address"))?;
    Ok(SocketAddr::new(ip, port))
}
