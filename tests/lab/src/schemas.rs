//! What `tunless` prints as JSON, validated against the schemas in `docs/schema`.
//!
//! The published schemas accept fields that they do not know. Here they do not, so that a field which has no
//! schema fails as well as one that is not what its schema says.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use jsonschema::Validator;
use serde_json::{Deserializer, Map, Value};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema");

/// By the names of their files, without the ending.
static VALIDATORS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let files = fs::read_dir(DIRECTORY).expect("docs/schema");
    files.map(|file| validator(&file.expect("a file of docs/schema").path())).collect()
});

fn validator(path: &Path) -> (String, Validator) {
    let (shown, text) = (path.display(), read(path));
    let mut schema: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
    close(&mut schema);
    let options = jsonschema::options().should_validate_formats(true);
    let validator = options.build(&schema).unwrap_or_else(|error| panic!("{shown}: {error}"));
    (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), validator)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The published schema of this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn text(name: &str) -> String {
    read(&Path::new(DIRECTORY).join(name).with_extension("json"))
}

/// Lets each object that a schema describes have the fields alone that it names.
fn close(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    if keywords.contains_key("properties") {
        keywords.insert("unevaluatedProperties".to_owned(), false.into());
    }
    let is_closed = keywords.contains_key("properties");
    for (keyword, below) in keywords {
        match (keyword.as_str(), below) {
            // What is beside them in the same object counts, too: they are no objects of their own.
            ("anyOf" | "oneOf" | "allOf", Value::Array(branches)) if is_closed => {
                branches.iter_mut().filter_map(properties).for_each(close_all);
            }
            ("anyOf" | "oneOf" | "allOf", Value::Array(branches)) => {
                branches.iter_mut().for_each(close);
            }
            ("properties" | "$defs", Value::Object(schemas)) => close_all(schemas),
            ("items" | "additionalProperties", below) => close(below),
            _ => {}
        }
    }
}

fn properties(schema: &mut Value) -> Option<&mut Map<String, Value>> {
    schema.get_mut("properties")?.as_object_mut()
}

fn close_all(schemas: &mut Map<String, Value>) {
    schemas.values_mut().for_each(close);
}

/// Lists what a document is not as its schema says, a sentence each. `name`: of a file in `docs/schema`, without
/// the ending.
///
/// # Panics
/// If there is no such schema.
#[must_use]
pub fn faults(name: &str, document: &Value) -> Vec<String> {
    let validator = VALIDATORS.get(name).unwrap_or_else(|| panic!("no docs/schema/{name}.json"));
    let errors = validator.iter_errors(document);
    errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// Validates what `tunless ARGS` printed, if it was asked for JSON and printed anything.
///
/// # Panics
/// If it is not as its schema says: an error could be taken for one of `tunless` itself.
pub fn check(args: &[&str], stdout: &str) {
    if !args.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"])) {
        return;
    }
    let words: Vec<&str> = args.iter().copied().take(2).collect();
    let names = [words.join("-"), words[0].to_owned()];
    for document in Deserializer::from_str(stdout).into_iter::<Value>() {
        let shown = args.join(" ");
        let document =
            document.unwrap_or_else(|error| panic!("`tunless {shown}`: {error}: {stdout}"));
        let name = names.iter().find(|name| VALIDATORS.contains_key(*name));
        let name = name.unwrap_or_else(|| panic!("`tunless {shown}` has no schema in docs/schema"));
        let faults = faults(name, &document);
        assert!(
            faults.is_empty(),
            "`tunless {shown}` is not as docs/schema/{name}.json says:\n{}\n{document:#}",
            faults.join("\n")
        );
    }
}
