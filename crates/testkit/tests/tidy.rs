//! What a reader should be able to rely on in every room of the house.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn imports_only_go_down() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let floor = |p: &serde_json::Value| p["metadata"]["floor"].as_u64();
    let floors: BTreeMap<&str, u64> = packages
        .iter()
        .map(|p| {
            let name = p["name"].as_str().unwrap();
            (name, floor(p).unwrap_or_else(|| panic!("{name} says no floor in [package.metadata]")))
        })
        .collect();
    assert!(floors.len() >= 10, "found only {floors:?}");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let (on, dev) = (dependency["name"].as_str().unwrap(), dependency["kind"] == "dev");
            let Some(below) = floors.get(on) else { continue };
            let allowed = *below < floors[name] || (dev && on == "testkit");
            assert!(allowed, "{name} (floor {}) imports {on} (floor {below}): imports only go down", floors[name]);
        }
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "target" {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&root().join("crates"), &mut found);
    assert!(found.len() > 20);
    found.into_iter().map(|p| (p.clone(), std::fs::read_to_string(p).unwrap())).collect()
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for (path, text) in all_sources() {
        let lines = text.lines().count();
        if lines > 500 {
            wrong.push(format!("{}: {lines} lines, more than 500", path.display()));
        }
        if !text.starts_with("//!") && !text.starts_with("#![") {
            wrong.push(format!("{}: opens without words on what it is for (//!)", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_have_names() {
    const VAGUE: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "misc", "manager"];
    for (path, _) in all_sources() {
        let vague = path.components().any(|c| {
            let name = c.as_os_str().to_string_lossy();
            VAGUE.contains(&name.trim_end_matches(".rs"))
        });
        assert!(!vague, "{}: a room that says nothing", path.display());
    }
}

#[test]
fn floors_that_think_touch_nothing() {
    const OUTSIDE: [&str; 8] = [
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "SystemTime::now",
        "Instant::now",
        "tokio",
        "std::env::var",
    ];
    for (path, text) in all_sources() {
        let inside = |c: &str| path.starts_with(root().join("crates").join(c).join("src"));
        if !["oci", "graph", "dockerfile", "solver"].into_iter().any(inside) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in OUTSIDE {
            let used = code.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(word));
            assert!(!used, "{}: `{word}` on a floor that only thinks", path.display());
        }
    }
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    for (path, text) in all_sources() {
        let text_of_code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let used = text_of_code.clone().any(|l| l.contains("unsafe {") || l.contains("unsafe fn"));
        let room = path.starts_with(root().join("crates/sandbox"))
            || path.file_name().is_some_and(|f| f == "syscall.rs")
            || path.starts_with(root().join("crates/testkit"));
        assert!(!used || room, "{}: unsafe outside `sandbox` and `syscall.rs`", path.display());
        if used {
            assert!(text.contains("SAFETY"), "{}: unsafe without its reason", path.display());
        }
    }
}
