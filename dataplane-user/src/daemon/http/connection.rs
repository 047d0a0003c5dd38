//! One client. It may be slow or hostile: what it costs is bounded, and it keeps its place for a
//! bounded time.

use std::{future::Future, pin::pin, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};

/// How long a client may take to send the head of a request, from the last answer on.
const HEAD: Duration = Duration::from_secs(10);
/// How long the head of a request may be, bytes.
const HEAD_SIZE: usize = 16 << 10;
/// How many headers it may have.
const HEADERS: usize = 64;
/// How long a connection lasts. A request that is being answered then is answered; a client that wants
/// more connects again.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long the last answer may take to be read.
const LAST: Duration = Duration::from_secs(10);

/// Answers the requests that come on a connection, until either side ends it.
pub async fn serve<S, A, F>(stream: S, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Full<Bytes>>, std::convert::Infallible>>,
{
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_SIZE)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service_fn(answer))
    );
    tokio::select! {
        // A client that breaks off, or that sends anything but HTTP, has been answered or is gone.
        _ = connection.as_mut() => return,
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(timeout(LAST, connection).await);
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;

    /// More than the pipe to the client holds.
    const BODY: usize = 1 << 20;

    /// Serves a client that sends this and then waits; returns how long, and the client's end.
    async fn serve_one(request: &[u8]) -> (Duration, DuplexStream) {
        let (mut client, server) = duplex(64 << 10);
        client.write_all(request).await.unwrap();
        let began = Instant::now();
        serve(server, |_| async { Ok(Response::new(Full::new(Bytes::from(vec![b'x'; BODY])))) })
            .await;
        (began.elapsed(), client)
    }

    fn is_about(found: Duration, expected: Duration) -> bool {
        found >= expected && found < expected + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_no_whole_request_is_sent_away() {
        for request in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nHost: a\r\n"] {
            let (took, mut client) = serve_one(request).await;
            assert!(is_about(took, HEAD), "{took:?}");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert!(!answer.contains(&b'x'), "no request, no answer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_the_answer_is_sent_away() {
        let (took, _client) = serve_one(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(is_about(took, LIFETIME + LAST), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_request_is_refused_at_once() {
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(2 * HEAD_SIZE));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1));
        for request in ["\0\0\0\r\n\r\n", &long, &many] {
            let (took, mut client) = serve_one(request.as_bytes()).await;
            assert!(took < Duration::from_secs(1), "{took:?}");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }
}
