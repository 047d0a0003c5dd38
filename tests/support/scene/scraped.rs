//! What a node's daemon answers over HTTP.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use tunless_lab::{Node, traffic::http};

use super::SOON;

/// Where daemons answer unless the file has another address.
pub const DEFAULT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9469);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200, 503 …
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// All behind them.
    pub body: String,
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_lowercase(), body: body.to_owned() })
    }

    /// The value of each series, by its name and labels as they are written.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let lines = self.body.lines().filter(|line| !line.starts_with('#'));
        let figure = |line: &str| {
            let (series, value) = line.rsplit_once(' ').expect("a value behind a space");
            (series.to_owned(), value.parse().expect("a number"))
        };
        let figures: Vec<_> = lines.map(figure).collect();
        let by_name: BTreeMap<_, _> = figures.iter().cloned().collect();
        assert_eq!(by_name.len(), figures.len(), "a series is there twice");
        by_name
    }

    /// One figure.
    pub fn figure(&self, series: &str) -> f64 {
        let figures = self.figures();
        *figures.get(series).unwrap_or_else(|| panic!("no {series} in\n{}", self.body))
    }
}

/// Asks on the node itself, with further lines of header; an error if no whole answer came.
pub fn ask(node: &Node, method: &str, path: &str, header: &str) -> Result<Answer, String> {
    ask_at(node, DEFAULT, method, path, header)
}

/// [`ask`] at another address.
pub fn ask_at(
    node: &Node,
    address: SocketAddrV4,
    method: &str,
    path: &str,
    header: &str,
) -> Result<Answer, String> {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}\r\n");
    let text = http::send(&node.netns, address, &request, SOON);
    let text = text.map_err(|error| format!("{error:#}"))?;
    Answer::parse(&text).ok_or_else(|| format!("a strange answer: {text:?}"))
}

/// `GET` on the node itself.
///
/// # Panics
/// If there is no answer.
pub fn get(node: &Node, path: &str) -> Answer {
    ask(node, "GET", path, "").unwrap_or_else(|error| panic!("{path}: {error:#}"))
}
