//! The floors of ARCHITECTURE.md, held against what cargo knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A crate's floor; `None` for those beside the house (`–`), which are never shipped.
type Floors = BTreeMap<String, Option<u32>>;

/// Reads the table `| floor | crate | owns | never |`.
fn floors_of(markdown: &str) -> Floors {
    let mut rows = markdown
        .lines()
        .skip_while(|line| !line.replace(' ', "").starts_with("|floor|crate|"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .peekable();
    assert!(
        rows.peek().is_some(),
        "ARCHITECTURE.md has no table of floors"
    );
    let mut floors = Floors::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let floor = match cells[1] {
            "–" | "-" => None,
            number => Some(number.parse().unwrap_or_else(|_| panic!("no floor: {row}"))),
        };
        for name in cells[2].split(',') {
            let name = name.trim().trim_matches('`').to_owned();
            let before = floors.insert(name, floor);
            assert!(before.is_none(), "twice in the table: {row}");
        }
    }
    floors
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is wrong, in words.
fn violations(floors: &Floors, metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &Value| package["name"].as_str().unwrap().to_owned();
    let in_workspace: BTreeSet<_> = packages.iter().map(name).collect();
    let mut wrong = Vec::new();
    for missing in in_workspace
        .iter()
        .filter(|name| !floors.contains_key(*name))
    {
        wrong.push(format!("{missing} is not in ARCHITECTURE.md's table"));
    }
    for gone in floors.keys().filter(|name| !in_workspace.contains(*name)) {
        wrong.push(format!(
            "{gone} is in ARCHITECTURE.md's table and not in the workspace"
        ));
    }
    for package in packages {
        let from = name(package);
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = name(dependency);
            let (Some(from_floor), Some(to_floor)) = (floors.get(&from), floors.get(&to)) else {
                continue;
            };
            // Tests may look anywhere: only what is shipped counts.
            if dependency["kind"] == "dev" {
                continue;
            }
            match (from_floor, to_floor) {
                (None, _) => {}
                (Some(_), None) => {
                    wrong.push(format!("{from} ships {to}: make it a dev-dependency"))
                }
                (Some(above), Some(below)) if below < above => {}
                (Some(above), Some(below)) => wrong.push(format!(
                    "{from} (floor {above}) depends on {to} (floor {below}): only lower floors"
                )),
            }
        }
    }
    wrong
}

#[test]
fn the_workspace_keeps_to_its_floors() {
    let markdown = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let wrong = violations(&floors_of(&markdown), &metadata());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_violation_is_seen() {
    let floors = floors_of(
        "text\n\n| floor | crate | owns | never |\n|---|---|---|---|\n| 1 | `a`, `b` | x | y |\n| 2 | `c` | x | y |\n| – | `kit` | x | y |\n| 3 | `gone` | x | y |\n\nmore",
    );
    assert_eq!(floors.len(), 5);
    let package = |name: &str, dependencies: Value| serde_json::json!({"name": name, "dependencies": dependencies});
    let on = |name: &str, kind: Value| serde_json::json!({"name": name, "kind": kind});
    let wrong = violations(
        &floors,
        &serde_json::json!({"packages": [
            package("a", serde_json::json!([on("b", Value::Null), on("outside", Value::Null)])),
            package("b", serde_json::json!([on("c", "build".into()), on("kit", "dev".into()), on("c", "dev".into())])),
            package("c", serde_json::json!([on("a", Value::Null), on("kit", Value::Null)])),
            package("kit", serde_json::json!([on("c", Value::Null)])),
            package("new", serde_json::json!([])),
        ]}),
    );
    assert_eq!(
        wrong,
        [
            "new is not in ARCHITECTURE.md's table",
            "gone is in ARCHITECTURE.md's table and not in the workspace",
            "a (floor 1) depends on b (floor 1): only lower floors",
            "b (floor 1) depends on c (floor 2): only lower floors",
            "c ships kit: make it a dev-dependency",
        ]
    );
}
