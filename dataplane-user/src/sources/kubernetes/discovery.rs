//! Which of Calico's groups the API has, and uses.

use std::{fmt, future, time::Duration};

use serde::Deserialize;

use super::{
    access::{CALICO_V1, CALICO_V3, CalicoGroup, NODES, Resource},
    connect::Api,
    request,
};
use crate::{
    config::sources::CalicoApi,
    sources::error::{Cause, SourceError},
};

/// How often to look whether Calico was installed meanwhile.
const AGAIN: Duration = Duration::from_secs(300);

/// What there is to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Calico's IPAM, in one of its groups.
    Calico(CalicoGroup),
    /// Nodes with pod CIDRs.
    HostLocal,
}

impl Found {
    /// What may have to be read.
    pub fn resources(self) -> Vec<Resource> {
        match self {
            Self::Calico(group) => vec![NODES, group.affinities, group.blocks, group.pools],
            Self::HostLocal => vec![NODES],
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calico(group) => write!(f, "Calico's resources in {}", group.name()),
            Self::HostLocal => f.write_str("no IPAM of Calico's: pod CIDRs of the nodes count"),
        }
    }
}

/// A group's resources, as far as we look.
#[derive(Deserialize)]
struct ResourceList {
    resources: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Asks for what the configuration wants, or for whichever is there.
pub async fn discover(api: &Api, wanted: CalicoApi) -> Result<Found, SourceError> {
    match wanted {
        CalicoApi::None => Ok(Found::HostLocal),
        CalicoApi::V1 => required(api, CALICO_V1).await,
        CalicoApi::V3 => required(api, CALICO_V3).await,
        CalicoApi::Auto => whichever(api).await,
    }
}

/// Ends when another answer has become the right one.
pub async fn changed(api: &Api, wanted: CalicoApi, found: Found) {
    if wanted != CalicoApi::Auto || found != Found::HostLocal {
        // A group that goes answers 404; one that comes may not be in use yet.
        future::pending::<()>().await;
    }
    loop {
        tokio::time::sleep(AGAIN).await;
        if discover(api, wanted).await.is_ok_and(|now| now != found) {
            return;
        }
    }
}

async fn required(api: &Api, group: CalicoGroup) -> Result<Found, SourceError> {
    if has(api, group).await? {
        return Ok(Found::Calico(group));
    }
    let (blocks, pools) = (group.blocks.plural, group.pools.plural);
    let error = api.endpoint.error(format!("there is no {blocks} and {pools} in {}", group.name()));
    Err(error.caused_by(Cause::Missing).remedy("correct sources.kubernetes.api"))
}

async fn whichever(api: &Api) -> Result<Found, SourceError> {
    let v3 = match has(api, CALICO_V3).await {
        // The API itself serves what we look for, it does not ask another server.
        Err(error) if error.cause() == Cause::Unserved => false,
        v3 => v3?,
    };
    let v1 = has(api, CALICO_V1).await?;
    Ok(match (v3, v1) {
        (false, false) => Found::HostLocal,
        (false, true) => Found::Calico(CALICO_V1),
        // Installed for a move to it that has not happened, it has no blocks.
        (true, true) if is_empty(api, CALICO_V3.blocks).await? => Found::Calico(CALICO_V1),
        (true, _) => Found::Calico(CALICO_V3),
    })
}

async fn has(api: &Api, group: CalicoGroup) -> Result<bool, SourceError> {
    let path = format!("/apis/{}", group.name());
    let resources: ResourceList = match request::discover(api, &path).await {
        Ok(resources) => resources,
        Err(error) if error.cause() == Cause::Missing => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_there = |wanted: Resource| resources.resources.iter().any(|it| it.name == wanted.plural);
    Ok(is_there(group.blocks) && is_there(group.pools))
}

async fn is_empty(api: &Api, resource: Resource) -> Result<bool, SourceError> {
    request::page(api, request::Ask::whole(resource), 1, None)
        .await
        .map(|page| page.items.is_empty())
}
