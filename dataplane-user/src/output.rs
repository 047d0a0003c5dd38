//! Results on stdout: a table for people, JSON and YAML for programs.

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{Table, TableStyle};
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// What a list command prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a, T> {
    api_version: &'static str,
    items: &'a [T],
}

/// What a command about one thing prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a, T> {
    api_version: &'static str,
    #[serde(flatten)]
    item: &'a T,
}

const API_VERSION: &str = "tunless/v1";

/// A row of a table.
pub trait Row: Serialize {
    /// The columns' names.
    const COLUMNS: &'static [&'static str];
    /// The columns' values.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list. An empty table says so on stderr.
///
/// # Errors
/// If it cannot be serialized.
pub fn list<T: Row>(format: Format, items: &[T]) -> Result<()> {
    if format != Format::Table {
        return document(format, &List { api_version: API_VERSION, items });
    }
    if items.is_empty() {
        eprintln!("none");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(T::COLUMNS);
    for item in items {
        table.add_row(item.cells());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
    Ok(())
}

/// Prints one thing; `text` is what people see.
///
/// # Errors
/// If it cannot be serialized.
pub fn object<T: Serialize>(format: Format, item: &T, text: impl FnOnce() -> String) -> Result<()> {
    if format == Format::Table {
        println!("{}", text().trim_end());
        return Ok(());
    }
    document(format, &Object { api_version: API_VERSION, item })
}

fn document<T: Serialize>(format: Format, document: &T) -> Result<()> {
    match format {
        Format::Yaml => print!("{}", serde_yaml::to_string(document)?),
        Format::Json | Format::Table => println!("{}", serde_json::to_string_pretty(document)?),
    }
    Ok(())
}
