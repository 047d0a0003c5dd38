//! The Helm chart, rendered by Helm: what it makes is what Kubernetes has, and what tunless needs.

mod documents;
mod kubernetes;
mod manifest;
mod monitoring;
mod pod;
mod refused;
mod rights;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize as _;
use serde_json::Value;
use tunless_lab::helm::{self, Rendered};

/// The project's top level.
fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn chart() -> PathBuf {
    project().join("packaging/chart/tunless").canonicalize().unwrap()
}

fn file(name: &str) -> String {
    let path = project().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the templates become, by their paths.
fn files(values: &Value) -> BTreeMap<String, String> {
    match helm::render(&chart(), "tunless", "kube-system", values).unwrap() {
        Rendered::Files(files) => files,
        Rendered::Refused(why) => panic!("{values}: {why}"),
    }
}

/// Why Helm refuses the values.
fn refusal(values: &Value) -> String {
    match helm::render(&chart(), "tunless", "kube-system", values).unwrap() {
        Rendered::Files(_) => panic!("{values} is accepted"),
        Rendered::Refused(why) => why,
    }
}

/// The documents of a YAML text.
fn documents(text: &str) -> Vec<Value> {
    let all = serde_yaml::Deserializer::from_str(text);
    let all = all.map(|one| Value::deserialize(one).unwrap_or_else(|why| panic!("{why}: {text}")));
    all.filter(|one| !one.is_null()).collect()
}

/// All documents of the chart with these values.
fn rendered(values: &Value) -> Vec<Value> {
    let files = files(values);
    let yaml = files.iter().filter(|(path, _)| path.ends_with(".yaml"));
    yaml.flat_map(|(_, text)| documents(text)).collect()
}

/// The one document of a kind.
fn the<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = documents.iter().filter(|one| one["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

/// The daemon's container.
fn container(documents: &[Value]) -> &Value {
    &the(documents, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
}
