//! Door to those who ask by HTTP: one small server for every endpoint that the agent answers on.
//!
//! Answers are made at once, without waiting. Nothing is spawned: a server is a future that its owner drives, and dropping it
//! closes listener and connections.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time,
};
use tracing::debug;

/// Connections at a time: whoever asks for health has one.
const CONNECTIONS: usize = 256;
/// A connection that says nothing for this long is closed.
const SILENCE: Duration = Duration::from_secs(10);
/// Callers that wait to be let in.
const BACKLOG: u32 = 128;

/// What is answered.
pub type Reply = Response<Full<Bytes>>;
/// Method and path → answer.
pub type Handler = Arc<dyn Fn(&Method, &str) -> Reply + Send + Sync>;

/// Take an address; `0.0.0.0` and `::` each stand for their own family only.
///
/// # Errors
/// Somebody else has it, or the machine has no such address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        socket
    };
    // A server that comes back does not wait for its old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Answer for ever.
pub async fn serve(listener: TcpListener, handler: Handler) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = connections.next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => connections.push(converse(stream, handler.clone())),
                Err(error) => {
                    debug!("accept: {error}");
                    // Out of file descriptors, most likely: that does not pass within a loop's turn.
                    time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn converse(stream: TcpStream, handler: Handler) {
    let service = service_fn(move |request: Request<Incoming>| {
        let reply = handler(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(reply) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!("connection: {error}");
    }
}

/// An answer of this type.
pub fn reply(status: StatusCode, kind: &'static str, body: String) -> Reply {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An answer for people.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Reply {
    reply(status, "text/plain; charset=utf-8", text.into())
}

/// GET and HEAD are answered by `answer`, all else is refused.
pub fn readable(method: &Method, answer: impl FnOnce() -> Reply) -> Reply {
    if [Method::GET, Method::HEAD].contains(method) {
        answer()
    } else {
        plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n")
    }
}
