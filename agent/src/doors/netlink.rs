//! Door to the kernel's news about devices, addresses and routes. Only that something changed is told: whoever hears it looks.

use std::sync::Arc;

use futures::StreamExt;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::Notify;

/// Notified after every change, for as long as the future that listens is driven; it ends only when the kernel closes the socket.
///
/// # Errors
/// The kernel refuses the socket.
pub fn changes() -> std::io::Result<(Arc<Notify>, impl Future<Output = ()> + Send)> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
    let notify = Arc::new(Notify::new());
    let told = notify.clone();
    let listen = async move {
        // The connection lives as long as its handle.
        let _handle = handle;
        while messages.next().await.is_some() {
            told.notify_one();
        }
    };
    let both = async move {
        tokio::select! {
            () = connection => {}
            () = listen => {}
        }
    };
    Ok((notify, both))
}
