//! One question to the API and its answer.

use std::{future::Future, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::{
    api::{ListParams, WatchEvent, WatchParams},
    core::Request,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use super::{
    access::Resource,
    connect::Api,
    failure::{self, Attempt},
    object::{self, Object},
};
use crate::sources::error::SourceError;

/// How long an answer may take to come; the API itself gives up after this time.
const ANSWER: Duration = Duration::from_secs(60);
/// Objects in a page. A node takes some 30 KB, most of it names of images.
const PAGE: u32 = 250;
/// After this time the API ends a watch, seconds; the next one takes over.
const WATCH: u32 = 290;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Of which resource.
    pub resource: Resource,
    /// How much of each object.
    pub part: Part,
    /// How old the answer to a list may be.
    pub freshness: Freshness,
    /// The one object of this name.
    pub name: Option<String>,
}

/// How much of an object is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// Its `metadata`: a node has ten times as much besides.
    Metadata,
}

/// How old the answer to a list may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// As old as the watch cache of whichever API server answers: that costs etcd nothing.
    Cached,
    /// Likewise, but not older than this version.
    NotOlderThan(String),
    /// Read from etcd by a quorum.
    Latest,
}

impl Ask {
    /// Whole objects, as they are.
    pub fn whole(resource: Resource) -> Self {
        Self { resource, part: Part::Whole, freshness: Freshness::Latest, name: None }
    }
}

/// A part of a collection, as the API says it.
#[derive(Deserialize)]
pub struct Page {
    metadata: ListMetadata,
    /// Go's empty list may be `null`. Left out it is no list at all.
    #[serde(deserialize_with = "items")]
    pub items: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

fn items<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Asks what is at `path`, which lists resources.
pub async fn discover<T: DeserializeOwned>(api: &Api, path: &str) -> Result<T, SourceError> {
    let request = Request::new(path).list(&ListParams::default());
    ask(api, Attempt::Discover, request).await
}

/// Some objects, after those that `next` stands for.
pub async fn page(
    api: &Api,
    ask_for: Ask,
    limit: u32,
    next: Option<String>,
) -> Result<Page, SourceError> {
    let Ask { resource, part, freshness, name } = ask_for;
    let is_first = next.is_none();
    let parameters = ListParams {
        limit: Some(limit),
        continue_token: next,
        field_selector: name.as_deref().map(only),
        ..ListParams::default()
    };
    let path = Request::new(resource.path());
    let request = match part {
        Part::Whole => path.list(&parameters),
        Part::Metadata => path.list_metadata(&parameters),
    };
    let request = request.map(|mut request| {
        // Further pages are of the version of the first.
        if is_first {
            add_freshness(&mut request, &freshness);
        }
        request
    });
    ask(api, Attempt::List(resource), request).await
}

/// Selects the one object of a name.
fn only(name: &str) -> String {
    format!("metadata.name={name}")
}

/// Adds how old the answer may be. kube leaves version 0 out where there is a limit.
fn add_freshness(request: &mut http::Request<Vec<u8>>, freshness: &Freshness) {
    let version = match freshness {
        Freshness::Cached => "0",
        Freshness::NotOlderThan(version) => version,
        Freshness::Latest => return,
    };
    let uri =
        format!("{}&resourceVersion={version}&resourceVersionMatch=NotOlderThan", request.uri());
    if let Ok(uri) = uri.parse() {
        *request.uri_mut() = uri;
    }
}

/// All objects, and the version to watch from.
pub async fn list(api: &Api, ask_for: &Ask) -> Result<(Vec<Object>, String), SourceError> {
    let kind = ask_for.resource.kind;
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let page = page(api, ask_for.clone(), PAGE, next).await?;
        let read = |raw: &RawValue| object::read_text(kind, raw.get());
        objects.extend(page.items.iter().map(|raw| read(raw)));
        next = page.metadata.next.filter(|next| !next.is_empty());
        if next.is_none() {
            return Ok((objects, page.metadata.resource_version));
        }
    }
}

/// What happens after `version` to what is asked for; opens when the API has accepted.
pub async fn watch<'a>(
    api: &'a Api,
    ask_for: &Ask,
    version: &str,
) -> Result<impl Stream<Item = Result<WatchEvent<Value>, SourceError>> + use<'a>, SourceError> {
    let attempt = Attempt::Watch(ask_for.resource);
    let parameters = WatchParams {
        bookmarks: true,
        timeout: Some(WATCH),
        field_selector: ask_for.name.as_deref().map(only),
        ..WatchParams::default()
    };
    let path = Request::new(ask_for.resource.path());
    let request = match ask_for.part {
        Part::Whole => path.watch(&parameters, version),
        Part::Metadata => path.watch_metadata(&parameters, version),
    };
    let request = request.map_err(|error| api.endpoint.error(error))?;
    let events = within(api, attempt, api.client.request_events(request)).await?;
    let failure = move |error| failure::of(&api.endpoint, attempt, &error);
    Ok(events.map(move |event: kube::Result<_>| event.map_err(failure)))
}

/// Asks once.
pub async fn ask<T: DeserializeOwned>(
    api: &Api,
    attempt: Attempt,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<T, SourceError> {
    let request = request.map_err(|error| api.endpoint.error(error))?;
    // The client would log the whole of an answer it cannot parse.
    let text = within(api, attempt, api.client.request_text(request)).await?;
    serde_json::from_str(&text).map_err(|error| failure::no_answer(&api.endpoint, attempt, &error))
}

async fn within<T>(
    api: &Api,
    attempt: Attempt,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(|error| failure::of(&api.endpoint, attempt, &error)),
        Err(_) => Err(api
            .endpoint
            .error(format!("no answer in {} s when we {attempt}", ANSWER.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_items_is_no_empty_list() {
        let parse = |text| serde_json::from_str::<Page>(text).map(|page| page.items.len());
        let with_items = r#"{"metadata": {"resourceVersion": "7"}, "items": [{}, 3]}"#;
        assert_eq!(parse(with_items).unwrap(), 2);
        assert_eq!(parse(r#"{"metadata": {"resourceVersion": "7"}, "items": null}"#).unwrap(), 0);
        for garbage in [
            "{}",
            "[]",
            r#"{"metadata": {"resourceVersion": "7"}}"#,
            r#"{"metadata": {}, "items": []}"#,
            r#"{"metadata": {"resourceVersion": "7"}, "items": {}}"#,
        ] {
            assert!(parse(garbage).is_err(), "{garbage}");
        }
    }
}
