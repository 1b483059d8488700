//! Answers every kind of load on one port, TCP and UDP, a thread per connection.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use crate::{
    socket,
    wire::{Mode, OPENING},
};

/// A connection that says nothing for this long is given up, so that a lost client does not hold a thread.
const IDLE: Duration = Duration::from_secs(30);

/// A bound server: the address is known before it serves, so that a caller may ask for port 0.
pub struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    /// Bind TCP and UDP to the same address and port.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address)?;
        let udp = UdpSocket::bind(tcp.local_addr()?)?;
        Ok(Self { tcp, udp })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serve until the listener fails.
    pub fn serve(self) -> io::Result<()> {
        let udp = self.udp;
        thread::Builder::new()
            .name("udp".into())
            .spawn(move || echo_datagrams(&udp))?;
        loop {
            let (stream, peer) = self.tcp.accept()?;
            thread::Builder::new()
                .name(format!("tcp {peer}"))
                .spawn(move || {
                    if let Err(error) = serve_connection(stream) {
                        eprintln!("connection of {peer}: {error}");
                    }
                })?;
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error about an earlier answer shows up here; it concerns one client only.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer)
            && let Err(error) = socket.send_to(&buffer[..length], peer)
        {
            eprintln!("datagram of {length} bytes to {peer}: {error}");
        }
    }
}

fn serve_connection(mut stream: TcpStream) -> io::Result<()> {
    socket::tune(&stream)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut opening = [0; OPENING];
    stream.read_exact(&mut opening)?;
    match Mode::parse(opening) {
        Some(Mode::RequestResponse | Mode::ConnectRequestResponse) => answer_bytes(&mut stream),
        Some(Mode::Stream) => swallow(&mut stream),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not an opening of keelson-bench",
        )),
    }
}

fn answer_bytes(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(()),
            Ok(_) => stream.write_all(&byte)?,
            // The client ends short connections by reset on purpose.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn swallow(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            // What arrived is what counts: the client divides this by its time.
            0 => return stream.write_all(&total.to_be_bytes()),
            length => total += length as u64,
        }
    }
}
