//! Exec, against a streaming server that speaks the runtime's protocol.

use keelson_proto::keelson::{
    ExecRequest, ExecStart, StdinEnd, TerminalSize, exec_request::Message as In,
    exec_response::Message as Out,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::*;

/// What the other side of a connection said, in the order of its frames.
#[derive(Debug, PartialEq)]
enum Said {
    Opened(u32, String),
    Data(u32, String),
    Ended(u32),
}

/// A server's side of one connection.
struct Server {
    connection: TcpStream,
    /// Stream ids by kind, as the client opened them.
    opened: Vec<(String, u32)>,
}

impl Server {
    /// Take a connection and its upgrade.
    async fn accept(listener: &TcpListener) -> Self {
        let (mut connection, _) = listener.accept().await.expect("accept");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.expect("a head"));
        }
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("POST /exec/c1 HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("Upgrade: SPDY/3.1\r\n")
                && head.contains("X-Stream-Protocol-Version: v4.channel.k8s.io\r\n")
        );
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
        connection.write_all(answer.as_bytes()).await.expect("write");
        Self {
            connection,
            opened: Vec::new(),
        }
    }

    async fn next(&mut self) -> Said {
        let mut head = [0; 8];
        self.connection.read_exact(&mut head).await.expect("a frame");
        let mut body = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
        self.connection.read_exact(&mut body).await.expect("its body");
        let word = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        if head[0] & 0x80 == 0 {
            let stream = word(&head[..4]);
            return if head[4] & 1 == 1 {
                Said::Ended(stream)
            } else {
                Said::Data(stream, String::from_utf8(body).expect("text"))
            };
        }
        assert_eq!(&head[..4], [0x80, 3, 0, 1], "only streams are opened");
        // The kind is the last thing of the stored block, after its length; an empty block flushes it out.
        let block = body.strip_suffix(&[0, 0, 0, 0xff, 0xff]).expect("a flush");
        let kind = ["error", "stdin", "stdout", "stderr", "resize"]
            .into_iter()
            .find(|kind| block.ends_with(kind.as_bytes()))
            .expect("a kind");
        let stream = word(&body[..4]);
        self.opened.push((kind.to_owned(), stream));
        Said::Opened(stream, kind.to_owned())
    }

    async fn data(&mut self, kind: &str, data: &[u8], last: bool) {
        let stream = self
            .opened
            .iter()
            .find(|(opened, _)| opened == kind)
            .expect("opened")
            .1;
        let length = u32::try_from(data.len()).expect("short").to_be_bytes();
        let head = [&stream.to_be_bytes()[..], &[u8::from(last)], &length[1..]].concat();
        self.connection
            .write_all(&[&head, data].concat())
            .await
            .expect("write");
    }

    /// Read the opening frames.
    async fn opening(&mut self, kinds: &[&str]) {
        for kind in kinds {
            let Said::Opened(_, opened) = self.next().await else {
                panic!("not all streams were opened");
            };
            assert_eq!(opened, *kind);
        }
    }
}

/// A bench with a running container whose commands go to the listener.
async fn bench(name: &str) -> (Bench, TcpListener) {
    let bench = Bench::bare(name).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    bench.runtime.lock().streaming = listener.local_addr().expect("an address").to_string();
    bench.put_pod(json!({ "metadata": { "name": "p", "namespace": "default", "uid": "u1" },
        "spec": { "containers": [{ "name": "c" }, { "name": "d" }] },
        "status": { "phase": "Running", "containerStatuses": [
            { "name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "", "containerID": "containerd://c1", "state": { "running": {} } },
            { "name": "d", "ready": false, "restartCount": 0, "image": "", "imageID": "", "containerID": "containerd://d1",
              "state": { "terminated": { "exitCode": 3, "reason": "Error" } } }] } }));
    (bench, listener)
}

fn start(stdin: bool, tty: bool) -> ExecStart {
    ExecStart {
        namespace: "default".to_owned(),
        pod: "p".to_owned(),
        container: String::new(),
        command: vec!["sh".to_owned()],
        stdin,
        tty,
        size: tty.then_some(TerminalSize {
            columns: 80,
            rows: 24,
        }),
    }
}

fn message(message: In) -> ExecRequest {
    ExecRequest {
        message: Some(message),
    }
}

type Answers = tonic::Streaming<keelson_proto::keelson::ExecResponse>;

/// Begin a command with these requests already said.
async fn begin(bench: &mut Bench, first: ExecStart) -> (mpsc::Sender<ExecRequest>, Result<Answers, Status>) {
    let (sender, receiver) = mpsc::channel(16);
    sender.send(message(In::Start(first))).await.expect("room");
    let answers = timeout(LIMIT, bench.client.exec(ReceiverStream::new(receiver)))
        .await
        .expect("in time");
    (sender, answers.map(tonic::Response::into_inner))
}

async fn next(answers: &mut Answers) -> Result<Option<Out>, Status> {
    let answer = timeout(LIMIT, answers.message()).await.expect("in time")?;
    Ok(answer.and_then(|answer| answer.message))
}

#[tokio::test]
async fn a_pipe_is_read_to_its_end_and_the_exit_code_comes_last() {
    let (mut bench, listener) = bench("control-exec-pipe").await;
    let server = tokio::spawn(async move {
        let mut server = Server::accept(&listener).await;
        server.opening(&["error", "stdin", "stdout", "stderr"]).await;
        let mut heard = String::new();
        loop {
            match server.next().await {
                Said::Data(3, text) => heard.push_str(&text),
                Said::Ended(3) => break,
                other => panic!("{other:?}"),
            }
        }
        server
            .data("stdout", heard.to_uppercase().as_bytes(), false)
            .await;
        server.data("stderr", b"careful", true).await;
        server.data("stdout", b"", true).await;
        let status = br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        server.data("error", status, true).await;
    });
    let (sender, answers) = begin(&mut bench, start(true, false)).await;
    let mut answers = answers.expect("it runs");
    sender
        .send(message(In::Stdin(b"hello ".to_vec())))
        .await
        .expect("sent");
    sender
        .send(message(In::Stdin(b"there".to_vec())))
        .await
        .expect("sent");
    sender
        .send(message(In::StdinEnd(StdinEnd {})))
        .await
        .expect("sent");
    assert_eq!(
        next(&mut answers).await.expect("fine"),
        Some(Out::Stdout(b"HELLO THERE".to_vec()))
    );
    assert_eq!(
        next(&mut answers).await.expect("fine"),
        Some(Out::Stderr(b"careful".to_vec()))
    );
    assert_eq!(next(&mut answers).await.expect("fine"), Some(Out::ExitCode(42)));
    assert_eq!(next(&mut answers).await.expect("fine"), None);
    server.await.expect("no panic");
    assert!(
        bench.runtime.lock().calls.iter().any(|call| call.contains("c1")),
        "the running container of the two"
    );
    drop(sender);
    bench.end().await;
}

#[tokio::test]
async fn a_terminal_has_one_output_and_follows_the_callers_size() {
    let (mut bench, listener) = bench("control-exec-tty").await;
    let server = tokio::spawn(async move {
        let mut server = Server::accept(&listener).await;
        server.opening(&["error", "stdin", "stdout", "resize"]).await;
        assert_eq!(
            server.next().await,
            Said::Data(9, "{\"Width\":80,\"Height\":24}\n".to_owned())
        );
        assert_eq!(
            server.next().await,
            Said::Data(9, "{\"Width\":100,\"Height\":30}\n".to_owned())
        );
        server.data("stdout", b"$ ", true).await;
        server.data("error", br#"{"status":"Success"}"#, true).await;
    });
    let (sender, answers) = begin(&mut bench, start(true, true)).await;
    let mut answers = answers.expect("it runs");
    let size = TerminalSize {
        columns: 100,
        rows: 30,
    };
    sender.send(message(In::Resize(size))).await.expect("sent");
    assert_eq!(
        next(&mut answers).await.expect("fine"),
        Some(Out::Stdout(b"$ ".to_vec()))
    );
    assert_eq!(next(&mut answers).await.expect("fine"), Some(Out::ExitCode(0)));
    server.await.expect("no panic");
    drop(sender);
    bench.end().await;
}

#[tokio::test]
async fn much_output_and_much_input_at_once_do_not_block_each_other() {
    let (mut bench, listener) = bench("control-exec-much").await;
    const PARTS: usize = 200;
    let server = tokio::spawn(async move {
        let mut server = Server::accept(&listener).await;
        server.opening(&["error", "stdin", "stdout", "stderr"]).await;
        // Writes all before it reads anything, as a command may.
        for _ in 0..PARTS {
            server.data("stdout", &[b'o'; 16 << 10], false).await;
        }
        let mut heard = 0;
        loop {
            match server.next().await {
                Said::Data(3, text) => heard += text.len(),
                Said::Ended(3) => break,
                other => panic!("{other:?}"),
            }
        }
        server.data("stderr", b"", true).await;
        server.data("stdout", b"", true).await;
        server.data("error", b"", true).await;
        heard
    });
    let (sender, answers) = begin(&mut bench, start(true, false)).await;
    let mut answers = answers.expect("it runs");
    let writer = tokio::spawn(async move {
        for _ in 0..PARTS {
            sender
                .send(message(In::Stdin(vec![b'i'; 16 << 10])))
                .await
                .expect("sent");
        }
        sender
            .send(message(In::StdinEnd(StdinEnd {})))
            .await
            .expect("sent");
        sender
    });
    let mut read = 0;
    loop {
        match next(&mut answers).await.expect("fine") {
            Some(Out::Stdout(data)) => read += data.len(),
            Some(Out::ExitCode(0)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read, PARTS * (16 << 10));
    assert_eq!(server.await.expect("no panic"), PARTS * (16 << 10));
    drop(writer.await.expect("no panic"));
    bench.end().await;
}

#[tokio::test]
async fn a_command_that_cannot_run_is_told_with_the_cause() {
    let (mut bench, listener) = bench("control-exec-refused").await;
    for (change, code, expected) in [
        (
            (|start: &mut ExecStart| start.pod = "x".to_owned()) as fn(&mut ExecStart),
            Code::NotFound,
            "pods \"x\" not found",
        ),
        (
            |start| start.container = "x".to_owned(),
            Code::InvalidArgument,
            "it has c, d",
        ),
        (
            |start| start.container = "d".to_owned(),
            Code::FailedPrecondition,
            "container \"d\" of pod default/p is not running: it ended with exit code 3 (Error)",
        ),
        (|start| start.command.clear(), Code::InvalidArgument, "no command"),
    ] {
        let mut wanted = start(false, false);
        change(&mut wanted);
        let (_sender, answers) = begin(&mut bench, wanted).await;
        let status = answers.expect_err(expected);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status}");
    }
    // The server breaks off before it tells the end.
    let server = tokio::spawn(async move {
        let mut server = Server::accept(&listener).await;
        server.opening(&["error", "stdout", "stderr"]).await;
    });
    let (_sender, answers) = begin(&mut bench, start(false, false)).await;
    let status = next(&mut answers.expect("begins")).await.expect_err("told");
    assert!(
        status.message().contains("before it told how the command ended"),
        "{status}"
    );
    server.await.expect("no panic");
    // Nobody listens there any more.
    let (_sender, answers) = begin(&mut bench, start(false, false)).await;
    let status = answers.expect_err("refused");
    assert!(
        status
            .message()
            .contains("connect to the runtime's streaming server at 127.0.0.1:"),
        "{status}"
    );
    bench.runtime.lock().down = true;
    let (_sender, answers) = begin(&mut bench, start(false, false)).await;
    assert_eq!(answers.expect_err("refused").code(), Code::Unavailable);
    bench.end().await;
}
