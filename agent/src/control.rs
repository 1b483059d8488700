//! The control API: the agent's side of the command line, and the words that both sides share.
//!
//! The server reads the world and writes the folder of manifests; the loops do the rest. It makes no decisions about pods,
//! except that one is to end.

pub mod apply;
pub mod check;
pub mod containers;
pub mod delete;
pub mod exec;
pub mod explain;
pub mod folder;
pub mod list;
pub mod logs;
pub mod resource;
pub mod selector;
pub mod server;
pub mod socket;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod yaml_text;

use std::sync::Arc;

use anyhow::Context as _;
use keelson_proto::keelson::control_server::ControlServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::{context::Context, doors::cri::Runtime};

/// Manifests of many documents are larger than what gRPC takes unasked.
const MESSAGE_LIMIT: usize = 64 << 20;

/// Serve until shutdown. Calls that follow something end then, too.
pub async fn serve(ctx: Context, runtime: Arc<dyn Runtime>, listener: UnixListener) -> anyhow::Result<()> {
    let mut shutdown = ctx.shutdown.clone();
    let service = ControlServer::new(server::Server::new(ctx, runtime))
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let stop = async move {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .context("serve the control API")
}
