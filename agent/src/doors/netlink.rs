//! Door to the kernel's news about devices, addresses and routes. Only that something changed is told: whoever hears it looks.

use std::sync::Arc;

use futures::StreamExt;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::Notify;

/// Notified after every change. The task that listens ends with the runtime.
///
/// # Errors
/// The kernel refuses the socket.
pub fn changes() -> std::io::Result<Arc<Notify>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
    ];
    let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
    let notify = Arc::new(Notify::new());
    let told = notify.clone();
    tokio::spawn(connection);
    tokio::spawn(async move {
        // The connection lives as long as its handle.
        let _handle = handle;
        while messages.next().await.is_some() {
            told.notify_one();
        }
    });
    Ok(notify)
}
