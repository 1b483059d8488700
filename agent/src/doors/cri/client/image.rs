//! Images in messages, and the one the runtime holds sandboxes with: it must be there before any pod.

use keelson_proto::cri::{Image, ImageSpec};

use super::super::{Error, ImageInfo};

/// An image as a request names it.
pub fn spec(name: &str) -> ImageSpec {
    ImageSpec {
        image: name.to_owned(),
        user_specified_image: name.to_owned(),
        ..ImageSpec::default()
    }
}

/// An image as an answer describes it.
pub fn info(image: Image) -> ImageInfo {
    ImageInfo {
        id: image.id,
        repo_digests: image.repo_digests,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
        size: image.size,
        tags: image.repo_tags,
    }
}

/// The sandbox image in the configuration a runtime prints; the place moved between its versions.
pub fn configured(config: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    ["/sandboxImage", "/pinnedImages/sandbox", "/pinned_images/sandbox"]
        .into_iter()
        .find_map(|place| config.pointer(place)?.as_str())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

/// The sandbox image a runtime asked for in vain, told from its refusal to run a sandbox.
pub fn wanted(error: &Error) -> Option<&str> {
    let (_, rest) = error.message.split_once("failed to get sandbox image \"")?;
    rest.split_once('"').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::{super::super::ErrorKind, *};

    #[test]
    fn the_sandbox_image_is_found_in_every_generation_of_configuration() {
        for (config, expected) in [
            (r#"{"sandboxImage":"example/pause:1"}"#, Some("example/pause:1")),
            (
                r#"{"pinnedImages":{"sandbox":"example/pause:2"}}"#,
                Some("example/pause:2"),
            ),
            (r#"{"sandboxImage":""}"#, None),
            (r"{}", None),
            ("no json", None),
        ] {
            assert_eq!(configured(config).as_deref(), expected, "{config}");
        }
    }

    #[test]
    fn a_refusal_tells_the_sandbox_image() {
        let error = |message: &str| Error {
            operation: "run the sandbox of",
            object: "default/web".into(),
            kind: ErrorKind::Refused,
            message: message.into(),
        };
        let refusal = error("failed to get sandbox image \"example/pause:3\": failed to pull image");
        assert_eq!(wanted(&refusal), Some("example/pause:3"));
        assert_eq!(wanted(&error("no such network")), None);
    }
}
