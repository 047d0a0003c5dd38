//! What the daemon logs where stderr is systemd's journal, and where it is not.

use std::{fs, io, os::unix::net::UnixDatagram, path::Path, process::Command};

use tempfile::TempDir;
use tunless_lab::{
    cmd::{self, Output},
    daemon::tunless_binary,
};

/// Two mistakes: a message of two lines.
const BAD: &str = "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 127.0.0.1}\nbpffs: pins\n";

/// Hides the machine's own journal: in a mount namespace with an empty /run, where `$1`
/// is the directory of the journal's sockets, `$2` the value of `JOURNAL_STREAM`.
const SCRIPT: &str = r#"
    mount -t tmpfs tmpfs /run
    if [ -n "$1" ]; then
        mkdir -p /run/systemd/journal
        mount --bind "$1" /run/systemd/journal
    fi
    export JOURNAL_STREAM="${2:-$(stat -L -c %d:%i /proc/self/fd/2)}"
    shift 2
    exec "$@"
"#;

/// Runs the daemon with a file it refuses.
fn refused(directory: &TempDir, sockets: &str, stream: &str) -> Output {
    let config = directory.path().join("config.yaml");
    fs::write(&config, BAD).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", SCRIPT, "sh", sockets, stream]);
    command.arg(tunless_binary().unwrap()).args(["run", "--config"]).arg(config);
    let output = cmd::run(&mut command, b"", cmd::DEADLINE).unwrap();
    assert_eq!((output.status, output.stdout.as_str()), (Some(78), ""), "{}", output.stderr);
    output
}

/// The entries that reached a journal's socket, each as its fields.
fn entries(socket: &UnixDatagram) -> Vec<Vec<(String, String)>> {
    socket.set_nonblocking(true).unwrap();
    let mut entries = Vec::new();
    let mut datagram = vec![0; 1 << 16];
    loop {
        match socket.recv(&mut datagram) {
            // To find out whether the journal is there.
            Ok(0) => {}
            Ok(length) => entries.push(fields(&datagram[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return entries,
            Err(error) => panic!("{error}"),
        }
    }
}

/// `NAME=value`, or the name, the value's length (64 bits, little-endian) and the value,
/// each ended by a newline (systemd.io, "Native Journal Protocol").
fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n').expect("a line");
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.push((text(&line[..equals]), text(&line[equals + 1..])));
            entry = rest;
        } else {
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            fields.push((text(line), text(&rest[..length])));
            entry = &rest[length + 1..];
        }
    }
    fields
}

fn field<'a>(entry: &'a [(String, String)], name: &str) -> &'a str {
    let found = entry.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name} in {entry:?}"))
}

fn assert_two_lines(message: &str, config: &Path) {
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 2, "{message}");
    for (line, number) in lines.iter().zip([3, 4]) {
        assert!(line.starts_with(&format!("{}:{number}: ", config.display())), "{line}");
    }
    assert!(!message.contains("dataplane_user"), "{message}");
}

#[test]
fn the_journal_gets_one_entry_with_its_priority() {
    let directory = tempfile::tempdir().unwrap();
    let sockets = directory.path().join("journal");
    fs::create_dir(&sockets).unwrap();
    let socket = UnixDatagram::bind(sockets.join("socket")).unwrap();
    let output = refused(&directory, sockets.to_str().unwrap(), "");
    assert_eq!(output.stderr, "", "it is in the journal");
    let entries = entries(&socket);
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(field(&entries[0], "PRIORITY"), "3");
    assert_eq!(field(&entries[0], "SYSLOG_IDENTIFIER"), "tunless");
    assert_two_lines(field(&entries[0], "MESSAGE"), &directory.path().join("config.yaml"));
}

/// stderr leads to the journal, its socket is not to be seen: each line has the priority.
#[test]
fn without_the_socket_each_line_has_the_priority() {
    let directory = tempfile::tempdir().unwrap();
    let output = refused(&directory, "", "");
    let lines: Option<Vec<&str>> =
        output.stderr.lines().map(|line| line.strip_prefix("<3>")).collect();
    let lines = lines.unwrap_or_else(|| panic!("{}", output.stderr));
    assert_two_lines(&lines.join("\n"), &directory.path().join("config.yaml"));
}

/// A shell of a user's session inherits the variable; what it starts writes elsewhere.
#[test]
fn a_stream_that_is_not_stderr_is_not_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let output = refused(&directory, "", "9:12345");
    let message = output.stderr.strip_prefix("tunless: ");
    let message = message.unwrap_or_else(|| panic!("{}", output.stderr));
    assert_two_lines(message, &directory.path().join("config.yaml"));
}

#[test]
fn a_bad_rust_log_is_reported_once() {
    let mut command = Command::new(tunless_binary().unwrap());
    command.env("RUST_LOG", "inof").arg("version");
    let output = cmd::run(&mut command, b"", cmd::DEADLINE).unwrap();
    assert_eq!(output.status, Some(0));
    assert!(output.stdout.starts_with("tunless "), "{}", output.stdout);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    for said in ["WARN", "RUST_LOG=inof", "`inof` is not a level", "info,dataplane_user=debug"] {
        assert!(output.stderr.contains(said), "no {said} in {}", output.stderr);
    }
}
