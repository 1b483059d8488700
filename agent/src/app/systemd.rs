//! Telling systemd how the agent is (`Type=notify`).

use std::os::{
    linux::net::SocketAddrExt,
    unix::{ffi::OsStrExt, net::SocketAddr, net::UnixDatagram},
};

use tracing::warn;

/// Tell the supervisor, where there is one.
pub(super) fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        warn!(socket = ?name, "tell systemd {state:?}: {error}");
    }
}
