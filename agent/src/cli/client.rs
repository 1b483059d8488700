//! The way to the agent, and what its refusals look like to the user.

use std::path::Path;

use anyhow::{anyhow, bail};
use keelson_proto::keelson::{ListRequest, WatchEvent, control_client::ControlClient, watch_event::Type};
use serde_json::Value;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{control::resource::Resource, doors::cri::channel};

/// Lists of many objects are larger than what gRPC takes unasked.
const MESSAGE_LIMIT: usize = 64 << 20;

/// A connection to the agent.
pub type Client = ControlClient<Channel>;

/// Connect to the agent's socket.
pub async fn connect(socket: &Path) -> anyhow::Result<Client> {
    match channel::connect(socket).await {
        Ok(channel) => Ok(ControlClient::new(channel)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)),
        Err(error) => {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            let path = socket.display();
            let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            let help = match kind {
                Some(std::io::ErrorKind::PermissionDenied) => "run this as root, as the agent is",
                _ => {
                    "is the agent running (`keelson node`, or systemctl status keelson)? Name its socket with --socket \
                     or KEELSON_SOCKET if it is elsewhere"
                }
            };
            bail!("the agent does not answer at {path}: {cause}; {help}")
        }
    }
}

/// A refusal in the words users know.
pub fn refused(status: &Status) -> anyhow::Error {
    let reason = match status.code() {
        Code::NotFound => "NotFound",
        Code::InvalidArgument => "Invalid",
        Code::AlreadyExists => "AlreadyExists",
        Code::FailedPrecondition => "Conflict",
        Code::PermissionDenied | Code::Unauthenticated => "Forbidden",
        Code::Unavailable => "ServiceUnavailable",
        Code::DeadlineExceeded => "Timeout",
        Code::Unimplemented => "NotImplemented",
        _ => "InternalError",
    };
    anyhow!("Error from server ({reason}): {}", status.message())
}

/// Which objects.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Empty = all namespaces.
    pub namespace: String,
    /// Empty = all names.
    pub name: String,
    /// Empty = all labels.
    pub selector: String,
}

impl Which {
    fn request(&self, resource: Resource) -> ListRequest {
        ListRequest {
            resource: resource.plural().to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            label_selector: self.selector.clone(),
        }
    }
}

/// Objects as they are now.
pub async fn list(client: &mut Client, resource: Resource, which: &Which) -> Result<Vec<Value>, Status> {
    let response = client.list(which.request(resource)).await?.into_inner();
    response.objects.iter().map(|bytes| parse(bytes)).collect()
}

fn parse(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::internal(format!("the agent sent an object that is no JSON: {error}")))
}

/// A stream of changes.
pub struct Changes(Streaming<WatchEvent>);

/// What a watch tells.
#[derive(Debug)]
pub enum Change {
    /// It is there, or is there now, or is different now.
    Is(Value),
    /// It went; its last state.
    Gone(Value),
    /// All that was there at the beginning has been told.
    Listed,
}

/// Objects as they are, and how they change.
pub async fn watch(client: &mut Client, resource: Resource, which: &Which) -> Result<Changes, Status> {
    Ok(Changes(client.watch(which.request(resource)).await?.into_inner()))
}

impl Changes {
    /// The next change.
    pub async fn next(&mut self) -> Result<Change, Status> {
        loop {
            let event = self
                .0
                .message()
                .await?
                .ok_or_else(|| Status::unavailable("the agent ended the watch"))?;
            return Ok(match event.r#type() {
                Type::Added | Type::Modified => Change::Is(parse(&event.object)?),
                Type::Deleted => Change::Gone(parse(&event.object)?),
                Type::Bookmark => Change::Listed,
                // Of a newer agent.
                Type::Unknown => continue,
            });
        }
    }
}

/// A text at `/path/of/it`, else empty.
pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}
