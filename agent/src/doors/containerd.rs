//! containerd's own API, beside CRI on the same socket: exit and OOM events as they happen, and images from archives.
//!
//! The event stream's call does not return before the first event, and nothing says from when on it listens: whoever
//! reads [`events`] lists once after (re)connecting and again now and then. Events are hints, lists are the truth.

pub mod archive;
pub mod import;
pub mod pause;

use std::{path::Path, sync::Arc, time::Duration};

use containerd_client::{
    events::{TaskExit, TaskOom},
    services::v1::{SubscribeRequest, events_client::EventsClient},
    types::Envelope,
};
use prost::Message;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::cri::channel;

/// CRI keeps everything in this namespace of containerd.
pub const NAMESPACE: &str = "k8s.io";
/// A lost connection is tried again after this.
const RETRY: Duration = Duration::from_millis(500);
/// And a subscription that containerd refused after this.
const REFUSED: Duration = Duration::from_secs(30);

/// Something happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The main process of a container (or of a sandbox) ended.
    Exit {
        /// Its id.
        container: String,
    },
    /// The kernel killed a process of the container for want of memory.
    OutOfMemory {
        /// Its id.
        container: String,
    },
    /// The stream was (re)started: events may have been missed.
    Resumed,
    /// containerd cannot be reached, or the stream broke; it is opened again.
    Lost(String),
}

/// Follow containerd's events until the receiver is dropped. Reconnects by itself.
pub async fn events(socket: Arc<Path>, out: mpsc::Sender<Event>) {
    loop {
        let lost = match follow(&socket, &out).await {
            Ok(()) => "its event stream ended".to_owned(),
            Err(error) if is_refusal(error.as_ref()) => {
                // containerd is there and well, but this agent cannot follow it: lists now and then must do.
                let error = describe(error.as_ref());
                tracing::warn!(
                    error,
                    "containerd refuses its events; exits of containers are noticed late"
                );
                tokio::time::sleep(REFUSED).await;
                continue;
            }
            Err(error) => describe(error.as_ref()),
        };
        tracing::debug!(lost, "containerd's event stream is opened again");
        if out.send(Event::Lost(lost)).await.is_err() {
            return;
        }
        tokio::select! {
            () = out.closed() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// An answer of containerd's own, not a fault of the connection.
fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    let status = error.downcast_ref::<tonic::Status>();
    status.is_some_and(|status| {
        status.code() != tonic::Code::Unavailable && std::error::Error::source(status).is_none()
    })
}

/// Errors of the transport wrap each other; all of them say it.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    // A status prints all its parts; the words are in its message.
    let status = error.downcast_ref::<tonic::Status>();
    let mut text = status.map_or_else(|| error.to_string(), |status| status.message().to_owned());
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}

async fn follow(
    socket: &Path,
    out: &mpsc::Sender<Event>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Connect first: the subscription itself gives no sign of life.
    let channel = connect(socket).await?;
    let mut client = EventsClient::new(channel);
    let filters = ["/tasks/exit", "/tasks/oom"]
        .map(|topic| format!("namespace=={NAMESPACE},topic==\"{topic}\""))
        .to_vec();
    let subscribe = client.subscribe(SubscribeRequest { filters });
    tokio::pin!(subscribe);
    // Polled once, the request is on its way; then tell that events may have been missed.
    let early = tokio::time::timeout(Duration::from_millis(20), &mut subscribe).await;
    out.send(Event::Resumed).await?;
    let response = match early {
        Ok(response) => response?,
        Err(_) => tokio::select! {
            response = &mut subscribe => response?,
            () = out.closed() => return Ok(()),
        },
    };
    let mut stream = response.into_inner();
    loop {
        let envelope = tokio::select! {
            message = stream.message() => message?,
            () = out.closed() => return Ok(()),
        };
        let Some(envelope) = envelope else {
            return Ok(());
        };
        if let Some(event) = decode(&envelope) {
            out.send(event).await?;
        }
    }
}

/// Wait for a connection to containerd.
async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    channel::connect(socket).await
}

/// The type is told by a bare name without a path, which the usual decoding of `Any` refuses.
fn decode(envelope: &Envelope) -> Option<Event> {
    let any = envelope.event.as_ref()?;
    match any.type_url.rsplit('/').next()? {
        "containerd.events.TaskExit" => {
            let exit = TaskExit::decode(any.value.as_slice()).ok()?;
            // Other ids are processes run beside the main one.
            (exit.id == exit.container_id).then_some(Event::Exit {
                container: exit.container_id,
            })
        }
        "containerd.events.TaskOOM" => {
            let oom = TaskOom::decode(any.value.as_slice()).ok()?;
            Some(Event::OutOfMemory {
                container: oom.container_id,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(type_url: &str, value: Vec<u8>) -> Envelope {
        Envelope {
            event: Some(prost_types::Any {
                type_url: type_url.to_owned(),
                value,
            }),
            ..Envelope::default()
        }
    }

    #[test]
    fn events_are_told_by_bare_names() {
        let exit = |id: &str| {
            TaskExit {
                container_id: "c".into(),
                id: id.into(),
                ..TaskExit::default()
            }
            .encode_to_vec()
        };
        let oom = TaskOom {
            container_id: "c".into(),
        }
        .encode_to_vec();
        let container = || "c".to_owned();
        for (url, value, expected) in [
            (
                "containerd.events.TaskExit",
                exit("c"),
                Some(Event::Exit {
                    container: container(),
                }),
            ),
            (
                "types.example/containerd.events.TaskExit",
                exit("c"),
                Some(Event::Exit {
                    container: container(),
                }),
            ),
            ("containerd.events.TaskExit", exit("exec-1"), None),
            (
                "containerd.events.TaskOOM",
                oom,
                Some(Event::OutOfMemory {
                    container: container(),
                }),
            ),
            ("containerd.events.TaskStart", vec![], None),
            ("containerd.events.TaskExit", vec![0xff], None),
        ] {
            assert_eq!(decode(&envelope(url, value)), expected, "{url}");
        }
    }
}
