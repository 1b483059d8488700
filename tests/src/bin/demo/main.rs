//! The demo: a throw-away node with a Deployment behind a NodePort Service, told step by step, each step checked.
//!
//! | room | job |
//! |---|---|
//! | `story` | what is shown, and what must be true for it |
//! | `several` | the same on several connected nodes |
//! | `forward` | lets the calling shell reach the node: listens on 127.0.0.1, connects from the client's namespace |
//! | `state` | the node that was left running, so that `down` and `keelson` find it |

mod forward;
mod several;
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

const HELP: &str = "keelson-demo up [--check | --nodes N] | down | keelson ARGUMENTS...";

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
        ["up"] => up(story::up),
        ["up", "--nodes", count] => {
            let count: u8 = count.parse().with_context(|| format!("--nodes {count:?}"))?;
            ensure!((1..=8).contains(&count), "--nodes {count}: from 1 to 8");
            up(|| several::up(count))
        }
        ["up", "--check"] => story::check(),
        ["down"] => down(),
        ["keelson", rest @ ..] => keelson(rest),
        ["forward", pid, target] => forward::serve(pid.parse()?, target.parse()?),
        _ => bail!("{HELP}"),
    }
}

fn up(story: impl FnOnce() -> Result<()>) -> Result<()> {
    if let Some(state) = State::load()? {
        ensure!(
            !state.is_alive(),
            "a node is up already (http://127.0.0.1:{}); `cargo xtask down` removes it",
            state.port
        );
        // It died without `down`: the machine was restarted, or somebody ended it.
        remove(&state)?;
    }
    story()
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
    let also = state.also.iter().map(|one| (&one.cgroup, one.folder.as_ref()));
    for (cgroup, folder) in [(&state.cgroup, Some(&state.folder))].into_iter().chain(also) {
        Cgroup::create(cgroup)?.remove()?;
        if let Some(folder) = folder.filter(|folder| folder.exists()) {
            fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
        }
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
