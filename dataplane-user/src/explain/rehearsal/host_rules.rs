//! The host's rules, as their own tools print and read them.
//!
//! Rules of iptables, be they in nftables or behind the old interface, go by `iptables-nft-save` and
//! `iptables-legacy-save` and are written by `iptables-nft-restore`: nft cannot write matches of xtables. All
//! other tables go by `nft`.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::netfilter::legacy;

/// The tables of iptables.
const OF_IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// All rules that IPv4 packets meet, as text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostRules {
    /// As iptables-save prints them.
    pub saved: Vec<String>,
    /// Sets that those refer to, as `ipset save` prints them.
    sets: String,
    /// As nft prints them, table by table.
    tables: Vec<String>,
}

impl HostRules {
    /// Reads them.
    ///
    /// # Errors
    /// If a tool is missing that the rules are in use of, or fails.
    pub fn read() -> Result<Self> {
        let listed = run("nft", &["list", "tables"], None)?;
        let tables: Vec<(&str, &str)> = listed.lines().filter_map(table).collect();
        let is_iptables = |family: &str, name: &str| family == "ip" && OF_IPTABLES.contains(&name);
        let mut rules = Self::default();
        if tables.iter().any(|(family, name)| is_iptables(family, name)) {
            rules.saved.push(run("iptables-nft-save", &[], None)?);
        }
        if let Some(saved) = legacy::saved(None).map_err(anyhow::Error::msg)? {
            rules.saved.push(saved);
        }
        if rules.saved.iter().any(|saved| saved.contains("--match-set ")) {
            rules.sets = run("ipset", &["save"], None)?;
        }
        for (family, name) in tables {
            if ["ip", "inet"].contains(&family) && !is_iptables(family, name) {
                let listed = run("nft", &["--stateless", "list", "table", family, name], None)?;
                rules.tables.push(without_flowtables(&listed));
            }
        }
        Ok(rules)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.saved.is_empty() && self.tables.is_empty()
    }

    /// Writes them in this thread's namespace.
    ///
    /// # Errors
    /// If a tool refuses them.
    pub fn write(&self) -> Result<()> {
        if !self.sets.is_empty() {
            run("ipset", &["restore"], Some(&self.sets))?;
        }
        for saved in &self.saved {
            run("iptables-nft-restore", &["--noflush"], Some(saved))?;
        }
        if !self.tables.is_empty() {
            run("nft", &["-f", "-"], Some(&self.tables.concat()))?;
        }
        Ok(())
    }
}

/// `table ip filter` → (`ip`, `filter`).
fn table(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    (words.next()? == "table").then_some(())?;
    Some((words.next()?, words.next()?))
}

/// Flowtables name devices that are not there, and take no first packet of a connection.
fn without_flowtables(listed: &str) -> String {
    let mut kept = String::new();
    let mut is_in_one = false;
    for line in listed.lines() {
        is_in_one |= line.starts_with("\tflowtable ");
        let offloads = line.contains(" flow add @") || line.trim_start().starts_with("flow add @");
        if !is_in_one && !offloads {
            kept.push_str(line);
            kept.push('\n');
        }
        is_in_one &= line != "\t}";
    }
    kept
}

/// Runs a tool in this thread's namespace; returns what it prints.
pub fn run(tool: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let mut command = Command::new(tool);
    command.args(arguments).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{tool} is needed to read this host's rules, and is not installed")
        }
        child => child.with_context(|| format!("running {tool}"))?,
    };
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A tool that refuses the beginning reads no further: it says why.
            stdin.zip(input).map(|(mut stdin, input)| stdin.write_all(input.as_bytes()))
        });
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("running {tool}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let line = error.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    ensure!(output.status.success(), "{tool} {} failed: {line}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_and_flowtables_left_out() {
        assert_eq!(table("table inet tunless"), Some(("inet", "tunless")));
        assert_eq!(table("# Warning: managed by iptables-nft"), None);
        let listed = "table ip calico {\n\
                      \tset s {\n\t\ttype ipv4_addr\n\t}\n\
                      \tflowtable f {\n\t\thook ingress priority filter\n\t\tdevices = { cali1 }\n\t}\n\
                      \tchain forward {\n\t\tip protocol tcp flow add @f\n\t\taccept\n\t}\n}\n";
        let kept = without_flowtables(listed);
        assert_eq!(
            kept,
            "table ip calico {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\tchain forward {\n\t\taccept\n\t}\n}\n"
        );
    }

    #[test]
    fn what_a_tool_refuses_is_said_in_its_words() {
        let error = run("sh", &["-c", "echo; echo no such chain >&2; exit 3"], Some("x"));
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with("failed: no such chain"), "{error}");
        let missing = run("no-such-tool-here", &[], None).unwrap_err().to_string();
        assert!(missing.contains("not installed"), "{missing}");
        assert_eq!(run("cat", &[], Some("a\nb")).unwrap(), "a\nb");
    }
}
