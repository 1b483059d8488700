//! A gRPC channel over a unix socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

/// The address is only a form: the connector below knows the way.
const ADDRESS: &str = "http://containerd";

/// Connect now; fails if nobody listens.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path = socket.to_owned();
    Endpoint::from_static(ADDRESS)
        .connect_with_connector(service_fn(move |_: Uri| open(path.clone())))
        .await
}

/// Connects with the first call, and again with every call after a loss.
pub fn lazy(socket: &Path) -> Channel {
    let path = socket.to_owned();
    Endpoint::from_static(ADDRESS).connect_with_connector_lazy(service_fn(move |_: Uri| open(path.clone())))
}

async fn open(path: PathBuf) -> Result<TokioIo<UnixStream>, std::io::Error> {
    UnixStream::connect(&path)
        .await
        .map(TokioIo::new)
        .map_err(|error| std::io::Error::new(error.kind(), format!("connect to {}: {error}", path.display())))
}
