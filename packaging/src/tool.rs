//! Programs that do a part of the work.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Runs it to its end; returns what it printed.
///
/// # Errors
/// If it is not there, or fails; with its own words.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!("`{name}` does not start; `cargo xtask setup` installs what is needed")
    })?;
    ensure!(
        output.status.success(),
        "`{name}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

/// As [`run`]; returns what it printed as text.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&run(command)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_name_and_the_words_of_the_program() {
        assert_eq!(text(Command::new("sh").args(["-c", "echo fine"])).unwrap(), "fine\n");
        let failed = run(Command::new("sh").args(["-c", "echo no room >&2; exit 3"])).unwrap_err();
        assert!(failed.to_string().ends_with("exit status: 3): no room"), "{failed}");
        let missing = run(&mut Command::new("no-such-program")).unwrap_err();
        assert!(missing.to_string().contains("`no-such-program` does not start"), "{missing}");
    }
}
