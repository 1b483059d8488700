//! What a name, a label and a port may look like.

/// Lower case letters, digits, `-` and `.`, as most objects are named; `None` = fine.
pub fn subdomain(name: &str) -> Option<String> {
    let fine = name.len() <= 253 && name.split('.').all(|part| is_label(part, 253));
    (!fine).then(|| {
        format!("{name:?} must be lower case letters, digits, '-' and '.', start and end with a letter or digit, at most 253")
    })
}

/// Lower case letters, digits and `-`, at most 63: namespaces and containers.
pub fn label(name: &str) -> Option<String> {
    (!is_label(name, 63)).then(|| {
        format!("{name:?} must be lower case letters, digits and '-', start and end with a letter or digit, at most 63")
    })
}

/// A label that starts with a letter: Services.
pub fn service(name: &str) -> Option<String> {
    let fine = is_label(name, 63) && name.starts_with(|c: char| c.is_ascii_lowercase());
    (!fine).then(|| {
        format!("{name:?} must be lower case letters, digits and '-', start with a letter, end with a letter or digit, at most 63")
    })
}

/// Name of a port in a pod: at most 15, at least one letter, no `--`.
pub fn port(name: &str) -> Option<String> {
    let fine = is_label(name, 15) && name.contains(|c: char| c.is_ascii_lowercase()) && !name.contains("--");
    (!fine).then(|| {
        format!("{name:?} must be lower case letters, digits and single '-', with a letter, at most 15")
    })
}

/// Key of a label or annotation: an optional DNS prefix with `/`, then letters, digits, `-`, `_`, `.`.
pub fn qualified(key: &str) -> Option<String> {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let fine = is_word(name, 63) && prefix.is_none_or(|prefix| subdomain(prefix).is_none());
    (!fine).then(|| {
        format!("key {key:?} must be letters, digits, '-', '_' and '.', at most 63, optionally after a DNS name and '/'")
    })
}

/// Value of a label.
pub fn label_value(value: &str) -> Option<String> {
    (!value.is_empty() && !is_word(value, 63))
        .then(|| format!("value {value:?} must be empty or letters, digits, '-', '_' and '.', at most 63"))
}

/// Key of a ConfigMap or Secret: it becomes the name of a file.
pub fn data_key(key: &str) -> Option<String> {
    let plain = key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let fine = plain && !key.is_empty() && key.len() <= 253 && !key.starts_with("..") && key != ".";
    (!fine).then(|| {
        format!("key {key:?} must be letters, digits, '-', '_' and '.', at most 253, and not start with '..'")
    })
}

fn is_label(name: &str, longest: usize) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= longest
        && name.starts_with(inner)
        && name.ends_with(inner)
        && name.chars().all(|c| inner(c) || c == '-')
}

fn is_word(name: &str, longest: usize) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    name.len() <= longest
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_kubernetes_takes_them() {
        for good in ["a", "a-b", "web-1.example", "0a"] {
            assert_eq!(subdomain(good), None);
        }
        for bad in [
            "",
            "A",
            "-a",
            "a-",
            "a..b",
            "a_b",
            "a/b",
            ".a",
            "a.",
            &"x".repeat(254),
        ] {
            assert!(subdomain(bad).is_some(), "{bad}");
        }
        assert!(label("a.b").is_some() && label(&"x".repeat(64)).is_some() && label("a1").is_none());
        assert!(service("1a").is_some() && service("a1").is_none());
        assert!(port("http").is_none() && port("80").is_some() && port("a--b").is_some());
        assert!(port("sixteen-letters-").is_some() && port("http-metrics-012").is_some());
        assert!(qualified("app.kubernetes.io/name").is_none() && qualified("a/b/c").is_some());
        assert!(qualified("/a").is_some() && qualified("a/").is_some() && qualified("").is_some());
        assert!(label_value("").is_none() && label_value("a b").is_some() && label_value("A_1").is_none());
        assert!(data_key("index.html").is_none() && data_key("..").is_some() && data_key("a/b").is_some());
        assert!(data_key(".env").is_none() && data_key("..data").is_some() && data_key("").is_some());
    }
}
