//! HTTP/1.1: requests without a body, answers with a length, watches in chunks.

use std::{
    io::{Read, Write},
    sync::PoisonError,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use super::{
    Shared,
    answer::{Answer, answer, watch},
};

/// More than any request of ours.
const LONGEST: usize = 64 * 1024;

/// What was asked.
pub(super) struct Request {
    /// Path and query.
    pub target: String,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// Whether `Accept` asks for nothing but metadata.
    pub metadata_only: bool,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A part of the query; ours need no decoding, but for the two characters of
    /// our own continue tokens.
    pub fn query(&self, key: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut parts = query.split('&').filter_map(|part| part.split_once('='));
        let (_, value) = parts.find(|(name, _)| *name == key)?;
        Some(value.replace("%2F", "/").replace("%3A", ":").replace("%3D", "="))
    }
}

/// Answers one request after the other.
pub(super) fn serve(mut socket: impl Read + Write, shared: &Shared) -> Result<()> {
    let mut read = Vec::new();
    while let Some(request) = next(&mut socket, &mut read)? {
        let mut state = shared.lock();
        state.requests.push(request.target.clone());
        let came = Instant::now();
        // As long as it is slow: it may become quick, or go down, meanwhile.
        while let Some(left) = state.delay.checked_sub(came.elapsed()).filter(|it| !it.is_zero())
            && !state.is_down
        {
            let waited = shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let answer = answer(&mut state, &request);
        state.count(request.path(), 1, 0);
        drop(state);
        match answer {
            Answer::Text(status, text) => {
                shared.lock().count(request.path(), 0, text.len());
                write!(
                    socket,
                    "HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\n\
                     content-length: {}\r\n\r\n{text}",
                    text.len()
                )?;
                socket.flush()?;
            }
            Answer::Watch { path, version, metadata_only, name } => {
                write!(
                    socket,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                     transfer-encoding: chunked\r\n\r\n"
                )?;
                socket.flush()?;
                watch(&mut socket, shared, (&path, name.as_deref()), version, metadata_only)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn next(socket: &mut impl Read, read: &mut Vec<u8>) -> Result<Option<Request>> {
    let mut part = [0; 4096];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(length) = request.parse(read)? {
            let target = request.path.context("a request names a path")?.to_owned();
            let header = |name: &str| {
                let found = request.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name));
                found.map(|header| String::from_utf8_lossy(header.value).into_owned())
            };
            let authorization = header("authorization");
            let metadata_only =
                header("accept").is_some_and(|accept| accept.contains("as=PartialObjectMetadata"));
            read.drain(..length);
            return Ok(Some(Request { target, authorization, metadata_only }));
        }
        if read.len() > LONGEST {
            bail!("a request without end");
        }
        match socket.read(&mut part)? {
            0 => return Ok(None),
            length => read.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
}

/// One piece of a watch.
pub(super) fn chunk(socket: &mut impl Write, text: &str) -> Result<()> {
    write!(socket, "{:x}\r\n{text}\r\n", text.len())?;
    Ok(socket.flush()?)
}
