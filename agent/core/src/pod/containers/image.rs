//! Whether a container's image is there, and what to do where it is not.

use k8s_openapi::api::core::v1 as api;

use super::{Decision, View, Waiting};
use crate::pod::{
    observed::{Pull, Trouble},
    spec,
};

impl View<'_> {
    pub(super) fn image(&self, container: &api::Container, image: &str) -> Result<(), Decision> {
        let state = self.observed.images.get(image).cloned().unwrap_or_default();
        let wait = |reason: &str, message: String| Decision::Wait(Waiting::new(reason, message));
        if let Some(problem) = name_problem(image) {
            let message = format!("image name \"{image}\" is not valid: {problem}");
            return Err(wait("InvalidImageName", message));
        }
        match spec::pull_policy(container) {
            "Never" if state.present => Ok(()),
            "Never" => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                Err(wait("ErrImageNeverPull", message))
            }
            "IfNotPresent" if state.present => Ok(()),
            _ => match state.pull {
                Pull::Done => Ok(()),
                Pull::Running => Err(Decision::Wait(self.creating(container))),
                Pull::Failed(Trouble { message, retry_at }) if retry_at > self.now => {
                    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {message}");
                    Err(Decision::Wait(Waiting::until(
                        "ImagePullBackOff",
                        message,
                        retry_at,
                    )))
                }
                Pull::Idle | Pull::Failed(_) => Err(Decision::Pull {
                    image: image.to_owned(),
                }),
            },
        }
    }
}

/// Why a name cannot be an image's: `[host[:port]/]path[:tag][@digest]`, the path in lower case.
fn name_problem(image: &str) -> Option<&'static str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some("what follows '@' is not a digest (sha256: and 64 hexadecimal digits)");
    }
    // A colon before the last '/' belongs to the host's port.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match name[last..].find(':') {
        Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
        None => (name, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some(
            "the tag must be 1 to 128 letters, digits, '_', '.' and '-', and not begin with '.' or '-'",
        );
    }
    let parts: Vec<&str> = path.split('/').collect();
    let parts = match &parts[..] {
        [host, rest @ ..] if !rest.is_empty() && is_host(host) => rest,
        all => all,
    };
    if parts.iter().all(|part| is_path_part(part)) {
        return None;
    }
    Some("the repository must be lower-case letters, digits and single '.', '_', '__' or '-' between them")
}

fn is_digest(digest: &str) -> bool {
    let hexadecimal = |c: char| c.is_ascii_digit() || matches!(c, 'a'..='f');
    digest.split_once(':').is_some_and(|(algorithm, hash)| {
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return false,
        };
        hash.len() == length && hash.chars().all(hexadecimal)
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// The first part is a host if it could not be a path: it has a dot, a port or capitals, or is `localhost`.
fn is_host(part: &str) -> bool {
    if let Some(rest) = part.strip_prefix('[') {
        let address = rest.split_once(']').map(|(address, _)| address);
        return address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let looks =
        part == "localhost" || part.contains(['.', ':']) || part.chars().any(|c| c.is_ascii_uppercase());
    let (host, port) = part
        .split_once(':')
        .map_or((part, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    looks && host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_path_part(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = part.split(word).filter(|between| !between.is_empty());
    part.starts_with(word)
        && part.ends_with(word)
        && separators
            .into_iter()
            .all(|between| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-'))
}
