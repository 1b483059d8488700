//! `keelson check`

use std::path::Path;

use keelson_proto::keelson::{CheckRequest, Finding, finding::Level};

use super::{
    args::Check,
    client::{self, refused},
    print,
};
use crate::{
    config::{Config, Flags},
    control::check::{self, Places},
};

/// Look at the machine, and ask the agent; false = something essential is missing.
pub async fn run(socket: &Path, args: &Check) -> anyhow::Result<bool> {
    let config = Config::read(args.config.as_deref(), &Flags::default())?;
    let mut places = Places::of(&config);
    for (given, place) in [
        (&args.containerd, &mut places.containerd),
        (&args.cni_bin_dir, &mut places.cni_bin_dir),
        (&args.cni_conf_dir, &mut places.cni_conf_dir),
    ] {
        if let Some(given) = given {
            place.clone_from(given);
        }
    }
    let here = if args.proxy {
        check::proxy(&places).await
    } else {
        check::node(&places).await
    };
    print::text(&page(&here))?;
    // The agent's socket is where its configuration says, unless the user says otherwise.
    let socket = match &args.config {
        Some(_) if std::env::var_os("KEELSON_SOCKET").is_none() => config.socket(),
        _ => socket.to_owned(),
    };
    let Ok(mut client) = client::connect(&socket).await else {
        print::text(&format!(
            "\nNo agent answers at {}; above is what the machine itself says.\n",
            socket.display()
        ))?;
        return Ok(!check::fails(&here));
    };
    let theirs = client
        .check(CheckRequest {})
        .await
        .map_err(|status| refused(&status))?
        .into_inner()
        .findings;
    // The agent may run in other namespaces or with other settings than this command: only what differs is news.
    let differing: Vec<Finding> = theirs
        .iter()
        .filter(|finding| !here.contains(finding))
        .cloned()
        .collect();
    print::text(&format!("\nThe agent at {} says:\n", socket.display()))?;
    if differing.is_empty() {
        print::text("  the same\n")?;
    } else {
        print::text(&page(&differing))?;
    }
    // What counts is what the agent sees: it does the work.
    Ok(!check::fails(&theirs))
}

/// One line for each finding, and what helps below it.
fn page(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.subject.chars().count())
        .max()
        .unwrap_or(0);
    let mut page = String::new();
    for finding in findings {
        let mark = match finding.level() {
            Level::Ok => "ok  ",
            Level::Warning => "warn",
            Level::Failed => "FAIL",
            Level::Unknown => "?   ",
        };
        page.push_str(&format!(
            "{mark}  {:<width$}  {}\n",
            finding.subject, finding.detail
        ));
        if !finding.help.is_empty() {
            page.push_str(&format!("{:<1$}  → {2}\n", "", width + 6, finding.help));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_stands_below_what_was_found() {
        let finding = |subject: &str, level: Level, help: &str| Finding {
            subject: subject.to_owned(),
            level: level.into(),
            detail: "found".to_owned(),
            help: help.to_owned(),
        };
        let text = page(&[
            finding("kernel", Level::Ok, ""),
            finding("x", Level::Failed, "do this"),
        ]);
        assert_eq!(
            text,
            "ok    kernel  found\nFAIL  x       found\n              → do this\n"
        );
    }
}
