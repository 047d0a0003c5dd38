//! One connection to BIRD's control socket: a question, then all of its answer.

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    Result,
    reply::{Line, Parsed, parse},
};
use crate::sources::error::{Endpoint, SourceError};

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
    endpoint: Endpoint,
    stream: BufReader<UnixStream>,
    raw: Vec<u8>,
    /// `BIRD 2.0.12 ready.`
    greeting: String,
}

impl Client {
    /// Connects, and gives up the right to change anything in BIRD.
    ///
    /// # Errors
    /// If no process listens there, access is denied, or the other side is not BIRD.
    pub async fn connect(socket: &Path, endpoint: &Endpoint) -> Result<Self> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|error| endpoint.error(format!("cannot connect: {error}")))?;
        let endpoint = endpoint.clone();
        let mut client = Self {
            endpoint,
            stream: BufReader::new(stream),
            raw: Vec::new(),
            greeting: String::new(),
        };
        let mut greeting = None;
        let answer = client.answer(|line| greeting = Some((line.code, line.text.to_owned()))).await;
        answer.map_err(|error| error.during("no greeting"))?;
        if let Some((WELCOME, text)) = greeting {
            client.greeting = text;
        } else {
            return Err(client.endpoint.error("it does not greet as BIRD does"));
        }
        client.ask("restrict", |_| {}).await?;
        Ok(client)
    }

    /// Asks; `take` gets each line of the answer but an error.
    ///
    /// # Errors
    /// If BIRD refuses, does not answer, closes the connection, or sends what is not its
    /// language. After all but a refusal the connection is of no more use.
    pub async fn ask(&mut self, command: &str, take: impl FnMut(Line<'_>)) -> Result<()> {
        let question = format!("{command}\n");
        let doing = format!("`{command}`");
        let written = self.stream.write_all(question.as_bytes()).await;
        written.map_err(|_| self.closed().during(&doing))?;
        self.answer(take).await.map_err(|error| error.during(&doing))
    }

    async fn answer(&mut self, mut take: impl FnMut(Line<'_>)) -> Result<()> {
        let mut before = None;
        for _ in 0..LINES {
            let raw = self.line().await?;
            match parse(&raw, before) {
                Parsed::News => {}
                Parsed::Garbage => {
                    return Err(self.endpoint.error(format!("this is not BIRD's language: {raw}")));
                }
                Parsed::Line(line) if line.is_error() => {
                    let refusal = format!("refused: {:04} {}", line.code, line.text);
                    return Err(self.endpoint.error(refusal));
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
        Err(self.endpoint.error(format!("BIRD sent an answer of more than {LINES} lines")))
    }

    async fn line(&mut self) -> Result<String> {
        self.raw.clear();
        let mut limited = (&mut self.stream).take(LINE);
        let read = timeout(SILENCE, limited.read_until(b'\n', &mut self.raw)).await;
        let silent =
            |_| self.endpoint.error(format!("BIRD did not answer within {} s", SILENCE.as_secs()));
        let broken = |error| self.endpoint.error(format!("the connection broke: {error}"));
        read.map_err(silent)?.map_err(broken)?;
        if self.raw.is_empty() {
            return Err(self.closed());
        }
        if self.raw.pop() != Some(b'\n') {
            let what = "BIRD sent a line longer than 64 KiB, or closed the connection inside one";
            return Err(self.endpoint.error(what));
        }
        Ok(String::from_utf8_lossy(&self.raw).into_owned())
    }

    /// Returns whether this is BIRD 1, whose tables have other names.
    pub fn is_version_1(&self) -> bool {
        self.greeting.starts_with("BIRD 1.")
    }

    /// Makes an error of this BIRD.
    pub fn error(&self, why: &str) -> SourceError {
        self.endpoint.error(why)
    }

    fn closed(&self) -> SourceError {
        self.endpoint.error("BIRD closed the control socket")
    }
}
