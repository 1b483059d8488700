//! Servers and clients over real sockets. A server tells each client the address it saw.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use crate::room::Room;

/// How long an answer may take before the path counts as broken.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Starts a TCP server: says `peer\n`, then echoes until the client has finished.
pub fn serve_tcp(room: &Room, port: u16) {
    let (ready, started) = channel();
    room.run(move || {
        // The thread inherits the namespace; it ends with the process.
        thread::spawn(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
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
    writeln!(stream, "{peer}")?;
    let mut buffer = [0; 65536];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Starts a UDP server: answers with `peer\n` and the datagram.
pub fn serve_udp(room: &Room, port: u16) {
    let (ready, started) = channel();
    room.run(move || {
        thread::spawn(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
            ready.send(()).expect("starter waits");
            let mut buffer = vec![0; 65536];
            loop {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let mut answer = format!("{peer}\n").into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                answer.truncate(65507);
                let _ = socket.send_to(&answer, peer);
            }
        });
    });
    started.recv().expect("listening");
}

/// A TCP exchange: sends `size` bytes, wants them back; the address that the server saw.
pub fn ask_tcp(room: &Room, to: (Ipv4Addr, u16), size: usize) -> io::Result<SocketAddrV4> {
    room.run(move || {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)?;
        exchange(stream, size)
    })
}

/// The exchange over a connection that is made already.
pub fn exchange(mut stream: TcpStream, size: usize) -> io::Result<SocketAddrV4> {
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
pub fn ask_udp(room: &Room, to: (Ipv4Addr, u16), size: usize) -> io::Result<SocketAddrV4> {
    ask_udp_from(room, (Ipv4Addr::UNSPECIFIED, 0), to, size)
}

/// As [`ask_udp`], from a socket bound to an address.
pub fn ask_udp_from(
    room: &Room,
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    size: usize,
) -> io::Result<SocketAddrV4> {
    room.run(move || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        exchange_udp(&socket, size, PATIENCE)
    })
}

/// The exchange over a connected socket.
pub fn exchange_udp(socket: &UdpSocket, size: usize, patience: Duration) -> io::Result<SocketAddrV4> {
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

fn split(answer: &[u8]) -> io::Result<(SocketAddrV4, &[u8])> {
    let end = answer.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| io::Error::other("an answer without an address"))?;
    let peer = String::from_utf8_lossy(&answer[..end])
        .parse()
        .map_err(io::Error::other)?;
    Ok((peer, &answer[end + 1..]))
}
