//! `keelson exec`

use std::{
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use keelson_proto::keelson::{
    ExecRequest, ExecStart, StdinEnd, TerminalSize, exec_request::Message as In,
    exec_response::Message as Out,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    args::Exec,
    client::{Client, refused},
    get, pods, print, terminal,
};

/// Keystrokes or pieces of a file that wait to be sent.
const WAITING: usize = 16;
const CHUNK: usize = 32 << 10;

/// Run a command; the exit code is its own.
pub async fn run(client: &mut Client, args: &Exec) -> anyhow::Result<ExitCode> {
    let namespace = get::namespace(&args.namespace);
    let pod = pods::one(client, &namespace, &args.target).await?;
    let container = pods::container(&pod, args.container.as_deref())?;
    let mut tty = args.tty;
    if tty && args.stdin && !io::stdin().is_terminal() {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        tty = false;
    }
    let (requests, receiver) = mpsc::channel(WAITING);
    let start = ExecStart {
        namespace,
        pod: pods::name_of(&pod).to_owned(),
        container,
        command: args.command.clone(),
        stdin: args.stdin,
        tty,
        size: terminal::size().map(terminal_size),
    };
    send(&requests, In::Start(start)).await;
    // Raw before the command's first output, and put back by the guard whatever happens.
    let raw = if tty && args.stdin {
        terminal::Raw::enter().context("make the terminal raw")?
    } else {
        None
    };
    let mut answers = client
        .exec(ReceiverStream::new(receiver))
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    if args.stdin {
        read_stdin(requests.clone());
    }
    let mut resized = signal(SignalKind::window_change()).context("listen for SIGWINCH")?;
    let code = loop {
        let answer = tokio::select! {
            answer = answers.message() => answer.map_err(|status| refused(&status))?,
            _ = resized.recv(), if tty => {
                if let Some(size) = terminal::size() {
                    send(&requests, In::Resize(terminal_size(size))).await;
                }
                continue;
            }
        };
        match answer.map(|answer| answer.message) {
            Some(Some(Out::Stdout(data))) => print::bytes(&data)?,
            Some(Some(Out::Stderr(data))) => {
                // As with standard output, a reader that has gone is no failure of the command.
                let _ = io::stderr().lock().write_all(&data);
            }
            Some(Some(Out::ExitCode(code))) => break code,
            // Of a newer agent.
            Some(None) => {}
            None => bail!("error: the agent ended the connection before it told how the command ended"),
        }
    };
    drop(raw);
    if code != 0 {
        eprintln!("command terminated with exit code {code}");
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn terminal_size((columns, rows): (u32, u32)) -> TerminalSize {
    TerminalSize { columns, rows }
}

/// A request that cannot be sent tells of a stream that has ended; its answer says why.
async fn send(requests: &mpsc::Sender<ExecRequest>, message: In) {
    let _ = requests
        .send(ExecRequest {
            message: Some(message),
        })
        .await;
}

/// Read standard input on a thread of its own: a read that waits for a key cannot be called off, and the process must be able to end
/// without it.
fn read_stdin(requests: mpsc::Sender<ExecRequest>) {
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let message = match io::stdin().lock().read(&mut chunk) {
                Ok(0) | Err(_) => In::StdinEnd(StdinEnd {}),
                Ok(count) => In::Stdin(chunk[..count].to_vec()),
            };
            let last = matches!(message, In::StdinEnd(_));
            let request = ExecRequest {
                message: Some(message),
            };
            if requests.blocking_send(request).is_err() || last {
                return;
            }
        }
    });
}
