//! What is answered to a request.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    figures::Figures,
    health::{self, Verdict},
};
use crate::{bpf::Pins, clock, config::HttpConfig, daemon::report::State, metrics::Format};

/// What answers are made of.
#[derive(Clone)]
pub struct Site {
    /// Whose maps are shown.
    pub pins: Pins,
    /// The configuration that is active.
    pub config: watch::Receiver<HttpConfig>,
    /// The daemon's report, as `tunless status` reads it.
    pub report: watch::Receiver<Arc<State>>,
    /// The figures that were read last.
    pub figures: Arc<Mutex<Figures>>,
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Index,
    Metrics,
    Health,
    Ready,
    /// No such page.
    Unknown,
    /// The request is not one that only reads.
    Refused,
}

/// What a client is sent to.
const INDEX: &str = "tunless\n/metrics  figures for Prometheus\n/healthz  whether the daemon works\n\
                     /readyz   whether this node carries pod traffic\n";

/// Answers a request. Its body is not read.
pub async fn answer<B>(
    site: &Site,
    request: &Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let state = || Arc::clone(&site.report.borrow());
    Ok(match page(request.method(), request.uri().path()) {
        Page::Index => text(StatusCode::OK, INDEX.to_owned()),
        Page::Metrics => metrics(site, Format::accepted(&accept(request.headers()))).await,
        Page::Health => verdict(health::alive(&state(), clock::monotonic())),
        Page::Ready => {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            verdict(health::ready(&state(), clock::monotonic(), unix.as_secs()))
        }
        Page::Unknown => text(StatusCode::NOT_FOUND, INDEX.to_owned()),
        Page::Refused => {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refusal
        }
    })
}

fn page(method: &Method, path: &str) -> Page {
    if method != Method::GET && method != Method::HEAD {
        return Page::Refused;
    }
    match path {
        "/" => Page::Index,
        "/metrics" => Page::Metrics,
        "/healthz" => Page::Health,
        "/readyz" => Page::Ready,
        _ => Page::Unknown,
    }
}

/// All lines of it as one.
fn accept(headers: &HeaderMap) -> String {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.collect::<Vec<_>>().join(",")
}

/// Maps are read in a thread of its own, so that health is answered meanwhile.
async fn metrics(site: &Site, format: Format) -> Response<Full<Bytes>> {
    let Site { pins, config, report, figures } = site.clone();
    let made = spawn_blocking(move || {
        let (state, nodes) = (Arc::clone(&report.borrow()), config.borrow().nodes);
        // A thread that panicked left an answer that is whole, or none.
        let mut figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.get(&pins, &state, nodes, format)
    });
    match made.await {
        Ok(Ok(body)) => respond(StatusCode::OK, format.content_type(), body),
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be read\n".to_owned()),
    }
}

fn verdict((is_so, body): Verdict) -> Response<Full<Bytes>> {
    text(if is_so { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
