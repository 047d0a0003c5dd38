//! `docs/schema.md` and the files in `docs/schema`, and that no command is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use clap::{Command, CommandFactory as _};

use serde_json::Value;

use super::{Cli, ENTRIES, Entry, REPORT, attempt, print, shadow};

/// Commands that print no JSON, whatever `-o` is.
const WITHOUT: [&str; 6] = ["completions", "config example", "man", "run", "schema", "top"];

pub(super) const DOCUMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

/// The names of all commands that have none below them.
fn leaves(command: &Command, above: &str) -> BTreeSet<String> {
    let below = command.get_subcommands().flat_map(|command| {
        let name = format!("{above} {}", command.get_name());
        leaves(command, name.trim())
    });
    let below: BTreeSet<String> = below.collect();
    if below.is_empty() { [above.to_owned()].into() } else { below }
}

#[test]
fn every_command_has_a_schema_or_prints_no_json() {
    let with: BTreeSet<_> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(with.len(), ENTRIES.len(), "a name is there twice");
    let names = with.into_iter().filter(|name| *name != REPORT).chain(WITHOUT);
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    assert_eq!(names, leaves(&Cli::command(), ""));
}

#[test]
fn what_has_no_schema_is_refused_with_what_has_one() {
    let error = print(&["top".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("`top` prints no JSON") && error.contains("routes list"), "{error}");
}

#[test]
fn every_field_is_described() {
    for entry in ENTRIES {
        let schema: Value = serde_json::from_str(&entry.text().unwrap()).unwrap();
        let definitions = schema["$defs"].as_object().into_iter().flatten().map(|(_, it)| it);
        let branches = schema["anyOf"].as_array().into_iter().flatten();
        for object in definitions.chain(branches).chain([&schema]) {
            let text = object.to_string();
            assert!(!text.contains("[`") && !text.contains("`None`"), "{}: {text}", entry.name);
            for (name, field) in object["properties"].as_object().into_iter().flatten() {
                let is_described = field["description"].as_str().is_some_and(|it| it.len() > 3);
                assert!(is_described, "{}: {name} of {object:#}", entry.name);
            }
        }
    }
}

/// Only a host with tunl0 can be asked for this one.
#[test]
fn what_a_kept_try_prints_has_its_schema() {
    let kept = attempt::Kept { kept: "kept".to_owned(), daemon_runs: true };
    let mut document = serde_json::to_value(kept).unwrap();
    let faults = |document: &Value| tunless_lab::schemas::faults("try", document);
    assert!(faults(&document).iter().any(|fault| fault.contains("apiVersion")));
    document["apiVersion"] = "tunless/v1".into();
    assert_eq!(faults(&document), Vec::<String>::new());
    document["more"] = 1.into();
    assert_ne!(faults(&document), Vec::<String>::new());
}

/// Likewise.
#[test]
fn what_a_shadow_reports_has_its_schema() {
    let mut document = shadow::example();
    let faults = |document: &Value| tunless_lab::schemas::faults("shadow-report", document);
    document["apiVersion"] = "tunless/v1".into();
    assert_eq!(faults(&document), Vec::<String>::new(), "{document:#}");
    document["last"]["out_ttl"]["outer"]["ttl"] = "many".into();
    assert_ne!(faults(&document), Vec::<String>::new());
}

fn row(entry: &Entry) -> String {
    let (name, file) = (entry.name, entry.stem());
    let command = if name == REPORT { "the daemon's report" } else { &format!("`{name}`") };
    let form = entry.form.as_str();
    format!("| {command} | [{file}.json](schema/{file}.json) | {form} |")
}

/// `docs/schema.md` and `docs/schema` are made of the types; `BLESS=1 cargo test` writes them anew.
#[test]
fn the_documents_are_fresh() {
    let mut page = include_str!("../schema.md").to_owned();
    let mut documents = BTreeMap::new();
    for entry in ENTRIES {
        writeln!(page, "{}", row(entry)).unwrap();
        documents.insert(format!("{}.json", entry.stem()), entry.text().unwrap());
    }
    let page_path = Path::new(DOCUMENTS).join("schema.md");
    let directory = Path::new(DOCUMENTS).join("schema");
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(&directory).unwrap();
        // Others read them meanwhile: what is as it should be stays.
        for old in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap()) {
            if !documents.contains_key(old.file_name().to_str().unwrap_or_default()) {
                fs::remove_file(old.path()).unwrap();
            }
        }
        for (name, text) in &documents {
            let path = directory.join(name);
            if fs::read_to_string(&path).ok().as_ref() != Some(text) {
                fs::write(path, text).unwrap();
            }
        }
        fs::write(&page_path, &page).unwrap();
    }
    let found = fs::read_dir(&directory).into_iter().flatten().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read_to_string(entry.path()).unwrap())
    });
    let hint = "is stale: run `BLESS=1 cargo test -p dataplane-user`";
    let found: BTreeMap<_, _> = found.collect();
    assert!(found.keys().eq(documents.keys()), "docs/schema {hint}: {:?}", found.keys());
    for (name, text) in documents {
        assert_eq!(found[&name], text, "docs/schema/{name} {hint}");
    }
    assert_eq!(fs::read_to_string(page_path).unwrap_or_default(), page, "docs/schema.md {hint}");
}
