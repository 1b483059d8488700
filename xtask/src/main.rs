//! The front door: setup, build, up, down, test, bench, check, image.
//!
//! | room | job |
//! |---|---|
//! | `setup` | what the machine needs, and how to install it |
//! | `bpf` | builds the kernel programs with whichever toolchain is there |
//! | `build` | the programs, then the binaries |
//! | `image` | OCI image tars, written without a container engine |
//! | `test` | the stages of the suite, their times and their sum |
//! | `check` | format, clippy, licences, docs |
//! | `run` | child processes |
//!
//! Everything else of the workspace stays out of its dependencies: it must start within seconds of a cold clone.

mod bpf;
mod build;
mod check;
mod image;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  setup [--check]         install what is missing (Debian, Ubuntu); --check only tells
  build                   kernel programs and binaries (debug)
  up [--check]            a throw-away node with the demo; --check asserts it and leaves nothing behind
  up --nodes N            N connected nodes, the demo on the first, its Service on all
  down                    remove the node that `up` made
  test [--rung N] [--only NAME] [--long]
                          every test, or those of one rung (1-4), or those whose file is NAME
  bench                   the benchmarks; figures go to target/bench/latest.json
  check                   format, clippy, licences, docs
  keelson -- ARGUMENTS    the command line, connected to the node that `up` made
  image [NAME ...]        image tars into target/images: busybox, nginx, echo, pause (all without NAME)
  image --folder DIR | --packages P1,P2  --name NAME[:TAG] [--entrypoint WORD]... [--cmd WORD]... [--env KEY=VALUE]...
                          [--user USER]: an image from a folder or from Debian packages and the libraries they need";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let (command, rest) = arguments
        .split_first()
        .map_or(("help", &[][..]), |(first, rest)| (first.as_str(), rest));
    match command {
        "setup" => setup::run(rest),
        "build" => build::run(),
        "up" | "down" => build::demo(command, rest),
        "test" => test::run(rest),
        "bench" => build::bench(rest),
        "check" => check::run(),
        "image" => image::run(rest),
        "keelson" => build::keelson(rest),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("unknown command {other:?}\n\n{HELP}"),
    }
}
