//! Results on stdout: a table for people, JSON and YAML for programs.

use std::{
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{Table, TableStyle};
use schemars::JsonSchema;
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// The same with every detail, where a command groups what is well.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl Format {
    /// Whether people read it, not programs.
    #[must_use]
    pub const fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// What a list command prints.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List<'a, T> {
    /// The form of all documents: see `docs/schema.md`.
    #[schemars(extend("const" = API_VERSION))]
    api_version: &'static str,
    /// One for each row.
    items: &'a [T],
}

/// What a command about one thing prints.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Object<'a, T> {
    /// The form of all documents: see `docs/schema.md`.
    #[schemars(extend("const" = API_VERSION))]
    api_version: &'static str,
    #[serde(flatten)]
    item: &'a T,
}

const API_VERSION: &str = "tunless/v1";

/// The reader of stdout has seen enough.
static IS_READER_GONE: AtomicBool = AtomicBool::new(false);

/// A row of a table.
pub trait Row: Serialize {
    /// The columns' names.
    const COLUMNS: &'static [&'static str];
    /// The names of the columns that a table of these rows has.
    fn columns(items: &[Self]) -> Vec<&'static str>
    where
        Self: Sized,
    {
        let _ = items;
        Self::COLUMNS.to_vec()
    }
    /// The values of those columns.
    fn cells(&self) -> Vec<String>;
}

/// A time span for people: its largest unit, `45s`, `12m`, `3h`, `9d`.
#[must_use]
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Prints a list. An empty table says so on stderr.
///
/// # Errors
/// If it cannot be serialized.
pub fn list<T: Row>(format: Format, items: &[T]) -> Result<()> {
    if !format.is_for_people() {
        return document(format, &List { api_version: API_VERSION, items });
    }
    if items.is_empty() {
        eprintln!("none");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(T::columns(items));
    for item in items {
        table.add_row(item.cells());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    text(&lines.join("\n"))
}

/// Prints one thing; `describe` gives what people see.
///
/// # Errors
/// If it cannot be serialized.
pub fn object<T: Serialize>(
    format: Format,
    item: &T,
    describe: impl FnOnce() -> String,
) -> Result<()> {
    if format.is_for_people() {
        return text(&describe());
    }
    document(format, &Object { api_version: API_VERSION, item })
}

/// Says what was done: to people on stderr, as `text`; to programs on stdout.
///
/// # Errors
/// If it cannot be serialized.
pub fn done<T: Serialize>(format: Format, item: &T, text: &str) -> Result<()> {
    if format.is_for_people() {
        eprintln!("{text}");
        return Ok(());
    }
    document(format, &Object { api_version: API_VERSION, item })
}

/// "1 route", "2 routes".
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Prints text as it is, ended by one newline. A reader that has seen enough
/// (`| head`) is no failure.
///
/// # Errors
/// If it cannot be written for another reason.
pub fn text(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            IS_READER_GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        outcome => Ok(outcome?),
    }
}

/// Whether [`text`] found that the reader has seen enough, so that there is nothing more to print for it.
#[must_use]
pub fn is_reader_gone() -> bool {
    IS_READER_GONE.load(Ordering::Relaxed)
}

fn document<T: Serialize>(format: Format, document: &T) -> Result<()> {
    match format {
        Format::Yaml => text(&serde_yaml::to_string(document)?),
        Format::Json | Format::Table | Format::Wide => {
            text(&serde_json::to_string_pretty(document)?)
        }
    }
}
