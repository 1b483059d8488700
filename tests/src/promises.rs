//! The list of what Services promise names tests that exist, and nothing in it is without one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every source of the workspace.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && name != ".git" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| tests_in(&text)).collect()
}

/// Functions behind a test attribute; others may stand between the two.
fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        }
        let start = ["fn ", "async fn "]
            .iter()
            .find_map(|start| line.strip_prefix(start));
        if let Some(rest) = start.filter(|_| marked) {
            names.extend(rest.split(['(', '<']).next().map(str::to_owned));
            marked = false;
        }
    }
    names
}

/// Both columns of every row of every table.
fn rows(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| line.starts_with('|'));
    let columns = lines.filter_map(|line| line.trim_matches('|').rsplit_once('|'));
    let rows = columns.map(|(fact, tests)| (fact.trim(), tests.trim()));
    rows.filter(|(fact, _)| *fact != "fact" && !fact.starts_with("---"))
        .collect()
}

#[test]
fn every_promise_names_a_test_that_exists_or_says_why_there_is_none() {
    let text = fs::read_to_string(root().join("tests/SERVICES.md")).expect("the list");
    let known = tests();
    let rows = rows(&text);
    assert!(rows.len() > 50, "only {} promises were read", rows.len());
    for (fact, named) in rows {
        if named.starts_with("left out: ") {
            continue;
        }
        let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{fact:?} names no test");
        for name in names {
            assert!(known.contains(name), "{fact:?} names {name}, which is no test");
        }
    }
}

#[test]
fn tests_are_found_by_their_attribute() {
    let text = "#[test]\n#[expect(dead_code)]\nfn one() {}\nfn two() {}\n    #[tokio::test(start_paused = true)]\n    async fn three() {}";
    assert_eq!(tests_in(text), ["one", "three"]);
    assert_eq!(
        rows("| fact | test |\n|---|---|\n| a | `b` |\ntext"),
        [("a", "`b`")]
    );
}
