//! The plugin binary: one call of a runtime, one process. See the library for what it does.

use std::{
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    let answered = Arc::new(AtomicBool::new(false));
    watch(answered.clone());
    // The call runs on the main thread: on a busy machine waking another one for its outcome takes longer than the call.
    let call = || verbs::run(role, env, io::stdin().lock(), Deadline::after(LOCK_LIMIT));
    let outcome = panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        let error = Error::new(
            Code::Io,
            "the plugin panicked; its standard error says where".to_owned(),
        );
        Err((error, SpecVersion::CURRENT))
    });
    if answered.swap(true, Ordering::SeqCst) {
        // The time was up a moment ago: whoever said so ends the process.
        loop {
            thread::park();
        }
    }
    ExitCode::from(answer(outcome))
}

/// A call that hangs, wherever it hangs, must not keep this process: when the time is up, this thread answers for it.
fn watch(answered: Arc<AtomicBool>) {
    thread::spawn(move || {
        thread::sleep(TIME_LIMIT);
        if answered.swap(true, Ordering::SeqCst) {
            return;
        }
        let error = Error::new(
            Code::TryAgainLater,
            format!(
                "the call took longer than {} s and was given up",
                TIME_LIMIT.as_secs()
            ),
        )
        .details("the next call repairs what this one has begun");
        process::exit(answer(Err((error, SpecVersion::CURRENT))).into());
    });
}

/// Prints the outcome; returns the process's exit code.
fn answer(outcome: Result<Option<String>, (Error, SpecVersion)>) -> u8 {
    let (text, code) = match outcome {
        Ok(text) => (text, 0),
        Err((error, version)) => (Some(error.to_json(version)), 1),
    };
    let written = text.map_or(Ok(()), |text| writeln!(io::stdout(), "{text}"));
    if written.is_err() { 1 } else { code }
}
