//! The part of the chart's `values.schema.json` that is about the configuration file: made of its
//! types, so that Helm refuses a key that the daemon would refuse, by its name.

use std::{fs, path::Path};

use schemars::{Schema, generate::SchemaSettings, transform};
use serde_json::Value;

use super::relax;
use crate::config::Config;

const SCHEMA: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/chart/tunless/values.schema.json");

/// The schema of the file, and the definitions that it refers to.
fn of_the_file() -> (Value, Value) {
    // Helm before 3.18 knows nothing newer.
    let settings = SchemaSettings::draft07().for_deserialize();
    let settings = settings.with_transform(transform::RecursiveTransform(tighten));
    let mut schema = settings.into_generator().into_root_schema_for::<Config>();
    let definitions = schema.remove("definitions").unwrap();
    for key in ["$schema", "title"] {
        schema.remove(key);
    }
    schema.insert("description".to_owned(), "As docs/configuration.md has it.".into());
    let mut schema = Value::from(schema);
    schema.sort_all_objects();
    (schema, definitions)
}

/// As [`relax`], but what has no meaning stays an error.
fn tighten(schema: &mut Schema) {
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    relax(schema);
    if closed {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
}

/// `BLESS=1 cargo test` writes it anew.
#[test]
fn the_charts_schema_of_the_file_is_fresh() {
    let path = Path::new(SCHEMA);
    let written = fs::read_to_string(path).unwrap();
    let mut schema: Value = serde_json::from_str(&written).unwrap();
    let (file, mut definitions) = of_the_file();
    definitions.sort_all_objects();
    schema["properties"]["config"] = file;
    schema["definitions"] = definitions;
    schema.sort_all_objects();
    let fresh = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, &fresh).unwrap();
    }
    let written = fs::read_to_string(path).unwrap();
    assert_eq!(
        written, fresh,
        "packaging/chart/tunless/values.schema.json is stale: run `BLESS=1 cargo test -p dataplane-user`"
    );
}
