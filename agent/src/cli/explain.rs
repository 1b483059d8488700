//! `keelson explain`

use anyhow::{Context as _, bail};
use keelson_proto::keelson::{ExplainRequest, explain_request::From as FromWhere};
use serde_json::Value;

use super::{
    args::{Explain, Form},
    client::{Client, refused, text},
    print,
};
use crate::control::yaml_text;

/// Ask, and show the answer.
pub async fn run(client: &mut Client, args: &Explain) -> anyhow::Result<()> {
    let request = request(args)?;
    let answer = client
        .explain(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    let answer: Value = serde_json::from_slice(&answer.explanation).context("read the agent's answer")?;
    match args.output {
        Some(Form::Json) => print::text(&format!("{}\n", serde_json::to_string_pretty(&answer)?)),
        Some(Form::Yaml) => print::text(&yaml_text::yaml(&answer).map_err(anyhow::Error::msg)?),
        form => print::text(&page(&answer, form == Some(Form::Wide))),
    }
}

fn request(args: &Explain) -> anyhow::Result<ExplainRequest> {
    let (source, destination) = match args.addresses.as_slice() {
        [destination] => ("", destination.as_str()),
        [source, destination] => (source.as_str(), destination.as_str()),
        _ => bail!("error: one destination is needed, and a source may stand before it"),
    };
    let words: Vec<&str> = args.from.iter().map(String::as_str).collect();
    let from = match words.as_slice() {
        [] => None,
        ["host"] => Some(FromWhere::Host(true)),
        ["pod", name] => Some(FromWhere::Pod((*name).to_owned())),
        ["interface", name] => Some(FromWhere::Interface((*name).to_owned())),
        other => bail!(
            "error: --from {}: say `pod NAMESPACE/NAME`, `host` or `interface NAME`",
            other.join(" ")
        ),
    };
    Ok(ExplainRequest {
        source: source.to_owned(),
        destination: destination.to_owned(),
        protocol: args.protocol.clone(),
        from,
    })
}

/// The answer as people read it.
fn page(answer: &Value, wide: bool) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            page.push_str(&format!("{name:<12} {value}\n"));
        }
    };
    let pair = |path: &str| {
        let end = |which: &str| text(answer, &format!("/{path}/{which}")).to_owned();
        format!("{} -> {}", end("source"), end("destination"))
    };
    line(
        "Packet:",
        &format!("{} {}", text(answer, "/protocol"), pair("before")),
    );
    line("From:", text(answer, "/from"));
    line("Verdict:", text(answer, "/verdict"));
    if pair("after") != pair("before") {
        line("Becomes:", &pair("after"));
    }
    if let Some(endpoint) = answer.get("endpoint") {
        line("Endpoint:", &target(endpoint, wide));
    }
    page.push_str("Why:\n");
    for reason in list(answer, "reasons") {
        let about = format!("{}:", text(reason, "/about"));
        page.push_str(&format!("  {about:<14} {}\n", text(reason, "/found")));
    }
    let candidates = list(answer, "candidates");
    if candidates.len() > 1 {
        page.push_str("Candidates:\n");
        for candidate in candidates {
            page.push_str(&format!("  {}\n", target(candidate, wide)));
        }
    }
    page
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn target(target: &Value, wide: bool) -> String {
    let mut shown = text(target, "/address").to_owned();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            shown.push_str(&format!(" {name} {value}"));
        }
    };
    add("pod", text(target, "/pod"));
    if wide {
        add("node", text(target, "/node"));
    }
    if target.get("terminating") == Some(&Value::Bool(true)) {
        shown.push_str(" (terminating)");
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_a_page_with_its_reasons_and_candidates() {
        let answer = json!({
            "protocol": "TCP",
            "from": "pod default/a, by device k1",
            "before": { "source": "10.244.0.5:1", "destination": "10.96.0.1:80" },
            "after": { "source": "10.244.0.5:1", "destination": "10.244.0.7:8080" },
            "verdict": "delivered",
            "endpoint": { "address": "10.244.0.7:8080", "pod": "default/b", "node": "n1" },
            "candidates": [
                { "address": "10.244.0.7:8080", "pod": "default/b", "node": "n1" },
                { "address": "10.244.0.8:8080", "terminating": true },
            ],
            "reasons": [{ "about": "choice", "found": "at random, of 2" }],
        });
        let page = page(&answer, true);
        for line in [
            "Packet:      TCP 10.244.0.5:1 -> 10.96.0.1:80",
            "Becomes:     10.244.0.5:1 -> 10.244.0.7:8080",
            "Endpoint:    10.244.0.7:8080 pod default/b node n1",
            "  choice:        at random, of 2",
            "  10.244.0.8:8080 (terminating)",
        ] {
            assert!(page.lines().any(|found| found == line), "{line:?} in\n{page}");
        }
    }
}
