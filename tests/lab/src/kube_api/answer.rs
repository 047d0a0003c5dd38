//! What the API says to a request.

use std::{io::Write, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Shared,
    connection::{Request, chunk},
    store::{Collection, State, Trouble},
};

/// How often a watch looks whether it has to end.
const LOOK: Duration = Duration::from_millis(50);

/// What becomes of a request.
pub(super) enum Answer {
    /// Status and body.
    Text(u16, String),
    /// What happens after `version`, as it happens.
    Watch {
        /// Of the collection.
        path: String,
        /// The last that is known.
        version: u64,
        /// Whether events hold nothing but metadata.
        metadata_only: bool,
        /// Of the object of this name alone.
        name: Option<String>,
    },
}

impl Answer {
    fn json(value: &Value) -> Self {
        Self::Text(200, value.to_string())
    }

    fn failure(code: u16, reason: &str, message: &str) -> Self {
        Self::Text(code, status(code, reason, message).to_string())
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    let path = request.path();
    if let Some((status, text)) = state.answers.get(path) {
        return Answer::Text(*status, text.clone());
    }
    if let Some(token) = &state.token
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return Answer::failure(401, "Unauthorized", "Unauthorized");
    }
    if let Some(collection) = state.collections.get(path) {
        let is_watch = request.query("watch").is_some_and(|watch| watch == "true" || watch == "1");
        let verb = if is_watch { "watch" } else { "list" };
        if state.forbidden.contains(&(verb.to_owned(), path.to_owned())) {
            return forbidden(verb, path);
        }
        return if is_watch {
            begin_watch(state, request)
        } else {
            list(state, collection, request)
        };
    }
    discovery(state, path)
}

fn forbidden(verb: &str, path: &str) -> Answer {
    let (group, resource) = group_and_resource(path);
    let group = group.split('/').next().filter(|group| *group != "v1").unwrap_or_default();
    let message = format!(
        "{resource} is forbidden: User \"system:serviceaccount:kube-system:tunless\" cannot {verb} \
         resource \"{resource}\" in API group \"{group}\" at the cluster scope"
    );
    Answer::failure(403, "Forbidden", &message)
}

/// `crd.projectcalico.org/v1` and `ippools`; the core's group is `v1`.
fn group_and_resource(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches("/apis/").trim_start_matches("/api/");
    path.rsplit_once('/').unwrap_or(("", path))
}

fn discovery(state: &State, path: &str) -> Answer {
    let groups = state.collections.keys().map(|path| group_and_resource(path).0);
    match path {
        "/api" => Answer::json(&json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => {
            let groups = groups.filter(|group| *group != "v1").map(|group| {
                let version = json!({"groupVersion": group, "version": group.split('/').nth(1)});
                let name = group.split('/').next();
                json!({"name": name, "versions": [version], "preferredVersion": version})
            });
            Answer::json(&json!({
                "kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>(),
            }))
        }
        _ => {
            let wanted = path.trim_start_matches("/apis/").trim_start_matches("/api/");
            let those = state.collections.iter();
            let those = those.filter(|(path, _)| group_and_resource(path).0 == wanted);
            let resources = those.map(|(path, collection)| {
                json!({
                    "name": group_and_resource(path).1, "kind": collection.kind,
                    "singularName": collection.kind.to_lowercase(), "namespaced": false,
                    "verbs": ["get", "list", "watch"],
                })
            });
            let resources: Vec<_> = resources.collect();
            if resources.is_empty() {
                // As the API says it, which is no JSON.
                return Answer::Text(404, "404 page not found\n".to_owned());
            }
            Answer::json(&json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": wanted,
                "resources": resources,
            }))
        }
    }
}

/// Tokens are the version of the first page, and the last name on the page before.
fn list(state: &State, collection: &Collection, request: &Request) -> Answer {
    let (mut version, mut after) = (state.version, String::new());
    if let Some(token) = request.query("continue") {
        let Some((first, name)) = token.split_once(':') else {
            return Answer::failure(400, "BadRequest", "continue key is not valid");
        };
        version = first.parse().unwrap_or(0);
        name.clone_into(&mut after);
        if version < state.compacted {
            return expired();
        }
    }
    if let Some(wanted) = request.query("resourceVersion").and_then(|it| it.parse::<u64>().ok())
        && wanted > state.version
    {
        // The cache never gets there: etcd was restored.
        return Answer::failure(504, "Timeout", "Too large resource version");
    }
    let name = selected_name(request);
    let selector = request.query("labelSelector");
    let label = selector.as_deref().and_then(|selector| selector.split_once('='));
    let wanted = request.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let limit = state.page.min(wanted);
    let is_wanted = |it: &String| name.as_ref().is_none_or(|name| it == name);
    let rest = collection.objects.iter().filter(|(name, _)| after.is_empty() || **name > after);
    let is_labelled = |object: &Value| {
        label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value)
    };
    let mut rest = rest.filter(|(name, object)| is_wanted(name) && is_labelled(object));
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let next = rest.next().and_then(|_| page.last()).map(|(name, _)| format!("{version}:{name}"));
    let (group, _) = group_and_resource(request.path());
    let items = page.into_iter().map(|(_, object)| part(object, request.metadata_only));
    let items: Vec<_> = items.collect();
    let kind = if request.metadata_only { "PartialObjectMetadata" } else { collection.kind };
    Answer::json(&json!({
        "kind": format!("{kind}List"), "apiVersion": group,
        "metadata": {"resourceVersion": version.to_string(), "continue": next.unwrap_or_default()},
        "items": items,
    }))
}

/// The name of the one object that is asked for.
fn selected_name(request: &Request) -> Option<String> {
    Some(request.query("fieldSelector")?.strip_prefix("metadata.name=")?.to_owned())
}

/// An object, or its metadata alone.
fn part(object: &Value, metadata_only: bool) -> Value {
    if !metadata_only {
        return object.clone();
    }
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

const EXPIRED: &str = "The resourceVersion for the provided watch is too old.";

fn expired() -> Answer {
    Answer::failure(410, "Expired", EXPIRED)
}

fn begin_watch(state: &State, request: &Request) -> Answer {
    let version = request.query("resourceVersion").and_then(|version| version.parse().ok());
    let version = version.unwrap_or(state.version);
    if version > state.version {
        return Answer::failure(504, "Timeout", "Too large resource version");
    }
    if version < state.compacted && !state.gone_as_event {
        return expired();
    }
    let metadata_only = request.metadata_only;
    let (path, name) = (request.path().to_owned(), selected_name(request));
    Answer::Watch { path, version, metadata_only, name }
}

/// Tells what happens until somebody ends it.
pub(super) fn watch(
    socket: &mut impl Write,
    shared: &Shared,
    (path, name): (&str, Option<&str>),
    version: u64,
    metadata_only: bool,
) -> Result<()> {
    let key = name.map_or_else(|| path.to_owned(), |name| format!("{path}/{name}"));
    let first_trouble = {
        let mut state = shared.lock();
        *state.watches.entry(key.clone()).or_default() += 1;
        state.troubles.len()
    };
    let ended = tell(socket, shared, (path, name), (version, metadata_only), first_trouble);
    if let Some(count) = shared.lock().watches.get_mut(&key) {
        *count = count.saturating_sub(1);
    }
    ended
}

fn tell(
    socket: &mut impl Write,
    shared: &Shared,
    (path, name): (&str, Option<&str>),
    (mut version, metadata_only): (u64, bool),
    mut troubles: usize,
) -> Result<()> {
    loop {
        let mut lines = Vec::new();
        let mut trouble = None;
        {
            let state = shared.lock();
            if state.is_down {
                return Ok(());
            }
            let Some(collection) = state.collections.get(path) else { return close(socket) };
            if version < state.compacted {
                let status = status(410, "Expired", EXPIRED);
                lines.push(json!({"type": "ERROR", "object": status}).to_string());
                trouble = Some(Trouble::Close);
            } else {
                for (at, what, object) in &collection.past {
                    let is_wanted = name.is_none_or(|name| object["metadata"]["name"] == name);
                    if *at > version && is_wanted {
                        version = *at;
                        let object = part(object, metadata_only);
                        lines.push(json!({"type": what, "object": object}).to_string());
                    }
                }
                if let Some((whose, what)) = state.troubles.get(troubles) {
                    troubles += 1;
                    trouble = Some(what.clone()).filter(|_| whose == path);
                    if trouble.is_none() {
                        continue;
                    }
                }
                if trouble == Some(Trouble::Bookmark) {
                    version = state.version;
                    let bookmark = json!({
                        "kind": collection.kind, "apiVersion": group_and_resource(path).0,
                        "metadata": {"resourceVersion": version.to_string()},
                    });
                    lines.push(json!({"type": "BOOKMARK", "object": bookmark}).to_string());
                }
            }
            if lines.is_empty() && trouble.is_none() {
                let (state, _) = shared
                    .changed
                    .wait_timeout(state, LOOK)
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                drop(state);
                continue;
            }
        }
        shared.lock().count(path, 0, lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            chunk(socket, &format!("{line}\n"))?;
        }
        match trouble {
            None | Some(Trouble::Bookmark) => {}
            Some(Trouble::Close) => return close(socket),
            Some(Trouble::Break) => {
                // Announces more than it sends.
                write!(socket, "ff\r\n{{\"type\":\"MODIFIED\",\"object\":{{\"metadata\"")?;
                socket.flush()?;
                return Ok(());
            }
            Some(Trouble::Text(text)) => chunk(socket, &format!("{text}\n"))?,
            Some(Trouble::Error(code)) => {
                let status = status(code, "InternalError", "something went wrong");
                let line = json!({"type": "ERROR", "object": status});
                chunk(socket, &format!("{line}\n"))?;
                return close(socket);
            }
        }
    }
}

fn close(socket: &mut impl Write) -> Result<()> {
    write!(socket, "0\r\n\r\n")?;
    Ok(socket.flush()?)
}
