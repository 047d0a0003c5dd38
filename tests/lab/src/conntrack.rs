//! What a node's connection tracking remembers, by the `conntrack` tool.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `tcp`, `udp` …
    pub protocol: String,
    /// How long it is remembered if no further packet comes, seconds.
    pub seconds: u32,
    /// TCP's state, e.g. `TIME_WAIT`.
    pub state: Option<String>,
    /// Who began it; port 0 where there are no ports.
    pub source: SocketAddrV4,
    /// Whom it was sent to.
    pub destination: SocketAddrV4,
    /// Who answers: the destination, unless it was translated.
    pub answers_from: SocketAddrV4,
    /// Whom answers are sent to: the source, unless it was translated.
    pub answers_to: SocketAddrV4,
}

/// All IPv4 entries of a node.
pub fn list(node: &Netns) -> Result<Vec<Entry>> {
    let text = node.exec("conntrack", &["-L", "-f", "ipv4"])?;
    text.lines().map(|line| parse(line).with_context(|| format!("not an entry: {line}"))).collect()
}

/// Forgets all entries of a node.
pub fn flush(node: &Netns) -> Result<()> {
    node.exec("conntrack", &["-F"]).map(drop)
}

/// Deletes the entries that `words` select, as in `-p udp --orig-src 10.20.42.31`;
/// that there is none is fine.
pub fn delete(node: &Netns, words: &str) -> Result<()> {
    let args: Vec<&str> = ["-D", "-f", "ipv4"].into_iter().chain(words.split(' ')).collect();
    let output = node.try_exec("conntrack", &args, crate::cmd::DEADLINE)?;
    let none = output.stderr.contains(" 0 flow entries have been deleted");
    anyhow::ensure!(output.success() || none, "conntrack -D {words}: {}", output.stderr);
    Ok(())
}

/// `tcp 6 431999 ESTABLISHED src=… dst=… sport=… dport=… src=… … [ASSURED] …`
fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let protocol = words.next()?.to_owned();
    let seconds = words.nth(1)?.parse().ok()?;
    let state = words.next().filter(|word| !word.contains(['=', '[']));
    let all = |key: &str| -> Vec<&str> {
        let prefix = format!("{key}=");
        line.split_whitespace().filter_map(|word| word.strip_prefix(prefix.as_str())).collect()
    };
    let (sources, destinations) = (all("src"), all("dst"));
    let (source_ports, destination_ports) = (all("sport"), all("dport"));
    let end = |addresses: &[&str], ports: &[&str], n: usize| -> Option<SocketAddrV4> {
        let address: Ipv4Addr = addresses.get(n)?.parse().ok()?;
        let port = ports.get(n).map_or(Some(0), |port| port.parse().ok())?;
        Some(SocketAddrV4::new(address, port))
    };
    Some(Entry {
        protocol,
        seconds,
        state: state.map(str::to_owned),
        source: end(&sources, &source_ports, 0)?,
        destination: end(&destinations, &destination_ports, 0)?,
        answers_from: end(&sources, &source_ports, 1)?,
        answers_to: end(&destinations, &destination_ports, 1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let tcp = parse(
            "tcp      6 117 TIME_WAIT src=10.20.105.215 dst=10.10.48.254 sport=40112 dport=80 \
             src=10.20.42.31 dst=10.20.105.215 sport=8080 dport=40112 [ASSURED] mark=0 use=1",
        );
        let tcp = tcp.unwrap();
        assert_eq!((tcp.protocol.as_str(), tcp.state.as_deref()), ("tcp", Some("TIME_WAIT")));
        assert_eq!(tcp.seconds, 117);
        assert_eq!(tcp.destination.to_string(), "10.10.48.254:80");
        assert_eq!(tcp.answers_from.to_string(), "10.20.42.31:8080");
        assert_eq!(tcp.answers_to, tcp.source);
        let udp = parse(
            "udp      17 29 src=10.20.105.215 dst=10.20.42.31 sport=1 dport=2 [UNREPLIED] \
             src=10.20.42.31 dst=10.20.105.215 sport=2 dport=1 mark=0 use=1",
        );
        let udp = udp.unwrap();
        assert_eq!((udp.protocol.as_str(), udp.state), ("udp", None));
        let icmp = parse(
            "icmp     1 29 src=10.20.105.215 dst=10.20.42.31 type=8 code=0 id=7 \
             src=10.20.42.31 dst=10.20.105.215 type=0 code=0 id=7 mark=0 use=1",
        );
        assert_eq!(icmp.unwrap().source.port(), 0);
        assert_eq!(parse("rubbish"), None);
    }
}
