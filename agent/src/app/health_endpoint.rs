//! `/healthz` says whether the agent runs, as kubelet's does; `/readyz` whether all that a node needs works, line by line.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use http::{Method, StatusCode};
use tokio::net::TcpListener;

use crate::{
    context::Context,
    doors::web::{self, Reply, plain},
    health::Health,
};

/// Take the address.
pub(super) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    web::listen(address).with_context(|| {
        format!(
            "listen at {address} for /healthz; if another agent has this port, set healthAddress in the configuration"
        )
    })
}

/// Answer until shutdown.
pub(super) async fn serve(ctx: Context, listener: TcpListener) -> anyhow::Result<()> {
    let mut shutdown = ctx.shutdown.clone();
    let health = ctx.health.clone();
    let handler = Arc::new(move |method: &Method, path: &str| answer(&health, method, path));
    tokio::select! {
        () = web::serve(listener, handler) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

fn answer(health: &Health, method: &Method, path: &str) -> Reply {
    web::readable(method, || match path {
        "/healthz" | "/livez" => plain(StatusCode::OK, "ok"),
        "/readyz" => {
            let (status, text) = ready(health);
            plain(status, text)
        }
        _ => plain(StatusCode::NOT_FOUND, "here are /healthz, /livez and /readyz\n"),
    })
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
