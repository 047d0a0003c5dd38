//! `tunless schema`: the JSON Schema of everything that is written as JSON for programs.
//!
//! [`ENTRIES`] is the list. `docs/schema` has the same files.

#[cfg(test)]
mod chart;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod document;

use anyhow::{Result, bail};
use clap::CommandFactory as _;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, transform};
use serde_json::Value;

use super::{
    Cli, attempt, config, counters, counters_summary, detach, endpoints, leases, nodes, routes,
    shadow, status, version,
};
use crate::{
    config::Config,
    daemon::{report::State, survey::Difference},
    doctor,
    exit::Exit,
    explain,
    output::{self, List, Object},
    trace::event::Line,
};

/// For `--help`.
pub const EXAMPLES: &str = "Examples:
  tunless schema
  tunless schema routes list
  tunless schema status > /tmp/schema.json && tunless status -o json > /tmp/status.json
  check-jsonschema --schemafile /tmp/schema.json /tmp/status.json";

/// The daemon's report, which is no command's output.
const REPORT: &str = "report";
const REPORT_IS: &str =
    "What the daemon decided, found wrong and did: `<pins>.state.json` in /run/tunless.";

/// What one document is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// An object about one thing.
    Object,
    /// An object with the rows in `items`.
    List,
    /// One object a line.
    Lines,
}

impl Form {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::List => "an object; its `items` are the rows",
            Self::Lines => "one object a line",
        }
    }
}

/// A kind of document.
struct Entry {
    /// The command's words, or [`REPORT`].
    name: &'static str,
    form: Form,
    root: fn(SchemaGenerator) -> Schema,
}

/// Every command that prints JSON, in the order of `--help`, and the report.
const ENTRIES: &[Entry] = &[
    object::<attempt::Kept>("try"),
    object::<status::Status>("status"),
    list::<doctor::Row>("doctor"),
    object::<explain::Report>("explain"),
    list::<routes::RouteItem>("routes list"),
    object::<routes::Got<'_>>("routes get"),
    list::<Difference>("routes diff"),
    list::<nodes::NodeItem>("nodes list"),
    list::<endpoints::EndpointItem>("endpoints list"),
    list::<leases::LeaseItem>("leases list"),
    object::<leases::Flushed>("leases flush"),
    list::<counters::CounterItem>("counters list"),
    list::<counters_summary::SummaryItem>("counters summary"),
    object::<counters::Flushed>("counters flush"),
    object::<shadow::Whole<'_>>("shadow report"),
    object::<shadow::Begun>("shadow reset"),
    Entry { name: "trace", form: Form::Lines, root: SchemaGenerator::into_root_schema_for::<Line> },
    object::<config::Validated>("config validate"),
    object::<Config>("config show"),
    object::<detach::Detached>("detach"),
    object::<version::Version>("version"),
    Entry {
        name: REPORT,
        form: Form::Object,
        root: SchemaGenerator::into_root_schema_for::<State>,
    },
];

const fn object<T: JsonSchema + 'static>(name: &'static str) -> Entry {
    let root = SchemaGenerator::into_root_schema_for::<Object<'static, T>>;
    Entry { name, form: Form::Object, root }
}

const fn list<T: JsonSchema + 'static>(name: &'static str) -> Entry {
    let root = SchemaGenerator::into_root_schema_for::<List<'static, T>>;
    Entry { name, form: Form::List, root }
}

impl Entry {
    /// The name of its file, without an ending.
    fn stem(&self) -> String {
        self.name.replace(' ', "-")
    }

    /// The schema as text, ended by a newline.
    fn text(&self) -> Result<String> {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        let settings = settings.with_transform(transform::RecursiveTransform(relax));
        let mut schema = (self.root)(settings.into_generator());
        let (title, description) = match self.name {
            REPORT => ("The daemon's report".to_owned(), REPORT_IS.to_owned()),
            name => (format!("tunless {name} -o json"), about(name)),
        };
        schema.insert("$id".to_owned(), format!("urn:tunless:schema:{}", self.stem()).into());
        schema.insert("title".to_owned(), title.into());
        let description = description.trim_end_matches('.');
        let description = format!("{description}. A document: {}.", self.form.as_str());
        schema.insert("description".to_owned(), description.into());
        let mut schema = Value::from(schema);
        schema.sort_all_objects();
        Ok(serde_json::to_string_pretty(&schema)? + "\n")
    }
}

/// The first sentence that `--help` has for a command.
fn about(name: &str) -> String {
    let mut command = &Cli::command();
    for word in name.split(' ') {
        match command.find_subcommand(word) {
            Some(found) => command = found,
            None => return String::new(),
        }
    }
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// Takes out of a schema what readers would trip over: formats that are not JSON Schema's (a strict validator
/// refuses them), that a field which a later version adds is an error, and line ends inside of sentences.
fn relax(schema: &mut Schema) {
    const FORMATS: [&str; 3] = ["date-time", "ipv4", "ipv6"];
    let is_known = |format: &Value| format.as_str().is_some_and(|it| FORMATS.contains(&it));
    if schema.get("format").is_some_and(|format| !is_known(format)) {
        schema.remove("format");
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    for key in ["additionalProperties", "unevaluatedProperties"] {
        if schema.get(key) == Some(&Value::Bool(false)) {
            schema.remove(key);
        }
    }
}

/// Prints the schema of a command, or the names of all that have one.
pub fn print(words: &[String]) -> Result<Exit> {
    let name = words.join(" ");
    let names = || ENTRIES.iter().map(|entry| entry.name);
    if name.is_empty() {
        output::text(&names().collect::<Vec<_>>().join("\n"))?;
        return Ok(Exit::Ok);
    }
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) else {
        bail!(
            "`{name}` prints no JSON, or is not a command of tunless; schemas exist for: {}",
            names().collect::<Vec<_>>().join(", ")
        );
    };
    output::text(&entry.text()?)?;
    Ok(Exit::Ok)
}
