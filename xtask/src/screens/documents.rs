//! The pictures and the documents that embed them belong together.

use std::{collections::BTreeSet, fs, path::Path};

use clap::ValueEnum as _;

use super::{directory, picture::Picture};
use crate::workspace;

/// The files of pictures that a document embeds by Markdown, as it names them; those of the web left out.
fn embedded(text: &str) -> Vec<&str> {
    let targets = text.split("![").skip(1).filter_map(|rest| {
        let (alt, rest) = rest.split_once("](")?;
        (!alt.contains("\n\n")).then_some(rest.split_once(')')?.0)
    });
    targets.filter(|target| !target.contains("://")).collect()
}

/// The alternative texts of a document's pictures.
fn alternatives(text: &str) -> Vec<&str> {
    text.split("![").skip(1).filter_map(|rest| Some(rest.split_once("](")?.0)).collect()
}

/// Each document with its directory and its text.
fn documents() -> Vec<(String, String)> {
    let root = workspace::root();
    let in_directory = |directory: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(directory)).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| Path::new(directory).join(name).display().to_string());
        names.filter(|name| name.ends_with(".md")).collect()
    };
    let all = ["", "docs", "docs/adr"].into_iter().flat_map(in_directory);
    all.map(|name| (name.clone(), fs::read_to_string(root.join(name)).expect("a document")))
        .collect()
}

#[test]
fn pictures_are_found_in_markdown() {
    let text = "![a](b.svg) [c](d.svg) ![](https://e/f.svg)\n![g\nh](../i.svg)";
    assert_eq!(embedded(text), ["b.svg", "../i.svg"]);
    assert_eq!(alternatives(text), ["a", "", "g\nh"]);
}

#[test]
fn pictures_exist_are_made_by_this_command_and_are_shown() {
    let root = workspace::root();
    let mut shown = BTreeSet::new();
    for (document, text) in documents() {
        let directory = root.join(&document).parent().expect("a directory").to_owned();
        for target in embedded(&text) {
            let path = directory.join(target);
            let path = path.canonicalize().unwrap_or_else(|_| panic!("{document}: no {target}"));
            shown.insert(path);
        }
        let has_alternatives = alternatives(&text).iter().all(|text| text.trim().len() > 10);
        assert!(has_alternatives, "{document}: a picture without an alternative text");
    }
    let entries = fs::read_dir(directory()).expect("docs/screens");
    let files: BTreeSet<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = Picture::value_variants().iter().map(|it| it.file()).collect();
    let unknown: Vec<&String> = files.difference(&known).collect();
    assert!(unknown.is_empty(), "`cargo xtask screens` does not make {unknown:?}");
    let missing: Vec<&String> = known.difference(&files).collect();
    let not_everywhere = Picture::Trace.file();
    assert!(missing.iter().all(|file| **file == not_everywhere), "not made: {missing:?}");
    for file in files {
        let path = directory().join(&file).canonicalize().expect("a file");
        assert!(shown.contains(&path), "no document shows docs/screens/{file}");
        let length = fs::metadata(&path).expect("a file").len();
        assert!(length < 60 * 1024, "{file} has {length} bytes");
    }
}
