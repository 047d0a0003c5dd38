//! Reading the file: who may write it, is it YAML, is every key known.

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    BpffsDir, Config, HostFacts, Problem,
    check::{check_config, check_host},
    locate, trust,
};

/// A file that was read and found sane.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its text, kept for the lines of later complaints.
    text: String,
    /// What it says.
    pub config: Config,
}

/// Why a file was refused: each problem with file, line, key and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl ConfigFile {
    /// Reads, parses and checks everything that can be checked without the host.
    ///
    /// # Errors
    /// All problems found, a line each.
    pub fn read(path: &Path) -> Result<Self, Refusal> {
        let shown = path.display();
        let unreadable = |error: &io::Error| Refusal(format!("{shown}: {}", explain(error)));
        let text = fs::read_to_string(path).map_err(|error| unreadable(&error))?;
        let distrust = trust::distrust(path).map_err(|error| unreadable(&error))?;
        if !distrust.is_empty() {
            let lines: Vec<String> = distrust.iter().map(ToString::to_string).collect();
            return Err(Refusal(lines.join("\n")));
        }
        Self::from_text(path, text)
    }

    /// Parses and checks a text that was read from `path` at some time.
    ///
    /// # Errors
    /// All problems found, a line each.
    pub fn from_text(path: &Path, text: String) -> Result<Self, Refusal> {
        let config = parse(&path.display().to_string(), &text)?;
        let file = Self { path: path.to_owned(), text, config };
        file.refuse(check_config(&file.config))?;
        Ok(file)
    }

    /// What it says, word by word.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Checks what the file says against this host.
    ///
    /// # Errors
    /// All problems found, a line each.
    pub fn check_against(&self, host: &HostFacts) -> Result<(), Refusal> {
        self.refuse(check_host(&self.config, host))
    }

    /// Turns problems into a refusal that shows where each is.
    ///
    /// # Errors
    /// If there is any.
    pub fn refuse(&self, problems: Vec<Problem>) -> Result<(), Refusal> {
        let mut message = String::new();
        for problem in problems {
            if !message.is_empty() {
                message.push('\n');
            }
            let shown = self.path.display();
            let _ = match locate::line(&self.text, &problem.path) {
                Some(line) => write!(message, "{shown}:{line}: {problem}"),
                None => write!(message, "{shown}: {problem}"),
            };
        }
        if message.is_empty() { Ok(()) } else { Err(Refusal(message)) }
    }
}

/// Why a file cannot be read, and what to do.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file; `tunless config example` prints one to start from".to_owned()
        }
        io::ErrorKind::IsADirectory => "this is a directory; name the file in it".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "this user may not read the file; run as root".to_owned()
        }
        io::ErrorKind::InvalidData => "this is not UTF-8 text; name a YAML file".to_owned(),
        _ => error.to_string(),
    }
}

/// Where a file says the pins are, even if the rest of it is refused: who looks
/// for trouble must not be stopped by it.
///
/// # Errors
/// If it cannot be read, or is no YAML.
pub fn bpffs(path: &Path) -> Result<BpffsDir, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(default, expecting = "a mapping of keys to values")]
    struct Pins {
        bpffs: BpffsDir,
    }

    let shown = path.display();
    let refuse = |why: &dyn fmt::Display| {
        Refusal(format!("{shown}: {why}; or name the directory of pins with --bpffs"))
    };
    let text = fs::read_to_string(path).map_err(|error| refuse(&explain(&error)))?;
    if says_nothing(&text) {
        return Ok(BpffsDir::default());
    }
    let pins: Pins = serde_yaml::from_str(&text).map_err(|error| refuse(&error))?;
    Ok(pins.bpffs)
}

/// Nothing but comments is a mapping without keys, not a missing value.
fn says_nothing(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

fn parse(shown: &str, text: &str) -> Result<Config, Refusal> {
    // An editor that saves in place empties the file first; taken at its word,
    // that would remove every route.
    if text.trim().is_empty() {
        return Err(Refusal(format!(
            "{shown}: the file is empty; `tunless config example` prints one to start from"
        )));
    }
    if says_nothing(text) {
        return Ok(Config::default());
    }
    serde_yaml::from_str(text).map_err(|error| {
        let message = error.to_string();
        let (message, line) = match error.location() {
            Some(location) => {
                let position = format!(" at line {} column {}", location.line(), location.column());
                (message.replace(&position, ""), format!(":{}", location.line()))
            }
            None => (message, String::new()),
        };
        Refusal(format!(
            "{shown}{line}: {message}; `tunless config example` shows every key with its values"
        ))
    })
}
