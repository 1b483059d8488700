//! Servers and clients over real sockets. A server tells who it is and whom it saw.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use keelson_tests::oracle::Protocol;

use crate::room::Room;

/// An answer or a refusal takes less.
const PATIENCE: Duration = Duration::from_secs(3);
/// Who has not answered by now is silent.
const SILENCE: Duration = Duration::from_millis(250);

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This endpoint saw that client.
    From {
        endpoint: SocketAddr,
        client: SocketAddr,
    },
    /// Refused.
    Refused,
    /// Nothing.
    Silence,
}

/// Serve TCP and UDP of both families on a port, under an address of each.
pub fn serve(room: &Room, identities: [IpAddr; 2], port: u16) {
    let (ready, started) = channel();
    // A client of IPv4 shows itself in its mapped form.
    let line = move |peer: SocketAddr| {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let own = identities.into_iter().find(|own| own.is_ipv4() == peer.is_ipv4());
        format!("{} {peer}\n", SocketAddr::new(own.unwrap_or(peer.ip()), port))
    };
    room.run(move || {
        let stream = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind TCP");
        let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind UDP");
        // Threads inherit the namespace and end with the process.
        thread::spawn(move || {
            for mut stream in stream.incoming().flatten() {
                let _ = stream
                    .peer_addr()
                    .and_then(|peer| stream.write_all(line(peer).as_bytes()));
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                if let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
                    let _ = datagrams.send_to(line(peer).as_bytes(), peer);
                }
            }
        });
        ready.send(()).expect("starter waits");
    });
    started.recv().expect("serving");
}

/// Ask once, from wherever the room's routes begin.
pub fn ask(room: &Room, to: SocketAddr, protocol: Protocol) -> Answer {
    room.run(move || match protocol {
        Protocol::Udp => datagram(to).and_then(|socket| exchange(&socket)),
        _ => connection(to),
    })
    .unwrap_or_else(|error| panic!("asking {to}: {error}"))
}

fn connection(to: SocketAddr) -> io::Result<Answer> {
    // Silence costs its whole time; nobody is that slow here.
    let mut stream = match TcpStream::connect_timeout(&to, SILENCE) {
        Err(error) => return unanswered(error),
        Ok(stream) => stream,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    read(&line)
}

/// A socket connected to a Service.
pub fn datagram(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

/// Ask over a connected socket.
pub fn exchange(socket: &UdpSocket) -> io::Result<Answer> {
    socket.set_read_timeout(Some(SILENCE))?;
    if let Err(error) = socket.send(b"who is there?") {
        return unanswered(error);
    }
    let mut buffer = [0; 256];
    match socket.recv(&mut buffer) {
        Ok(length) => read(&String::from_utf8_lossy(&buffer[..length])),
        Err(error) => unanswered(error),
    }
}

/// Ask again and again over a connected socket until this endpoint answers; how long that took. Other endpoints, refusals and silence are waited
/// out.
pub fn until(socket: &UdpSocket, endpoint: SocketAddr, begun: Instant) -> io::Result<Duration> {
    socket.set_read_timeout(Some(Duration::from_millis(2)))?;
    let mut buffer = [0; 256];
    while begun.elapsed() < PATIENCE {
        let answer = socket
            .send(b"who is there?")
            .and_then(|_| socket.recv(&mut buffer));
        let Ok(length) = answer else { continue };
        let answer = read(&String::from_utf8_lossy(&buffer[..length]))?;
        if matches!(answer, Answer::From { endpoint: seen, .. } if seen == endpoint) {
            return Ok(begun.elapsed());
        }
    }
    Err(io::Error::other(format!(
        "{endpoint} did not answer within {PATIENCE:?}"
    )))
}

fn unanswered(error: io::Error) -> io::Result<Answer> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Ok(Answer::Refused),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Answer::Silence),
        _ => Err(error),
    }
}

fn read(line: &str) -> io::Result<Answer> {
    let mut words = line.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(endpoint)), Some(Ok(client))) => Ok(Answer::From { endpoint, client }),
        _ => Err(io::Error::other(format!(
            "an answer without two addresses: {line:?}"
        ))),
    }
}
