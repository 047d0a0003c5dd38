//! `ping`, and what it printed, parsed.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, bail};

use crate::{cmd, netns::Netns};

/// How to ping.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many echo requests (3).
    pub count: u32,
    /// ICMP payload bytes (56); the IP packet is 28 longer.
    pub size: u32,
    /// Whether requests carry DF (no).
    pub df: bool,
    /// The TTL of requests (the kernel's 64).
    pub ttl: Option<u8>,
    /// The DS field (0), ECN bits included.
    pub tos: u8,
    /// The pause between requests (50 ms).
    pub interval: Duration,
    /// How long to wait for answers after the last request (2 s). Tests that
    /// expect none set it low.
    pub wait: Duration,
    /// The source address (the kernel's choice).
    pub source: Option<Ipv4Addr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            count: 3,
            size: 56,
            df: false,
            ttl: None,
            tos: 0,
            interval: Duration::from_millis(50),
            wait: Duration::from_secs(2),
            source: None,
        }
    }
}

/// One echo reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Who answered.
    pub from: Ipv4Addr,
    /// Which request it answers, counted from 1.
    pub seq: u32,
    /// The TTL it arrived with.
    pub ttl: u8,
    /// Round trip.
    pub millis: f64,
}

/// Something other than a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// ICMP 3/4 from a router, with the MTU it names.
    FragNeeded {
        /// Who says so.
        from: Ipv4Addr,
        /// The next hop's MTU.
        mtu: u32,
    },
    /// Our own kernel refused the packet: it knows this path MTU.
    TooLong {
        /// The path MTU.
        mtu: u32,
    },
    /// ICMP 11/0.
    TimeExceeded {
        /// Who says so.
        from: Ipv4Addr,
    },
    /// Any other ICMP error.
    Other {
        /// Who says so.
        from: Ipv4Addr,
        /// In `ping`'s words.
        text: String,
    },
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// The answers in the order they came.
    pub replies: Vec<Reply>,
    /// ICMP errors and refusals.
    pub troubles: Vec<Trouble>,
    /// All that `ping` printed, for the demo and for failure messages.
    pub text: String,
}

impl Report {
    /// Whether every request was answered.
    #[must_use]
    pub fn all_answered(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }

    /// The one TTL that all replies carry, if they agree.
    #[must_use]
    pub fn ttl(&self) -> Option<u8> {
        let first = self.replies.first()?.ttl;
        self.replies.iter().all(|reply| reply.ttl == first).then_some(first)
    }

    /// The MTU named by the first frag-needed, or known by our own kernel.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        self.troubles.iter().find_map(|trouble| match trouble {
            Trouble::FragNeeded { mtu, .. } | Trouble::TooLong { mtu } => Some(*mtu),
            _ => None,
        })
    }
}

/// Pings `to` from a namespace. Unanswered requests are an answer, not an error.
pub fn ping(from: &Netns, to: Ipv4Addr, options: &Options) -> Result<Report> {
    let Options { count, size, df, ttl, tos, interval, wait, source } = options;
    let mut command = from.command("ping");
    command.env("LC_ALL", "C").args(["-n", "-M", if *df { "do" } else { "dont" }]);
    command.args(["-c", &count.to_string(), "-s", &size.to_string(), "-Q", &tos.to_string()]);
    command.args(["-i", &interval.as_secs_f64().to_string()]);
    command.args(["-W", &wait.as_secs_f64().to_string()]);
    if let Some(ttl) = ttl {
        command.args(["-t", &ttl.to_string()]);
    }
    if let Some(source) = source {
        command.args(["-I", &source.to_string()]);
    }
    command.arg(to.to_string());
    let deadline = cmd::DEADLINE + *interval * *count + *wait;
    let output = cmd::run(&mut command, b"", deadline)?;
    let text = format!("{}{}", output.stdout, output.stderr);
    match parse(&text) {
        Some(report) => Ok(report),
        // 0: answered, 1: not answered, 2: ping itself failed.
        None => bail!("`{}` ended with {:?}: {text}", cmd::show(&command), output.status),
    }
}

fn parse(text: &str) -> Option<Report> {
    let mut report =
        Report { sent: 0, received: 0, replies: vec![], troubles: vec![], text: text.to_owned() };
    let mut summary = false;
    for line in text.lines() {
        if let Some(reply) = parse_reply(line) {
            report.replies.push(reply);
        } else if let Some(trouble) = parse_trouble(line) {
            report.troubles.push(trouble);
        } else if let Some((sent, rest)) = line.split_once(" packets transmitted, ") {
            report.sent = sent.parse().ok()?;
            report.received = rest.split(' ').next()?.parse().ok()?;
            summary = true;
        }
    }
    summary.then_some(report)
}

/// `64 bytes from 10.20.42.31: icmp_seq=1 ttl=62 time=0.125 ms`
fn parse_reply(line: &str) -> Option<Reply> {
    let (_, rest) = line.split_once(" bytes from ")?;
    let (from, fields) = rest.split_once(": ")?;
    Some(Reply {
        from: from.parse().ok()?,
        seq: field(fields, "icmp_seq=")?.parse().ok()?,
        ttl: field(fields, "ttl=")?.parse().ok()?,
        millis: field(fields, "time=")?.parse().ok()?,
    })
}

/// `From 172.16.36.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)`, or
/// `ping: local error: message too long, mtu=1400`
fn parse_trouble(line: &str) -> Option<Trouble> {
    if line.contains("local error") {
        return Some(Trouble::TooLong { mtu: field(line, "mtu=")?.parse().ok()? });
    }
    let rest = line.strip_prefix("From ")?;
    let (from, rest) = rest.split_once(' ')?;
    let from = from.trim_end_matches(':').parse().ok()?;
    let text = rest.split_once(' ').map_or(rest, |(_, text)| text);
    Some(if text.starts_with("Frag needed") {
        Trouble::FragNeeded { from, mtu: field(text, "mtu = ")?.parse().ok()? }
    } else if text.starts_with("Time to live exceeded") {
        Trouble::TimeExceeded { from }
    } else {
        Trouble::Other { from, text: text.to_owned() }
    })
}

/// What follows `key`, up to a blank or a closing bracket.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(key)?;
    rest.split([' ', ')', ',']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_understood() {
        let report = parse(
            "PING 10.20.42.31 (10.20.42.31) 56(84) bytes of data.\n\
             64 bytes from 10.20.42.31: icmp_seq=1 ttl=62 time=0.125 ms\n\
             From 172.16.36.1 icmp_seq=2 Frag needed and DF set (mtu = 1400)\n\
             From 172.16.36.1 icmp_seq=3 Time to live exceeded\n\
             From 172.16.36.10 icmp_seq=4 Destination Host Unreachable\n\
             ping: local error: message too long, mtu=1480\n\n\
             --- 10.20.42.31 ping statistics ---\n\
             5 packets transmitted, 1 received, +3 errors, 80% packet loss, time 4ms\n",
        )
        .unwrap();
        assert_eq!((report.sent, report.received, report.ttl()), (5, 1, Some(62)));
        assert_eq!(report.mtu(), Some(1400));
        let router = Ipv4Addr::new(172, 16, 36, 1);
        assert_eq!(
            report.troubles,
            [
                Trouble::FragNeeded { from: router, mtu: 1400 },
                Trouble::TimeExceeded { from: router },
                Trouble::Other {
                    from: Ipv4Addr::new(172, 16, 36, 10),
                    text: "Destination Host Unreachable".to_owned()
                },
                Trouble::TooLong { mtu: 1480 },
            ]
        );
        assert!(parse("ping: connect: Network is unreachable\n").is_none());
    }
}
