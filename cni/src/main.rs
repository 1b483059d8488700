//! The plugin binary: one call of a runtime, one process. See the library for what it does.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use keelson_cni::{
    args::Environment,
    error::{Code, Error},
    store::Deadline,
    verbs::{self, Role},
    version::{self, SpecVersion},
};

/// A runtime that waits for a plugin blocks others meanwhile. What takes longer than this is told to come again; the
/// call's remains are repaired by the next one.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Locks give up a little earlier: their error names the lock.
const LOCK_LIMIT: Duration = Duration::from_millis(9_500);

fn main() -> ExitCode {
    let role = Role::of(&std::env::args().next().unwrap_or_default());
    let Some(env) = Environment::read(|name| std::env::var(name).ok()) else {
        eprintln!("CNI {} plugin v{}", role.name(), env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {}", version::supported());
        return ExitCode::SUCCESS;
    };
    let (send, receive) = mpsc::channel();
    // A call that hangs, wherever it hangs, must not keep this process: the main thread only waits and answers.
    thread::spawn(move || {
        let outcome = verbs::run(role, env, io::stdin().lock(), Deadline::after(LOCK_LIMIT));
        // The receiver is gone only when the time is up.
        let _ = send.send(outcome);
    });
    let outcome = receive.recv_timeout(TIME_LIMIT).unwrap_or_else(|cause| {
        let error = match cause {
            mpsc::RecvTimeoutError::Timeout => Error::new(
                Code::TryAgainLater,
                format!(
                    "the call took longer than {} s and was given up",
                    TIME_LIMIT.as_secs()
                ),
            )
            .details("the next call repairs what this one has begun"),
            mpsc::RecvTimeoutError::Disconnected => {
                Error::new(Code::Io, "the plugin panicked; its standard error says where")
            }
        };
        Err((error, SpecVersion::CURRENT))
    });
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err((error, version)) => (Some(error.to_json(version)), ExitCode::FAILURE),
    };
    let written = text.map_or(Ok(()), |text| writeln!(io::stdout(), "{text}"));
    if written.is_err() { ExitCode::FAILURE } else { code }
}
