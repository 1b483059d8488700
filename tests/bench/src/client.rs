//! Produces one kind of load for a bounded time.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{histogram::Histogram, socket, wire::Mode};

/// No exchange may hang a benchmark: a lost answer is an error after this long.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Kind {
    /// TCP request/response: one byte each way on open connections.
    Rr,
    /// TCP connect/request/response: a connection per exchange.
    Crr,
    /// TCP stream, client to server.
    Stream,
    /// UDP request/response.
    Udp,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Kind of load.
    pub kind: Kind,
    /// The server, or the Service before it.
    pub target: SocketAddr,
    /// How long.
    pub duration: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of a datagram (UDP only).
    pub size: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Kind of load.
    pub kind: Kind,
    /// Exchanges that ended well.
    pub exchanges: u64,
    /// Exchanges that failed, and the last cause.
    pub errors: u64,
    /// The last error's text.
    pub last_error: Option<String>,
    /// Exchanges per second; for streams bits per second.
    pub rate: f64,
    /// Latency in microseconds: median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

#[derive(Default)]
struct Tally {
    latencies: Histogram,
    bytes: u64,
    errors: u64,
    last_error: Option<String>,
}

impl Tally {
    fn count(&mut self, started: Instant, result: io::Result<u64>) {
        match result {
            Ok(bytes) => {
                self.latencies.record(started.elapsed());
                self.bytes += bytes;
            }
            Err(error) => {
                self.errors += 1;
                self.last_error = Some(error.to_string());
            }
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.latencies.merge(&other.latencies);
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.last_error = other.last_error.or(self.last_error);
        self
    }
}

/// Run a load to its end. Fails only where nothing could be started; failed exchanges are counted.
pub fn run(load: Load) -> io::Result<Outcome> {
    let started = Instant::now();
    let deadline = started + load.duration;
    let mut workers = Vec::new();
    for index in 0..load.connections.max(1) {
        workers.push(
            thread::Builder::new()
                .name(format!("load {index}"))
                .spawn(move || work(load, deadline))?,
        );
    }
    let tally = workers
        .into_iter()
        .fold(Tally::default(), |sum, worker| match worker.join() {
            Ok(tally) => sum.merge(tally),
            Err(_) => sum.merge(Tally {
                errors: 1,
                last_error: Some("a load thread panicked".into()),
                ..Tally::default()
            }),
        });
    let seconds = started.elapsed().as_secs_f64();
    let us = |q| tally.latencies.quantile(q).as_secs_f64() * 1e6;
    let exchanges = tally.latencies.count();
    let rate = if load.kind == Kind::Stream {
        tally.bytes as f64 * 8.0
    } else {
        exchanges as f64
    } / seconds;
    Ok(Outcome {
        kind: load.kind,
        exchanges,
        errors: tally.errors,
        rate,
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        max_us: tally.latencies.max().as_secs_f64() * 1e6,
        last_error: tally.last_error,
    })
}

fn work(load: Load, deadline: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < deadline {
        let started = Instant::now();
        let result = match load.kind {
            Kind::Rr => request_response(load, deadline, &mut tally),
            Kind::Udp => datagrams(load, deadline, &mut tally),
            Kind::Crr => connect_request_response(load.target).map(|()| tally.count(started, Ok(2))),
            Kind::Stream => stream(load.target, deadline).map(|bytes| tally.count(started, Ok(bytes))),
        };
        if let Err(error) = result {
            tally.count(started, Err(error));
        }
    }
    tally
}

fn connect(target: SocketAddr, mode: Mode) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    socket::tune(&stream)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&mode.opening())?;
    Ok(stream)
}

fn request_response(load: Load, deadline: Instant, tally: &mut Tally) -> io::Result<()> {
    let mut stream = connect(load.target, Mode::RequestResponse)?;
    let mut byte = [7];
    while Instant::now() < deadline {
        let started = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        tally.count(started, Ok(2));
    }
    Ok(())
}

fn connect_request_response(target: SocketAddr) -> io::Result<()> {
    let mut stream = connect(target, Mode::ConnectRequestResponse)?;
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    socket::close_by_reset(&stream)
}

fn stream(target: SocketAddr, deadline: Instant) -> io::Result<u64> {
    let mut stream = connect(target, Mode::Stream)?;
    let buffer = vec![0; 1 << 18];
    while Instant::now() < deadline {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut arrived = [0; 8];
    stream.read_exact(&mut arrived)?;
    Ok(u64::from_be_bytes(arrived))
}

fn datagrams(load: Load, deadline: Instant, tally: &mut Tally) -> io::Result<()> {
    let any: SocketAddr = if load.target.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(load.target)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut out = vec![0; load.size.max(8)];
    let mut back = vec![0; out.len()];
    let mut sequence = 0_u64;
    while Instant::now() < deadline {
        sequence += 1;
        out[..8].copy_from_slice(&sequence.to_be_bytes());
        let started = Instant::now();
        socket.send(&out)?;
        // An answer to an earlier, timed-out datagram is not this one's.
        loop {
            let length = socket.recv(&mut back)?;
            if back[..length] == out[..] {
                break;
            }
        }
        tally.count(started, Ok(out.len() as u64 * 2));
    }
    Ok(())
}
