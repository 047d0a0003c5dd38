//! `docs/configuration.md`: each key of the file, made of the schema of `tunless config show`.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{ENTRIES, document::DOCUMENTS};
use crate::config::ConfigFile;

/// A key of the file.
struct Key {
    /// With those above it, by dots; `[]`: of each element of a list.
    path: String,
    values: String,
    default: String,
    meaning: String,
}

fn schema() -> Value {
    let entry = ENTRIES.iter().find(|entry| entry.name == "config show").unwrap();
    serde_json::from_str(&entry.text().unwrap()).unwrap()
}

/// What a `$ref` names, or what lies there itself; of "this or null" the first.
fn resolve<'a>(root: &'a Value, at: &'a Value) -> &'a Value {
    if let Some(name) = at["$ref"].as_str() {
        return &root["$defs"][name.rsplit('/').next().unwrap()];
    }
    let is_null = |branch: &Value| branch["type"] == "null";
    match at["anyOf"].as_array() {
        Some(branches) if branches.iter().any(is_null) => {
            resolve(root, branches.iter().find(|branch| !is_null(branch)).unwrap())
        }
        _ => at,
    }
}

fn keys(root: &Value, at: &Value, above: &str, found: &mut Vec<Key>) {
    let none = Map::new();
    for (name, field) in at["properties"].as_object().unwrap_or(&none) {
        if name == "apiVersion" {
            continue;
        }
        let path = format!("{above}{name}");
        let target = resolve(root, field);
        let element = resolve(root, &target["items"]);
        if target["properties"].is_object() {
            keys(root, target, &format!("{path}."), found);
        } else if element["properties"].is_object() {
            found.push(key(root, path.clone(), field, target));
            keys(root, element, &format!("{path}[]."), found);
        } else {
            found.push(key(root, path, field, target));
        }
    }
}

fn key(root: &Value, path: String, field: &Value, target: &Value) -> Key {
    let mut meaning = field["description"].as_str().unwrap_or_default().to_owned();
    for word in target["oneOf"].as_array().into_iter().flatten() {
        let (word, is) = (word["const"].as_str().unwrap(), word["description"].as_str().unwrap());
        write!(meaning, "<br>`{word}`: {is}").unwrap();
    }
    // What may be anything has its form in words.
    if (target["pattern"].is_string() || target["anyOf"].is_array())
        && field["description"] != target["description"]
        && let Some(form) = target["description"].as_str()
    {
        write!(meaning, " {form}").unwrap();
    }
    let may_be_null = |types: &Vec<Value>| types.iter().any(|it| it == "null");
    let is_optional =
        field["anyOf"].is_array() || field["type"].as_array().is_some_and(may_be_null);
    let is_required = field.get("default").is_none() && path.contains("[]") && !is_optional;
    let default = match &field["default"] {
        Value::Null if is_required => "has to be given".to_owned(),
        Value::Null => "none".to_owned(),
        Value::Array(list) if list.is_empty() => "`[]`".to_owned(),
        Value::String(text) => format!("`{text}`"),
        value => format!("`{value}`"),
    };
    Key { values: values(root, target), path, default, meaning }
}

fn values(root: &Value, of: &Value) -> String {
    let of = resolve(root, of);
    if let Some(words) = of["oneOf"].as_array() {
        let words = words.iter().filter_map(|word| word["const"].as_str());
        return words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(branches) = of["anyOf"].as_array() {
        return branches.iter().map(|it| values(root, it)).collect::<Vec<_>>().join(" or ");
    }
    if let Some(word) = of["const"].as_str() {
        return format!("`{word}`");
    }
    let kind = match &of["type"] {
        Value::Array(kinds) => kinds[0].as_str().unwrap_or_default(),
        kind => kind.as_str().unwrap_or_default(),
    };
    match (kind, of["format"].as_str(), of["pattern"].as_str()) {
        ("array", ..) => format!("list of: {}", values(root, &of["items"])),
        ("integer", ..) => match (of["minimum"].as_u64(), of["maximum"].as_u64()) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            _ => "number".to_owned(),
        },
        ("boolean", ..) => "`true`, `false`".to_owned(),
        ("string", Some("ipv4"), _) => "IPv4 address".to_owned(),
        ("string", _, Some(pattern)) if pattern.contains('/') => "IPv4 prefix".to_owned(),
        ("string", ..) => "text".to_owned(),
        ("object", ..) => "mapping".to_owned(),
        _ => panic!("no words for {of}"),
    }
}

/// `BLESS=1 cargo test` writes it anew.
#[test]
fn the_page_of_the_file_is_fresh() {
    let root = schema();
    let mut found = Vec::new();
    keys(&root, &root, "", &mut found);
    let mut page = include_str!("configuration.md").to_owned();
    for Key { path, values, default, meaning } in &found {
        assert!(meaning.len() > 3, "{path} has no description");
        writeln!(page, "| `{path}` | {values} | {default} | {meaning} |").unwrap();
    }
    let path = std::path::Path::new(DOCUMENTS).join("configuration.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        written, page,
        "docs/configuration.md is stale: run `BLESS=1 cargo test -p dataplane-user`"
    );
}

/// The file with one key set, as the daemon would read it.
fn is_accepted(path: &str, value: u64) -> bool {
    let mut file = json!({"node": {"name": "a"}});
    // So that there is one.
    if path.starts_with("sources.bird.") {
        file["sources"] = json!({"bird": {"within": ["10.0.0.0/8"]}});
    }
    let mut at = &mut file;
    for name in path.split('.') {
        at = &mut at[name];
    }
    *at = value.into();
    ConfigFile::from_text("config.yaml".as_ref(), file.to_string()).is_ok()
}

/// What the schema says of numbers is what the daemon accepts, to the number.
#[test]
fn ranges_are_those_that_are_checked() {
    let root = schema();
    for path in [
        "leases.seconds",
        "leases.size",
        "underlay.min_path_mtu",
        "sources.bird.poll_milliseconds",
        "sources.bird.settle_seconds",
    ] {
        let field = path.split('.').fold(&root, |at, name| &resolve(&root, at)["properties"][name]);
        // A range beside a reference is the field's own.
        let limit = |name: &str| field[name].as_u64().or(resolve(&root, field)[name].as_u64());
        let (least, most) = (limit("minimum").unwrap(), limit("maximum").unwrap());
        let tried = [least - 1, least, most, most + 1].map(|value| is_accepted(path, value));
        assert_eq!(tried, [false, true, true, false], "{path}: {least} to {most}");
    }
}
