//! The server that end-to-end tests talk to: TCP echo, UDP echo, and HTTP that says who answered and whom it saw.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | `{"pod": …, "client": "address:port"}` |
//! | `GET /healthz` | 200, or 500 after `POST /fail` until `POST /ok` |
//! | `GET /slow?ms=N` | as `/`, after N milliseconds |
//! | `GET /exit?code=N` | the server ends with that code |
//! | `GET /env?name=N` | the variable's value, or 404 |
//!
//! It ends on SIGTERM: it goes on accepting for as long as `--drain` says, for clients that do not know yet, then stops
//! listening, finishes what it has begun, and leaves with code 0.

use std::{
    env,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    process,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

const HELP: &str =
    "keelson-echo [--http PORT] [--tcp PORT] [--udp PORT] [--address ADDRESS] [--pod NAME] [--unhealthy] [--drain MILLISECONDS]
Defaults: HTTP on 8080, TCP and UDP echo on 7, on all addresses, no drain; the name is $POD_NAME or the host's.";

/// How often an idle listener looks whether it is to stop.
const STEP: Duration = Duration::from_millis(10);
/// A client that says nothing for so long has gone.
const IDLE: Duration = Duration::from_secs(300);
/// Clients that stay longer than this after SIGTERM are left.
const FAREWELL: Duration = Duration::from_secs(25);

static STOPPING: AtomicBool = AtomicBool::new(false);
static HEALTHY: AtomicBool = AtomicBool::new(true);
static REQUESTS: AtomicUsize = AtomicUsize::new(0);
/// Milliseconds to go on accepting after SIGTERM.
static DRAIN: AtomicUsize = AtomicUsize::new(0);

struct Options {
    address: String,
    http: u16,
    tcp: u16,
    udp: u16,
    pod: String,
}

fn main() {
    let options = match parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{HELP}");
            process::exit(2);
        }
    };
    on_sigterm();
    if let Err(message) = serve(&options) {
        eprintln!("{message}");
        process::exit(1);
    }
    println!("{}: stopped", options.pod);
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        address: "0.0.0.0".into(),
        http: 8080,
        tcp: 7,
        udp: 7,
        pod: name(),
    };
    while let Some(flag) = words.next() {
        if flag == "--unhealthy" {
            HEALTHY.store(false, Ordering::Relaxed);
            continue;
        }
        let value = words.next().ok_or(format!("{flag} needs a value"))?;
        let port = || value.parse().map_err(|error| format!("{flag} {value}: {error}"));
        match flag.as_str() {
            "--http" => options.http = port()?,
            "--tcp" => options.tcp = port()?,
            "--udp" => options.udp = port()?,
            "--address" => options.address = value,
            "--pod" => options.pod = value,
            "--drain" => {
                let drain = value
                    .parse()
                    .map_err(|error| format!("{flag} {value}: {error}"))?;
                DRAIN.store(drain, Ordering::Relaxed);
            }
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    Ok(options)
}

fn name() -> String {
    env::var("POD_NAME")
        .or_else(|_| std::fs::read_to_string("/etc/hostname").map(|name| name.trim().to_owned()))
        .or_else(|_| env::var("HOSTNAME"))
        .unwrap_or_else(|_| "unknown".into())
}

/// The handler only stores: nothing else is safe in one.
fn on_sigterm() {
    extern "C" fn stop(_signal: libc::c_int) {
        STOPPING.store(true, Ordering::Relaxed);
    }
    let handler = stop as extern "C" fn(libc::c_int);
    // SAFETY: the handler is a function for the whole run of the program, and storing to an atomic is allowed in it.
    unsafe {
        libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
        libc::signal(libc::SIGINT, handler as libc::sighandler_t);
    }
}

fn serve(options: &Options) -> Result<(), String> {
    let http = listen(options, options.http)?;
    let tcp = listen(options, options.tcp)?;
    let place = resolve(options, options.udp)?;
    let udp = UdpSocket::bind(place).map_err(|error| format!("bind UDP {place}: {error}"))?;
    println!(
        "{}: HTTP on {}, TCP echo on {}, UDP echo on {}",
        options.pod, options.http, options.tcp, options.udp
    );
    thread::scope(|scope| {
        scope.spawn(|| echo_datagrams(&udp));
        scope.spawn(|| accept(&tcp, |stream, _| echo(stream)));
        let pod = options.pod.clone();
        scope.spawn(move || accept(&http, move |stream, client| answer(stream, client, &pod)));
    });
    let deadline = Instant::now() + FAREWELL;
    while REQUESTS.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        thread::sleep(STEP);
    }
    Ok(())
}

fn resolve(options: &Options, port: u16) -> Result<SocketAddr, String> {
    (options.address.as_str(), port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or(format!("{} is no address", options.address))
}

fn listen(options: &Options, port: u16) -> Result<TcpListener, String> {
    let place = resolve(options, port)?;
    let listener = TcpListener::bind(place).map_err(|error| format!("listen on {place}: {error}"))?;
    // Accepting must end when we are told to stop, and a blocked one would not.
    listener
        .set_nonblocking(true)
        .map_err(|error| format!("listen on {place}: {error}"))?;
    Ok(listener)
}

/// Hand each connection to a thread of its own, until stopped and nobody waits any more: a connection that the kernel
/// took before we stopped is answered.
fn accept(
    listener: &TcpListener,
    handle: impl Fn(TcpStream, SocketAddr) -> std::io::Result<()> + Clone + Send + 'static,
) {
    let mut drain = Drain::default();
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                let handle = handle.clone();
                thread::spawn(move || {
                    if let Err(error) = prepare(&stream).and_then(|()| handle(stream, client)) {
                        eprintln!("{client}: {error}");
                    }
                });
            }
            Err(_) if drain.is_over() => return,
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(STEP),
            Err(error) => {
                eprintln!("accept: {error}");
                thread::sleep(STEP);
            }
        }
    }
}

/// The time between SIGTERM and the last client.
#[derive(Default)]
struct Drain {
    until: Option<Instant>,
}

impl Drain {
    fn is_over(&mut self) -> bool {
        if !STOPPING.load(Ordering::Relaxed) {
            return false;
        }
        let length = Duration::from_millis(DRAIN.load(Ordering::Relaxed) as u64);
        let until = *self.until.get_or_insert_with(|| Instant::now() + length);
        Instant::now() >= until
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(&buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    // Without a time-out the loop would never see that it is to stop.
    if let Err(error) = socket.set_read_timeout(Some(Duration::from_millis(100))) {
        eprintln!("UDP: {error}");
    }
    let mut drain = Drain::default();
    while !drain.is_over() {
        // An ICMP error about an earlier answer concerns one client only.
        if let Ok((length, client)) = socket.recv_from(&mut buffer)
            && let Err(error) = socket.send_to(&buffer[..length], client)
        {
            eprintln!("UDP {client}: {error}");
        }
    }
}

/// Counts a request for as long as it is being answered.
struct Begun;

impl Begun {
    fn new() -> Self {
        REQUESTS.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        REQUESTS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// HTTP/1.1 with kept connections; requests have no body that matters.
fn answer(stream: TcpStream, client: SocketAddr, pod: &str) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    // A connection that was taken is owed its first answer even while we stop.
    let mut begun = Some(Begun::new());
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
        let request = begun.take().unwrap_or_else(Begun::new);
        let mut length = 0;
        let mut close = line.trim_end().ends_with("HTTP/1.0");
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            let header = header.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            close |= header.starts_with("connection:") && header.contains("close");
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        let (status, body) = respond(method, target, client, pod);
        close |= STOPPING.load(Ordering::Relaxed);
        let connection = if close { "close" } else { "keep-alive" };
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        )?;
        drop(request);
        if close {
            return Ok(());
        }
    }
}

fn respond(method: &str, target: &str, client: SocketAddr, pod: &str) -> (&'static str, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key: &str| {
        parameter(key)
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let who = || format!("{{\"pod\":\"{pod}\",\"client\":\"{client}\"}}\n");
    match (method, path) {
        (_, "/") => ("200 OK", who()),
        (_, "/slow") => {
            thread::sleep(Duration::from_millis(number("ms")));
            ("200 OK", who())
        }
        (_, "/healthz") if HEALTHY.load(Ordering::Relaxed) => ("200 OK", "ok\n".into()),
        (_, "/healthz") => ("500 Internal Server Error", "told to fail\n".into()),
        ("POST", "/fail" | "/ok") => {
            HEALTHY.store(path == "/ok", Ordering::Relaxed);
            ("200 OK", who())
        }
        (_, "/env") => match parameter("name").and_then(|name| env::var(name).ok()) {
            Some(value) => ("200 OK", value),
            None => ("404 Not Found", "not set\n".into()),
        },
        (_, "/exit") => process::exit(i32::try_from(number("code")).unwrap_or(1)),
        _ => ("404 Not Found", "no such page\n".into()),
    }
}
