//! The command line: `keelson node` is the agent, everything else talks to it.

mod apply;
mod args;
mod check;
mod cleanup;
mod client;
pub mod columns;
mod delete;
mod describe;
pub mod duration;
mod exec;
mod explain;
mod files;
mod get;
mod logs;
mod pods;
mod print;
mod programmed;
mod rollout;
mod table;
mod target;
mod terminal;
mod wait;

use std::{io::IsTerminal, path::Path, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use keelson_proto::keelson::VersionRequest;
use tokio::runtime::Builder;
use tracing::info;
use tracing_subscriber::{EnvFilter, fmt};

use self::args::{Cli, Command, LogFormat, Proxy, Rollout};
use crate::{
    app,
    config::{Config, Flags},
};

/// Threads of the agent: its work is waiting, and its memory counts.
const AGENT_THREADS: usize = 4;

/// Understand the command line and do it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Node(args) => {
            agent(args.config.as_deref(), &Flags::default(), args.log_format).map(|()| ExitCode::SUCCESS)
        }
        Command::Proxy(args) => proxy(args).map(|()| ExitCode::SUCCESS),
        _ => Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the asynchronous runtime")
            .and_then(|runtime| {
                let outcome = runtime.block_on(command(&cli));
                // A thread may still wait for a key: do not wait for it.
                runtime.shutdown_background();
                outcome
            }),
    };
    match outcome {
        Ok(code) => code,
        // Whoever closes our output has seen enough.
        Err(error) if error.is::<print::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Run an agent until it is told to end.
fn agent(config: Option<&Path>, flags: &Flags, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    let config = Config::read(config, flags)?;
    for note in &config.notes {
        info!("configuration: {note}");
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads.clamp(1, AGENT_THREADS))
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?;
    let outcome = runtime.block_on(app::run(config));
    runtime.shutdown_background();
    outcome
}

fn proxy(args: &Proxy) -> anyhow::Result<()> {
    if args.cleanup {
        return cleanup::run(&Config::read(args.config.as_deref(), &args.flags())?);
    }
    agent(args.config.as_deref(), &args.flags(), args.log_format)
}

async fn command(cli: &Cli) -> anyhow::Result<ExitCode> {
    if let Command::Check(args) = &cli.command {
        return check::run(&cli.socket, args).await.map(code);
    }
    if let Command::Version = &cli.command {
        return version(cli).await;
    }
    let mut client = client::connect(&cli.socket).await?;
    let client = &mut client;
    match &cli.command {
        Command::Apply(args) => apply::run(client, args).await.map(code),
        Command::Delete(args) => delete::run(client, args).await.map(code),
        Command::Get(args) => get::run(client, args).await.map(code),
        Command::Describe(args) => describe::run(client, args).await.map(|()| code(true)),
        Command::Logs(args) => logs::run(client, args).await.map(|()| code(true)),
        Command::Exec(args) => exec::run(client, args).await,
        Command::Explain(args) => explain::run(client, args).await.map(|()| code(true)),
        Command::Wait(args) => wait::run(client, args).await.map(|()| code(true)),
        Command::Rollout(Rollout::Status(args)) => rollout::run(client, args).await.map(|()| code(true)),
        // Done above.
        Command::Node(_) | Command::Proxy(_) | Command::Check(_) | Command::Version => Ok(code(true)),
    }
}

fn code(fine: bool) -> ExitCode {
    if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The command line's own version needs no agent; the agent's is told where one answers.
async fn version(cli: &Cli) -> anyhow::Result<ExitCode> {
    print::text(&format!("Client: {}\n", env!("CARGO_PKG_VERSION")))?;
    let mut client = client::connect(&cli.socket).await?;
    let version = client
        .version(VersionRequest {})
        .await
        .map_err(|status| client::refused(&status))?
        .into_inner();
    print::text(&format!(
        "Agent: {} on node {}\n",
        version.version, version.node_name
    ))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_kubectls_users_type_is_understood() {
        for line in [
            "get po -A -o wide -w",
            "get deploy,svc,ep -n x --no-headers",
            "get pod/a svc/b -o yaml",
            "get pods -l app=web,tier!=a --show-labels",
            "apply -f - --dry-run=server",
            "apply -f a -f b -n x --dry-run",
            "delete pod a b --grace-period=0 --force=x",
            "delete pod a --now --wait=false",
            "delete -f x.yaml --ignore-not-found --timeout 30s",
            "logs -f web -c nginx --tail=20 --since 1h --timestamps",
            "logs -p web nginx",
            "logs -l app=web --prefix",
            "exec -it web -c nginx -- sh -c true",
            "exec deployment/web -- ls -l",
            "wait --for=condition=Ready pod/a --timeout=60s",
            "rollout status deployment/web --timeout 1m",
            "describe pod web",
            "check",
            "version",
            "node --config x",
            "proxy --config x --hostname-override=n --cluster-cidr 10.0.0.0/8,fd00::/48 --nodeport-addresses a,b",
            "proxy --healthz-bind-address= --oom-score-adj -999 --masquerade-all",
            "proxy --cleanup --bpf /x",
            "check --proxy",
            "explain 10.0.0.1:1 10.96.0.1:80 -p UDP --from pod default/a -o yaml",
            "explain 10.96.0.1:80 --from host",
            "--socket /x get nodes",
            "get --socket /x nodes",
        ] {
            let words = std::iter::once("keelson").chain(line.split(' '));
            let outcome = Cli::try_parse_from(words);
            let expected = !line.contains("--force=x");
            assert_eq!(outcome.is_ok(), expected, "{line}: {outcome:?}");
        }
    }

    #[test]
    fn the_help_of_every_command_can_be_read() {
        let mut pending = vec![Cli::command()];
        while let Some(mut command) = pending.pop() {
            let help = command.render_long_help().to_string();
            assert!(command.get_about().is_some(), "{}", command.get_name());
            assert!(help.len() > 100, "{}: {help}", command.get_name());
            pending.extend(command.get_subcommands().cloned());
        }
    }
}
