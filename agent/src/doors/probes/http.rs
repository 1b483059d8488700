//! The http probe: one GET, redirects on the same host followed.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{Outcome, address, tls};

/// What servers and their logs know probes by.
pub const USER_AGENT: &str = "kube-probe/1.36";
/// So much of an answer goes into the message.
const BODY_LIMIT: usize = 10 << 10;
/// More redirects than this are a loop.
const REDIRECT_LIMIT: usize = 10;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// TLS, with any certificate accepted.
    pub tls: bool,
    /// Address or name to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers in addition to or in place of the usual ones.
    pub headers: Vec<(String, String)>,
}

impl Http {
    /// The whole address, as it appears in messages.
    pub fn url(&self) -> String {
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let scheme = if self.tls { "https" } else { "http" };
        format!(
            "{scheme}://{}{slash}{}",
            address(&self.host, self.port),
            self.path
        )
    }
}

/// Ask, following redirects.
pub async fn get(request: &Http) -> Outcome {
    let first = request.url();
    match follow(request, &first).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failure(format!("Get {first:?}: {error}")),
    }
}

async fn follow(request: &Http, first: &str) -> Result<Outcome, String> {
    let mut url = parse(first)?;
    for _ in 0..=REDIRECT_LIMIT {
        let (status, location, body) = once(request, &url).await?;
        if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
            let good = (200..400).contains(&status.as_u16());
            return Ok(if good {
                Outcome::Success(None)
            } else {
                bad(status, &body)
            });
        }
        let Some(location) = location else {
            return Ok(Outcome::Success(None));
        };
        let next = resolve(&url, &location)?;
        if next.host() != url.host() {
            // Who answers there says nothing of this container.
            return Ok(Outcome::Success(Some(format!(
                "Probe terminated redirects, Response body: {body}"
            ))));
        }
        url = next;
    }
    Err(format!("stopped after {REDIRECT_LIMIT} redirects"))
}

fn bad(status: StatusCode, body: &str) -> Outcome {
    let body = if body.is_empty() {
        String::new()
    } else {
        format!(": {body}")
    };
    Outcome::Failure(format!(
        "HTTP probe failed with statuscode: {}{body}",
        status.as_u16()
    ))
}

fn parse(url: &str) -> Result<Uri, String> {
    url.parse()
        .map_err(|error| format!("{url:?} is no address: {error}"))
}

fn resolve(base: &Uri, location: &str) -> Result<Uri, String> {
    if location.contains("://") {
        return parse(location);
    }
    let scheme = base.scheme_str().unwrap_or("http");
    if let Some(rest) = location.strip_prefix("//") {
        return parse(&format!("{scheme}://{rest}"));
    }
    let authority = base.authority().map(ToString::to_string).unwrap_or_default();
    let folder = match location.starts_with('/') {
        true => "",
        false => base.path().rsplit_once('/').map_or("", |(folder, _)| folder),
    };
    let slash = if location.starts_with('/') { "" } else { "/" };
    parse(&format!("{scheme}://{authority}{folder}{slash}{location}"))
}

async fn once(request: &Http, url: &Uri) -> Result<(StatusCode, Option<String>, String), String> {
    let tls = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| error.to_string())?;
    if tls {
        exchange(tls::connect(&host, stream).await?, request, url).await
    } else {
        exchange(stream, request, url).await
    }
}

async fn exchange<S>(
    stream: S,
    request: &Http,
    url: &Uri,
) -> Result<(StatusCode, Option<String>, String), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut message = Request::new(Empty::<Bytes>::new());
    *message.uri_mut() = url
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .parse()
        .map_err(|error| format!("{error}"))?;
    *message.headers_mut() = headers(request, url)?;
    let exchange = async {
        let response = sender
            .send_request(message)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status();
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Ok((status, location, body(response.into_body()).await))
    };
    // Both halves in this task: when it is dropped, the connection is closed.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        end = &mut connection => match end {
            Err(error) => Err(error.to_string()),
            // The connection may end together with the answer.
            Ok(()) => exchange.await,
        },
    }
}

fn headers(request: &Http, url: &Uri) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    for (name, value) in [
        (header::HOST, host.as_str()),
        (header::USER_AGENT, USER_AGENT),
        (header::ACCEPT, "*/*"),
        (header::CONNECTION, "close"),
    ] {
        headers.insert(
            name,
            HeaderValue::from_str(value).map_err(|error| error.to_string())?,
        );
    }
    let mut own = Vec::new();
    for (name, value) in &request.headers {
        let key = HeaderName::try_from(name).map_err(|error| format!("header {name:?}: {error}"))?;
        let value = HeaderValue::from_str(value).map_err(|error| format!("header {name:?}: {error}"))?;
        // The first of a name replaces the usual one, further ones are added.
        if own.contains(&key) {
            headers.append(key, value);
        } else {
            headers.insert(key.clone(), value);
            own.push(key);
        }
    }
    Ok(headers)
}

/// The first part of the body as text; a body that breaks off is as good as its part.
async fn body(mut incoming: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_LIMIT {
        match incoming.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    bytes.extend(&data[..data.len().min(BODY_LIMIT - bytes.len())]);
                }
            }
            Some(Err(_)) | None => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
