//! What documents name exists: tests, problems, and the files behind links.
//!
//! A document cites a test as `` `FILE`, `FUNCTION`, `FUNCTION` ``: a path from the project's top
//! level, and functions of that file. A problem is cited as `` problem `CODE` ``.

use std::fs;

use crate::workspace;

/// The documents whose statements name the tests behind them, and how many they name at least.
const DOCUMENTS: [(&str, usize); 3] =
    [("docs/threat-model.md", 31), ("docs/compatibility.md", 31), ("docs/kubernetes.md", 7)];
/// The documents whose links are followed.
const LINKED: [&str; 4] =
    ["docs/threat-model.md", "docs/compatibility.md", "docs/kubernetes.md", "SECURITY.md"];
/// Where tests are: of a file there a function has to be named.
const TESTS: [&str; 3] = ["tests/netns/", "tests/prog/", "tests/vm/src/suites/"];
/// Where each function that is named has to be a test itself, not a part of one.
const WHOLE_TESTS: &str = "tests/netns/";

/// A file, and the functions of it that a document names.
#[derive(PartialEq, Eq, Debug)]
struct Citation<'a> {
    /// In the document, from 1.
    line: usize,
    file: &'a str,
    functions: Vec<&'a str>,
}

/// Returns what a document cites, in its order.
fn citations(text: &str) -> Vec<Citation<'_>> {
    let mut found: Vec<Citation<'_>> = Vec::new();
    let (mut line, mut goes_on) = (1, false);
    let pieces: Vec<&str> = text.split('`').collect();
    // Each second piece is in backticks; the one before it is what stands between two of them.
    for pair in pieces.chunks_exact(2) {
        let &[between, code] = pair else { continue };
        line += between.matches('\n').count();
        if is_file(code) {
            found.push(Citation { line, file: code, functions: Vec::new() });
            goes_on = true;
            continue;
        }
        goes_on &= between.trim() == "," && is_function(code);
        if let Some(last) = found.last_mut().filter(|_| goes_on) {
            last.functions.push(code);
        }
    }
    found
}

fn is_file(code: &str) -> bool {
    code.contains('/') && code.ends_with(".rs")
}

fn is_function(code: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !code.is_empty() && code.chars().all(is_part)
}

/// Returns what is wrong with a citation. `source`: the text of the file that it names; `None` if that
/// cannot be read.
fn faults(citation: &Citation<'_>, source: Option<&str>) -> Vec<String> {
    let Citation { line, file, functions } = citation;
    let Some(source) = source else { return vec![format!("line {line}: there is no file {file}")] };
    let mut faults = Vec::new();
    if functions.is_empty() && TESTS.iter().any(|tests| file.starts_with(tests)) {
        faults.push(format!("line {line}: no function of {file} is named"));
    }
    let before = if file.starts_with(WHOLE_TESTS) { "#[test]\nfn" } else { "fn" };
    let is_missing = |name: &&&str| !source.contains(&format!("{before} {name}("));
    let missing = functions.iter().filter(is_missing);
    faults.extend(missing.map(|name| format!("line {line}: {file} has no test {name}")));
    faults
}

/// Returns the codes of the problems that a document names.
fn problems(text: &str) -> Vec<String> {
    // A line may end between the two words.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = ["problem `", "problems `", "Problem `"];
    let rests = named.into_iter().flat_map(|start| text.split(start).skip(1));
    rests.filter_map(|rest| Some(rest.split_once('`')?.0.to_owned())).collect()
}

/// Returns the files that a document's links name, without what follows `#`.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty() && !file.contains("://")).collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(workspace::root().join(path)).ok()
}

#[test]
fn a_citation_is_a_file_and_the_functions_behind_it() {
    let text = "| a | `tests/netns/a.rs`, `one`, `two`; `tests/prog/b.rs`, `table` (*x*), `no` |\n\
                by design (`src/c.rs`), and `no` `tests/netns/d.rs`\n\
                `CAP_BPF`, `e.rs`, `f/g.rs`, `CAP`, `no`, `h/i.rs`,\n\
                `three`, `four`. `no`";
    let expected = [
        (1, "tests/netns/a.rs", &["one", "two"][..]),
        (1, "tests/prog/b.rs", &["table"]),
        (2, "src/c.rs", &[]),
        (2, "tests/netns/d.rs", &[]),
        (3, "f/g.rs", &[]),
        (3, "h/i.rs", &["three", "four"]),
    ];
    let expected = expected.map(|(line, file, functions)| Citation {
        line,
        file,
        functions: functions.to_vec(),
    });
    assert_eq!(citations(text), expected);
}

#[test]
fn what_is_cited_wrongly_is_found() {
    let of = |file, functions: &[&'static str]| Citation {
        line: 7,
        file,
        functions: functions.to_vec(),
    };
    let source = "#[test]\nfn a_test() {}\n\nfn a_part() {}\n";
    for (citation, source, expected) in [
        (
            of("tests/netns/a.rs", &["a_part"]),
            Some(source),
            &["tests/netns/a.rs has no test a_part"][..],
        ),
        (of("tests/netns/a.rs", &["a_test"]), Some(source), &[]),
        (of("tests/prog/a.rs", &["a_part"]), Some(source), &[]),
        (of("tests/prog/a.rs", &["part"]), Some(source), &["tests/prog/a.rs has no test part"]),
        (of("tests/prog/a.rs", &[]), Some(source), &["no function of tests/prog/a.rs is named"]),
        (of("tests/lab/a.rs", &[]), Some(source), &[]),
        (of("tests/lab/a.rs", &[]), None, &["there is no file tests/lab/a.rs"]),
    ] {
        let expected: Vec<String> = expected.iter().map(|it| format!("line 7: {it}")).collect();
        assert_eq!(faults(&citation, source), expected, "{citation:?}");
    }
}

#[test]
fn problems_and_links_are_found() {
    let text = "problem\n`one`; problems `two`, `no`. Problem `three`";
    assert_eq!(problems(text), ["one", "two", "three"]);
    let text = "[a](b.md#c) [d](#e) [f](https://g/h) [i](../j.rs)";
    assert_eq!(links(text), ["b.md", "../j.rs"]);
}

#[test]
fn documents_name_tests_that_exist() {
    for (document, least) in DOCUMENTS {
        let text = read(document).expect("the document");
        let cited = citations(&text);
        assert!(cited.len() >= least, "{document}: only {} tests are cited", cited.len());
        let all = cited.iter().flat_map(|it| faults(it, read(it.file).as_deref()));
        let all: Vec<String> = all.map(|fault| format!("{document}, {fault}")).collect();
        assert!(all.is_empty(), "{}", all.join("\n"));
    }
}

#[test]
fn documents_name_problems_that_exist() {
    let listed = read("docs/problems.md").expect("the list of problems");
    for (document, _) in DOCUMENTS {
        let codes = problems(&read(document).expect("the document"));
        assert!(!codes.is_empty(), "{document} names no problem");
        for code in codes {
            assert!(listed.contains(&format!("| `{code}` |")), "{document}: no problem `{code}`");
        }
    }
}

#[test]
fn links_lead_to_files() {
    for document in LINKED {
        let path = workspace::root().join(document);
        let text = read(document).expect("the document");
        let directory = path.parent().expect("a directory");
        for link in links(&text) {
            assert!(directory.join(link).exists(), "{document}: there is no {link}");
        }
    }
}
