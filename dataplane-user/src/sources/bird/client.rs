//! One connection to BIRD's control socket: a question, then all of its answer.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::reply::{Line, Parsed, parse};

/// How long BIRD may be silent in the middle of an answer. It is one thread: a
/// large table or a reconfiguration can keep it busy.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest line that is read, bytes; an AS path can be long.
const LINE: u64 = 1 << 16;
/// The longest answer, lines: a million routes with a dozen attributes each.
const LINES: usize = 16_000_000;
/// The code of the greeting.
const WELCOME: u16 = 1;

/// See the [module](self).
pub struct Client {
    stream: BufReader<UnixStream>,
    raw: Vec<u8>,
}

impl Client {
    /// Connects, and gives up the right to change anything in BIRD.
    ///
    /// # Errors
    /// If nobody listens there, we may not, or it is not BIRD.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await.context("cannot connect")?;
        let mut client = Self { stream: BufReader::new(stream), raw: Vec::new() };
        let mut greeting = None;
        client.answer(|line| greeting = Some(line.code)).await.context("no greeting of BIRD's")?;
        ensure!(greeting == Some(WELCOME), "it does not greet as BIRD does");
        client.ask("restrict", |_| {}).await?;
        Ok(client)
    }

    /// Asks; `take` gets each line of the answer but an error.
    ///
    /// # Errors
    /// If BIRD refuses, is silent, goes away, or says what is not its language.
    /// After all but a refusal the connection is of no more use.
    pub async fn ask(&mut self, command: &str, take: impl FnMut(Line<'_>)) -> Result<()> {
        let question = format!("{command}\n");
        self.stream.write_all(question.as_bytes()).await.context("it is gone")?;
        self.answer(take).await.with_context(|| format!("`{command}`"))
    }

    async fn answer(&mut self, mut take: impl FnMut(Line<'_>)) -> Result<()> {
        let mut before = None;
        for _ in 0..LINES {
            let raw = self.line().await?;
            match parse(&raw, before) {
                Parsed::News => {}
                Parsed::Garbage => bail!("this is not BIRD's language: {}", excerpt(&raw)),
                Parsed::Line(line) if line.is_error() => {
                    bail!("refused: {:04} {}", line.code, excerpt(line.text))
                }
                Parsed::Line(line) => {
                    before = Some(line.code);
                    take(line);
                    if line.is_last {
                        return Ok(());
                    }
                }
            }
        }
        bail!("the answer has no end")
    }

    async fn line(&mut self) -> Result<String> {
        self.raw.clear();
        let mut limited = (&mut self.stream).take(LINE);
        let read = timeout(SILENCE, limited.read_until(b'\n', &mut self.raw));
        let read = read.await.with_context(|| format!("silent for {} s", SILENCE.as_secs()))?;
        read.context("the connection broke")?;
        ensure!(!self.raw.is_empty(), "the connection was closed");
        ensure!(self.raw.pop() == Some(b'\n'), "a line without an end");
        Ok(String::from_utf8_lossy(&self.raw).into_owned())
    }
}

/// So much of a text as fits into a message, control characters made harmless.
pub fn excerpt(text: &str) -> String {
    const MOST: usize = 80;
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.trim().chars().take(MOST).map(printable).collect();
    if text.trim().chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
