//! `/healthz` says whether the agent runs, as kubelet's does; `/readyz` whether all that a node needs works, line by line.

use std::{convert::Infallible, fmt::Write as _, net::SocketAddr};

use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};
use tracing::debug;

use crate::{context::Context, health::Health};

/// Take the address.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "listen at {address} for /healthz; if another agent has this port, set healthAddress in the configuration"
        )
    })
}

/// Answer until shutdown.
pub(super) async fn serve(ctx: Context, listener: TcpListener) -> anyhow::Result<()> {
    let mut shutdown = ctx.shutdown.clone();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            // In a block of its own: what the wait gives must not be held across the other branches.
            () = async { drop(shutdown.wait_for(|stop| *stop).await) } => return Ok(()),
            // Ended ones are let go of.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!("/healthz: accept: {error}");
                    // Out of file descriptors, most likely: that does not pass within a loop's turn.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let health = ctx.health.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(&health, request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                debug!("/healthz: {error}");
            }
        });
    }
}

fn answer(health: &Health, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let (status, text) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/healthz" | "/livez") => (StatusCode::OK, "ok".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => ready(health),
        (&Method::GET | &Method::HEAD, _) => (
            StatusCode::NOT_FOUND,
            "here are /healthz, /livez and /readyz\n".to_owned(),
        ),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn ready(health: &Health) -> (StatusCode, String) {
    let states = health.watch().borrow().clone();
    let mut text = String::new();
    for (name, state) in &states {
        // Writing to a String cannot fail.
        let _ = match state {
            Ok(()) => writeln!(text, "[+]{name} ok"),
            Err(why) => writeln!(text, "[-]{name} failed: {why}"),
        };
    }
    let ready = !states.is_empty() && states.values().all(Result::is_ok);
    if states.is_empty() {
        text.push_str("nothing has reported yet\n");
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_subsystem_works() {
        let health = Health::default();
        assert_eq!(
            ready(&health).0,
            StatusCode::SERVICE_UNAVAILABLE,
            "nobody has reported"
        );
        health.set("runtime", Ok(()));
        assert_eq!(ready(&health), (StatusCode::OK, "[+]runtime ok\n".to_owned()));
        health.set("network", Err("no route".to_owned()));
        let (status, text) = ready(&health);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("[-]network failed: no route"), "{text}");
    }

    #[test]
    fn alive_is_not_the_same_as_ready() {
        let health = Health::default();
        health.set("runtime", Err("gone".to_owned()));
        assert_eq!(answer(&health, &Method::GET, "/healthz").status(), StatusCode::OK);
        assert_eq!(
            answer(&health, &Method::GET, "/nothing").status(),
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            answer(&health, &Method::POST, "/healthz").status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
}
