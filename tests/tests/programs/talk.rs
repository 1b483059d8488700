//! Servers and clients over real sockets. A server tells each client the address it saw.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt},
    time::TimeVal,
};

use crate::room::Room;

/// How long an answer may take before the path counts as broken.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// What a server told: who asked, and on which port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The client as the server saw it.
    pub peer: SocketAddr,
    /// The server's port, which tells servers apart.
    pub port: u16,
}

impl Seen {
    /// The client's address.
    pub fn ip(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }
}

/// Starts a TCP server: says `peer port\n`, then echoes until the client has finished.
pub fn serve_tcp(room: &Room, port: u16) {
    let (ready, started) = channel();
    room.run(move || {
        // The thread inherits the namespace; it ends with the process.
        thread::spawn(move || {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
            ready.send(()).expect("starter waits");
            for stream in listener.incoming().flatten() {
                thread::spawn(move || echo_tcp(stream));
            }
        });
    });
    started.recv().expect("listening");
}

fn echo_tcp(mut stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    writeln!(stream, "{peer} {}", stream.local_addr()?.port())?;
    let mut buffer = [0; 65536];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Starts a UDP server: answers with `peer port\n` and the datagram.
pub fn serve_udp(room: &Room, port: u16) {
    let (ready, started) = channel();
    room.run(move || {
        thread::spawn(move || {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
            ready.send(()).expect("starter waits");
            let mut buffer = vec![0; 65536];
            loop {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let mut answer = format!("{peer} {port}\n").into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                answer.truncate(65507);
                let _ = socket.send_to(&answer, peer);
            }
        });
    });
    started.recv().expect("listening");
}

/// A TCP exchange: sends `size` bytes, wants them back; the address that the server saw.
pub fn ask_tcp(room: &Room, to: impl Into<SocketAddr>, size: usize) -> io::Result<Seen> {
    let to = to.into();
    room.run(move || {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        exchange(stream, size)
    })
}

/// Connects from a given port; the connection, which stays open until dropped.
pub fn connect_from(room: &Room, port: u16, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let to = to.into();
    room.run(move || {
        let end = Instant::now() + PATIENCE;
        loop {
            match Socket::new(port, to.is_ipv6()).and_then(|socket| socket.connect(to)) {
                // A closed socket lives on while a process that another test is just starting has a copy of it.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < end => {
                    thread::yield_now();
                }
                result => return result,
            }
        }
    })
}

/// A TCP socket bound to a port before it connects, which the standard library cannot make.
struct Socket(OwnedFd);

impl Socket {
    fn new(port: u16, v6: bool) -> io::Result<Self> {
        let fd = socket::socket(
            if v6 {
                AddressFamily::Inet6
            } else {
                AddressFamily::Inet
            },
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
        socket::setsockopt(&fd, sockopt::SendTimeout, &patience)?;
        let any = if v6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            [0, 0, 0, 0].into()
        };
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))?;
        Ok(Self(fd))
    }

    fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        socket::connect(self.0.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(self.0))
    }
}

/// Closes with an RST, so that the port can be used again at once.
pub fn abort(stream: TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    socket::setsockopt(&stream, sockopt::Linger, &linger).expect("linger");
}

/// Says something over a connection and hears it back, without closing.
pub fn ping_pong(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"ping")?;
    let mut heard = Vec::new();
    while !heard.ends_with(b"ping") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        heard.push(byte[0]);
    }
    Ok(())
}

/// Reads the server's first line.
pub fn greeting(stream: &mut TcpStream) -> io::Result<Seen> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    split(&line).map(|(seen, _)| seen)
}

/// The exchange over a connection that is made already.
pub fn exchange(mut stream: TcpStream, size: usize) -> io::Result<Seen> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let sent: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut writer = stream.try_clone()?;
    let copy = sent.clone();
    let writing = thread::spawn(move || -> io::Result<()> {
        writer.write_all(&copy)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    writing.join().expect("writer")?;
    let (peer, echoed) = split(&answer)?;
    if echoed != sent {
        return Err(io::Error::other(format!(
            "{} of {size} bytes came back",
            echoed.len()
        )));
    }
    Ok(peer)
}

/// A UDP exchange of one datagram, repeated while the path learns its MTU; the address that the server saw.
pub fn ask_udp(room: &Room, to: impl Into<SocketAddr>, size: usize) -> io::Result<Seen> {
    let to = to.into();
    let any = if to.is_ipv6() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        [0, 0, 0, 0].into()
    };
    ask_udp_from(room, (any, 0), to, size)
}

/// As [`ask_udp`], from a socket bound to an address.
pub fn ask_udp_from(
    room: &Room,
    from: impl Into<SocketAddr>,
    to: impl Into<SocketAddr>,
    size: usize,
) -> io::Result<Seen> {
    let (from, to) = (from.into(), to.into());
    room.run(move || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        exchange_udp(&socket, size, PATIENCE)
    })
}

/// The exchange over a connected socket.
pub fn exchange_udp(socket: &UdpSocket, size: usize, patience: Duration) -> io::Result<Seen> {
    let sent: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut buffer = vec![0; 65536];
    let end = Instant::now() + patience;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    loop {
        let result = socket.send(&sent).and_then(|_| socket.recv(&mut buffer));
        match result {
            Ok(length) => {
                let (peer, echoed) = split(&buffer[..length])?;
                return if echoed == &sent[..echoed.len()] && length >= size.min(65507) {
                    Ok(peer)
                } else {
                    Err(io::Error::other("another datagram came back"))
                };
            }
            // EMSGSIZE: the path has told its MTU; the kernel fragments the next one.
            Err(error)
                if Instant::now() < end
                    && (error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(90)) => {}
            Err(error) => return Err(error),
        }
    }
}

fn split(answer: &[u8]) -> io::Result<(Seen, &[u8])> {
    let end = answer.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| io::Error::other("an answer without an address"))?;
    let line = String::from_utf8_lossy(&answer[..end]).into_owned();
    let (peer, port) = line
        .split_once(' ')
        .ok_or_else(|| io::Error::other("an answer without a port"))?;
    let peer = peer.parse().map_err(io::Error::other)?;
    let port = port.parse().map_err(io::Error::other)?;
    Ok((Seen { peer, port }, &answer[end + 1..]))
}
