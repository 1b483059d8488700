//! `keelson-bench serve` on one side, `keelson-bench rr|crr|stream|udp` on the other.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use clap::{Parser, Subcommand};
use keelson_bench::{
    client::{self, Kind, Load, Outcome},
    server::Server,
};

#[derive(Parser)]
#[command(
    version,
    about = "Measures a node network: request/response, connections, streams and datagrams",
    after_help = "Example: in one pod `keelson-bench serve`, in another\n  keelson-bench load rr 10.96.0.10:7700 --seconds 5 --connections 4 --json"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer every kind of load, TCP and UDP, until ended.
    Serve {
        /// Address and port.
        #[arg(long, default_value = "0.0.0.0:7700")]
        bind: SocketAddr,
    },
    /// Produce load for a bounded time and say what came of it.
    Load {
        /// Kind of load.
        kind: Kind,
        /// Server, or the Service before it.
        target: SocketAddr,
        /// How long.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Connections at once.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Bytes of a datagram (udp only).
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// One line of JSON instead of text.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Serve { bind } => {
            let server = Server::bind(bind).with_context(|| format!("binding {bind}"))?;
            eprintln!("serving TCP and UDP on {}", server.address()?);
            server.serve().context("serving")
        }
        Command::Load {
            kind,
            target,
            seconds,
            connections,
            size,
            json,
        } => {
            let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            let outcome = client::run(Load {
                kind,
                target,
                duration,
                connections,
                size,
            })?;
            print(&outcome, json)?;
            anyhow::ensure!(
                outcome.exchanges > 0,
                "no exchange with {target} ended well: {}",
                cause(&outcome)
            );
            Ok(())
        }
    }
}

fn cause(outcome: &Outcome) -> &str {
    outcome.last_error.as_deref().unwrap_or("no time")
}

fn print(outcome: &Outcome, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(outcome)?);
        return Ok(());
    }
    match outcome.kind {
        Kind::Stream => println!("{:.3} Gbit/s", outcome.rate / 1e9),
        Kind::Rr | Kind::Crr | Kind::Udp => println!(
            "{:.0}/s, p50 {:.1} µs, p90 {:.1}, p99 {:.1}, longest {:.1}",
            outcome.rate, outcome.p50_us, outcome.p90_us, outcome.p99_us, outcome.max_us
        ),
    }
    println!(
        "{} exchanges, {} failed{}",
        outcome.exchanges,
        outcome.errors,
        match &outcome.last_error {
            Some(error) => format!(" (last: {error})"),
            None => String::new(),
        }
    );
    Ok(())
}
