//! KIND NAME… and KIND/NAME… on the command line.

use anyhow::bail;

use crate::control::{list::unknown, resource::Resource};

/// Objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Their kind.
    pub resource: Resource,
    /// Whether it was called endpoints.
    pub endpoints: bool,
    /// Their names; none = all.
    pub names: Vec<String>,
}

impl Target {
    fn new(word: &str, names: Vec<String>) -> anyhow::Result<Self> {
        let Some(resource) = Resource::named(word) else {
            bail!("error: {}", unknown(word));
        };
        Ok(Self {
            resource,
            endpoints: matches!(word.to_ascii_lowercase().as_str(), "endpoints" | "ep"),
            names,
        })
    }
}

/// What `all` means.
const ALL: [&str; 3] = ["pods", "services", "deployments"];

/// Understand the words.
pub fn parse(words: &[String]) -> anyhow::Result<Vec<Target>> {
    let Some((first, rest)) = words.split_first() else {
        bail!("error: name a kind, such as pods");
    };
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
                    Target::new(kind, vec![name.to_owned()])
                }
                _ => bail!("error: {word:?}: where one word is KIND/NAME, all must be"),
            })
            .collect();
    }
    let mut targets = Vec::new();
    for word in first.split(',').filter(|word| !word.is_empty()) {
        if word == "all" {
            if !rest.is_empty() {
                bail!("error: `all` takes no names");
            }
            for word in ALL {
                targets.push(Target::new(word, Vec::new())?);
            }
        } else {
            targets.push(Target::new(word, rest.to_vec())?);
        }
    }
    if targets.is_empty() {
        bail!("error: name a kind, such as pods");
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_names_are_told_apart() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let shown = |text: &str| -> Result<String, String> {
            let targets = parse(&words(text)).map_err(|error| error.to_string())?;
            let shown: Vec<String> = targets
                .iter()
                .map(|target| format!("{}:{}", target.resource, target.names.join("+")))
                .collect();
            Ok(shown.join(" "))
        };
        for (text, expected) in [
            ("po", Ok("pods:")),
            ("pods a b", Ok("pods:a+b")),
            ("po,svc,deploy", Ok("pods: services: deployments:")),
            ("pod/a svc/b", Ok("pods:a services:b")),
            ("all", Ok("pods: services: deployments:")),
            ("deployments.apps web", Ok("deployments:web")),
            ("pod/a b", Err("all must be")),
            ("pod/", Err("all must be")),
            ("ingress", Err("no resource type \"ingress\"")),
            ("all x", Err("takes no names")),
            (",", Err("name a kind")),
        ] {
            match (shown(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
                (found, expected) => panic!("{text}: {found:?} instead of {expected:?}"),
            }
        }
        assert!(parse(&words("ep")).expect("fine")[0].endpoints);
        assert!(!parse(&words("endpointslices")).expect("fine")[0].endpoints);
    }
}
