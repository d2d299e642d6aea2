//! What a service takes in with this crate.

use std::collections::BTreeSet;
use std::process::Command;

fn tree(features: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "tipple-snapshot", "-e", "normal"])
        .args(["--prefix", "none", "--offline", "--locked"])
        .args(["--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

/// Fewer than 40 crates, none of them of the pipeline, of a cloud, or in need of a C compiler.
#[test]
fn the_tree_of_dependencies_is_small() {
    let crates = tree("default");
    assert!(
        crates.contains("arc-swap") && crates.contains("tokio"),
        "{crates:?}"
    );
    assert!(crates.len() < 40, "{crates:?}");
    let ours: Vec<_> = crates
        .iter()
        .filter(|name| name.starts_with("tipple"))
        .collect();
    assert_eq!(ours, ["tipple-snapshot", "tipple-snapshot-derive"]);
    for heavy in ["cc", "ring", "zstd-sys", "reqwest", "object_store", "serde"] {
        assert!(!crates.contains(heavy), "{heavy}");
    }
    // Nor of the features but those that seal and that know stores.
    let crates = tree("compression,metrics,serde,userver,uuid");
    assert!(crates.contains("lz4_flex"), "{crates:?}");
    assert!(crates.len() < 40, "{crates:?}");
    for heavy in ["cc", "ring", "zstd-sys", "reqwest", "object_store"] {
        assert!(!crates.contains(heavy), "{heavy}");
    }
}
