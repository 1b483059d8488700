//! `keelson proxy --cleanup`: everything that carried Services is taken away; needs no agent, and none may run.

use anyhow::{Context as _, bail};
use keelson_dataplane::{Dataplane, Removed};

use super::print;
use crate::{config::Config, control::socket, loops::network};

/// Take it all away, and say what went.
pub fn run(config: &Config) -> anyhow::Result<()> {
    if socket::is_served(&config.socket()) {
        bail!(
            "an agent runs on this node ({} answers) and would make everything again; stop it first",
            config.socket().display()
        );
    }
    let removed = Dataplane::clean_up(&network::paths(config)).context("remove the dataplane")?;
    print::text(&told(&removed))
}

fn told(removed: &Removed) -> String {
    let mut text = String::new();
    let mut line = |what: &str| {
        text.push_str(what);
        text.push('\n');
    };
    if removed.kept_pods > 0 {
        line(&format!(
            "{} pods' links use the programs: Services were taken out, the pods' network stays until their links are gone",
            removed.kept_pods
        ));
    } else if removed.loaded {
        line("programs, maps and devices removed");
    } else {
        line("nothing was loaded");
    }
    let back = &removed.handed_back;
    if back.given > 0 {
        line(&format!(
            "{} connections handed to the kernel's connection tracker",
            back.given
        ));
    }
    for (reason, count) in &back.kept {
        line(&format!("{count} connections not handed over: {reason}"));
    }
    for failure in &back.failures {
        line(failure);
    }
    for setting in &removed.settings {
        line(setting);
    }
    text
}
