//! Exec: the caller's streams ↔ the runtime's streaming server.

use keelson_core::object::Key;
use keelson_proto::keelson::{
    ExecRequest, ExecResponse, ExecStart, exec_request::Message as In, exec_response::Message as Out,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    containers,
    stream::{Sink, send},
};
use crate::{
    context::Context,
    doors::{
        cri::{ErrorKind, Runtime, Streams},
        streaming::{self, Came, Input, Output, Outputs},
    },
};

/// A command that runs.
pub struct Session {
    input: Input,
    outputs: Outputs,
    what: String,
}

impl Session {
    /// Start the command that the first message of `requests` asks for.
    pub async fn open(
        ctx: &Context,
        runtime: &dyn Runtime,
        requests: &mut Streaming<ExecRequest>,
    ) -> Result<Self, Status> {
        let Some(In::Start(start)) = requests.message().await?.and_then(|request| request.message) else {
            return Err(Status::invalid_argument("the first message must say what to run"));
        };
        if start.command.is_empty() {
            return Err(Status::invalid_argument("there is no command to run"));
        }
        let (id, what) = container_of(ctx, &start)?;
        let streams = Streams {
            tty: start.tty,
            stdin: start.stdin,
        };
        let url = runtime
            .exec_url(&id, &start.command, streams)
            .await
            .map_err(|error| {
                let message = format!("exec in {what}: {error}");
                match error.kind {
                    ErrorKind::Unavailable | ErrorKind::Timeout => Status::unavailable(message),
                    _ => Status::internal(message),
                }
            })?;
        let (mut input, outputs) = streaming::connect(&url, streams)
            .await
            .map_err(|error| failed(&what, &error))?;
        if let (true, Some(size)) = (start.tty, start.size) {
            input
                .resize(size.columns, size.rows)
                .await
                .map_err(|error| failed(&what, &error))?;
        }
        Ok(Self { input, outputs, what })
    }

    /// Carry bytes until the command ends.
    pub async fn run(self, requests: Streaming<ExecRequest>, sink: Sink<ExecResponse>) -> Result<(), Status> {
        let Self {
            mut input,
            outputs,
            what,
        } = self;
        let (pong, pings) = mpsc::channel(1);
        // Both directions at once: a command may write while it does not read, and the other way round.
        let outcome = tokio::select! {
            outcome = carry_out(outputs, &sink, &pong) => outcome,
            failure = carry_in(&mut input, requests, pings) => Err(failure),
        };
        outcome.map_err(|failure| match failure {
            Failure::Streams(error) => failed(&what, &error),
            Failure::Caller(status) => status,
        })
    }
}

enum Failure {
    Streams(streaming::Error),
    Caller(Status),
}

impl From<streaming::Error> for Failure {
    fn from(error: streaming::Error) -> Self {
        Self::Streams(error)
    }
}

fn failed(what: &str, error: &streaming::Error) -> Status {
    Status::internal(format!("exec in {what}: {error}"))
}

/// From the command to the caller, until the command ends.
async fn carry_out(
    mut outputs: Outputs,
    sink: &Sink<ExecResponse>,
    pong: &mpsc::Sender<u32>,
) -> Result<(), Failure> {
    loop {
        let (message, last) = match outputs.next().await? {
            // A full channel means that an answer is under way already.
            Came::Ping(id) => {
                let _ = pong.try_send(id);
                continue;
            }
            Came::Output(Output::Stdout(data)) => (Out::Stdout(data), false),
            Came::Output(Output::Stderr(data)) => (Out::Stderr(data), false),
            Came::Output(Output::Exit(code)) => (Out::ExitCode(code), true),
        };
        let response = ExecResponse {
            message: Some(message),
        };
        send(sink.send(Ok(response)).await).map_err(Failure::Caller)?;
        if last {
            return Ok(());
        }
    }
}

/// From the caller to the command; returns only when one of them is lost. What cannot be written to the command's input is
/// the command's affair: it may have ended, and its exit code is on the way.
async fn carry_in(
    input: &mut Input,
    mut requests: Streaming<ExecRequest>,
    mut pings: mpsc::Receiver<u32>,
) -> Failure {
    let mut more = true;
    loop {
        let request = tokio::select! {
            request = requests.message(), if more => request,
            Some(id) = pings.recv() => {
                if input.pong(id).await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            }
        };
        let written = match request {
            Err(status) => return Failure::Caller(status),
            Ok(None) => {
                // The caller has said all it will; the command goes on.
                more = false;
                input.stdin_end().await
            }
            Ok(Some(request)) => match request.message {
                Some(In::Stdin(data)) => input.stdin(&data).await,
                Some(In::StdinEnd(_)) => input.stdin_end().await,
                Some(In::Resize(size)) => input.resize(size.columns, size.rows).await,
                Some(In::Start(_)) | None => {
                    return Failure::Caller(Status::invalid_argument(
                        "only the first message says what to run",
                    ));
                }
            },
        };
        if written.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The id of the running container that is meant, and its name for messages.
fn container_of(ctx: &Context, start: &ExecStart) -> Result<(String, String), Status> {
    let pod = containers::pod(&ctx.world.snapshot(), &start.namespace, &start.pod)?;
    let container = containers::resolve(&pod, &start.container)?;
    let what = format!("container {container:?} of pod {}", Key::of(&pod.metadata));
    let status = containers::status(&pod, &container);
    let state = status.and_then(|status| status.state.as_ref());
    let id = status
        .and_then(|status| status.container_id.as_deref())
        .and_then(|id| id.split_once("://"));
    match (state.and_then(|state| state.running.as_ref()), id) {
        (Some(_), Some((_, id))) => Ok((id.to_owned(), what)),
        _ => {
            let ended = state.and_then(|state| state.terminated.as_ref());
            let why = match ended {
                Some(ended) => format!(
                    "it ended with exit code {} ({})",
                    ended.exit_code,
                    ended.reason.as_deref().unwrap_or("no reason given")
                ),
                None => containers::waiting_reason(&pod, &container),
            };
            Err(Status::failed_precondition(format!(
                "{what} is not running: {why}"
            )))
        }
    }
}
