//! Probes that go over the network: http, tcp and grpc. (exec probes go through the runtime.)
//!
//! Every probe opens a connection of its own: what is asked is whether a *new* client would be served.

mod http;
mod tls;

use std::time::Duration;

use keelson_proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, transport::Endpoint};

pub use http::Http;

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A GET request; 200–399 is good.
    Http(Http),
    /// A connection that is accepted.
    Tcp {
        /// Address or name.
        host: String,
        /// Port.
        port: u16,
    },
    /// The health service over gRPC, without TLS.
    Grpc {
        /// Address or name.
        host: String,
        /// Port.
        port: u16,
        /// Which service; empty = the server as a whole.
        service: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Good; the text is a warning, where there is one.
    Success(Option<String>),
    /// Bad, and why.
    Failure(String),
}

/// Ask once.
pub async fn probe(target: &Target, limit: Duration) -> Outcome {
    match target {
        Target::Http(request) => timeout(limit, http::get(request)).await.unwrap_or_else(|_| {
            let address = request.url();
            Outcome::Failure(format!("Get {address:?}: no answer within {}", seconds(limit)))
        }),
        Target::Tcp { host, port } => tcp(host, *port, limit).await,
        Target::Grpc { host, port, service } => grpc(host, *port, service, limit).await,
    }
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Outcome {
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success(None),
        Ok(Err(error)) => Outcome::Failure(format!("connect to {}: {error}", address(host, port))),
        Err(_) => Outcome::Failure(format!(
            "connect to {}: no answer within {}",
            address(host, port),
            seconds(limit)
        )),
    }
}

async fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let server = address(host, port);
    let check = async {
        let endpoint =
            Endpoint::from_shared(format!("http://{server}")).map_err(|error| error.to_string())?;
        let channel = endpoint
            .user_agent(http::USER_AGENT)
            .map_err(|error| error.to_string())?
            .connect()
            .await
            .map_err(|error| format!("connect to {server}: {}", root_cause(&error)))?;
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(channel)
            .check(request)
            .await
            .map_err(|status| match status.code() {
                Code::Unimplemented => format!("{server} does not implement grpc.health.v1.Health"),
                _ => format!(
                    "health check of {server}: {} ({:?})",
                    status.message(),
                    status.code()
                ),
            })?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(format!(
                "service unhealthy (responded with {:?})",
                other.as_str_name()
            )),
        }
    };
    match timeout(limit, check).await {
        Ok(Ok(())) => Outcome::Success(None),
        Ok(Err(message)) => Outcome::Failure(message),
        Err(_) => Outcome::Failure(format!(
            "health check of {server}: no answer within {}",
            seconds(limit)
        )),
    }
}

/// `host:port`, an IPv6 address in brackets.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}

/// Transport errors wrap each other and say the least on top.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
