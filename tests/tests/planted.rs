//! The known bugs that `ops/planted` plants, and the tests that documents name: they go with the tree as it is.
#![expect(clippy::unwrap_used, reason = "a test fails by it, its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use roundsman_tests::spawn;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every function of every test in the sources, which is what the last part of a test's name is.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> =
        ["shared", "worker", "master", "supervisor", "ops", "tests"].map(|name| root().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let names =
                    text.lines().filter_map(|line| line.trim_start().split("fn ").nth(1)?.split('(').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    found
}

#[track_caller]
fn demand_there(names: &[String]) {
    let functions = functions();
    let missing: Vec<_> =
        names.iter().filter(|name| !functions.contains(name.rsplit("::").next().unwrap())).collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:?}");
}

#[test]
fn every_known_bug_can_be_planted_and_names_its_test() {
    let (mut count, mut names) = (0, Vec::new());
    for entry in fs::read_dir(root().join("tests/planted")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let field =
            |name: &str| text.lines().filter_map(move |line| line.strip_prefix(name)).collect::<Vec<_>>();
        for name in ["Bug: ", "Breaks: ", "In: "] {
            assert_eq!(field(name).len(), 1, "{}: one line {name:?}", path.display());
        }
        let caught = field("Caught by: ");
        assert!(!caught.is_empty(), "{}", path.display());
        names.extend(caught.into_iter().map(str::to_owned));
        let mut patch = spawn::command("patch");
        patch.args(["-p1", "-s", "--dry-run", "-i"]).arg(&path).current_dir(root()).stdin(Stdio::null());
        let done = spawn::output(patch).unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{} does not apply any more: {said}", path.display());
        count += 1;
    }
    assert!(count >= 20, "{count} bugs");
    demand_there(&names);
}

#[test]
fn every_weakness_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("ops/docs/weaknesses.md")).unwrap();
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")).collect();
    assert_eq!(rows.len(), 31);
    let shown = rows.iter().flat_map(|row| {
        let (_, shown) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        let names: Vec<String> = shown.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert!(!names.is_empty(), "{row}");
        names
    });
    demand_there(&shown.collect::<Vec<_>>());
}
