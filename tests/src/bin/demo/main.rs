//! The demo: a throw-away node with a Deployment behind a NodePort Service, told step by step, each step checked.
//!
//! | room | job |
//! |---|---|
//! | `story` | what is shown, and what must be true for it |
//! | `forward` | lets the calling shell reach the node: listens on 127.0.0.1, connects from the client's namespace |
//! | `state` | the node that was left running, so that `down` and `keelson` find it |

mod forward;
mod state;
mod story;

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use keelson_tests::{binaries, cgroup::Cgroup};
use state::State;

const HELP: &str = "keelson-demo up [--check] | down | keelson ARGUMENTS...";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up"] => up(),
        ["up", "--check"] => story::check(),
        ["down"] => down(),
        ["keelson", rest @ ..] => keelson(rest),
        ["forward", pid, target] => forward::serve(pid.parse()?, target.parse()?),
        _ => bail!("{HELP}"),
    }
}

fn up() -> Result<()> {
    if let Some(state) = State::load()? {
        ensure!(
            !state.is_alive(),
            "a node is up already (http://127.0.0.1:{}); `cargo xtask down` removes it",
            state.port
        );
        // It died without `down`: the machine was restarted, or somebody ended it.
        remove(&state)?;
    }
    story::up()
}

fn down() -> Result<()> {
    let Some(state) = State::load()? else {
        println!("no node is up");
        return Ok(());
    };
    remove(&state)?;
    println!("the node is gone: its processes, namespaces, mounts, cgroups and files");
    Ok(())
}

fn remove(state: &State) -> Result<()> {
    Cgroup::create(&state.cgroup)?.remove()?;
    if state.folder.exists() {
        fs::remove_dir_all(&state.folder).with_context(|| format!("removing {}", state.folder.display()))?;
    }
    State::forget()
}

/// Become the command line, connected to the node that is up.
fn keelson(arguments: &[&str]) -> Result<()> {
    let state = State::load()?
        .filter(State::is_alive)
        .context("no node is up: `cargo xtask up` makes one")?;
    let error = Command::new(binaries::find("keelson")?)
        .args(arguments)
        .env("KEELSON_SOCKET", state.socket())
        .exec();
    Err(error).context("starting keelson")
}
