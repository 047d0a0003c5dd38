//! The API servers themselves.
//!
//! A kubeconfig may name a Service (in a pod it does: `KUBERNETES_SERVICE_HOST`) or a load balancer.
//! The servers behind are the endpoints of `default/kubernetes`, which each server keeps itself
//! (`pkg/controlplane/reconcilers/endpointsadapter.go`).

use std::{collections::BTreeSet, time::Duration};

use kube::{api::ListParams, core::Request};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{access::ENDPOINT_SLICES, connect::Api, failure::Attempt, request};
use crate::sources::{
    error::{Cause, SourceError},
    servers::Servers,
};

/// How long a session waits for them before it reads routes.
const BRIEFLY: Duration = Duration::from_secs(5);
/// The pause between two questions, before chance makes it up to twice as long.
const AGAIN: Duration = Duration::from_secs(300);
/// The same after one that was not answered, or was refused.
const SOONER: Duration = Duration::from_secs(30);
/// The slices of the Service `kubernetes` (`discovery.LabelServiceName`).
const SELECTOR: &str = "kubernetes.io/service-name=kubernetes";

/// Whether the list may be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// It may, or the API has no such list.
    Given,
    /// It may not.
    Missing,
}

/// Looks them up before the first routes; whether that is allowed.
pub async fn look_up(api: &Api, known: &mut Servers) -> Right {
    match timeout(BRIEFLY, ask(api)).await {
        Ok(answer) => take(answer, known).await.unwrap_or(Right::Given),
        Err(_) => Right::Given,
    }
}

/// Looks them up again from time to time, until that is allowed or forbidden other than `before`.
pub async fn follow(api: &Api, known: &mut Servers, before: Right) {
    let mut pause = if before == Right::Given { AGAIN } else { SOONER };
    loop {
        sleep(pause.mul_f64(1.0 + fastrand::f64())).await;
        let right = take(ask(api).await, known).await;
        if right.is_some_and(|right| right != before) {
            return;
        }
        pause = if right == Some(Right::Given) { AGAIN } else { SOONER };
    }
}

/// Takes in an answer; `None`: there was none.
async fn take(answer: Result<BTreeSet<String>, SourceError>, known: &mut Servers) -> Option<Right> {
    match answer {
        Ok(hosts) => {
            known.look_up(hosts).await;
            Some(Right::Given)
        }
        Err(error) if error.cause() == Cause::Forbidden => Some(Right::Missing),
        // Kubernetes before 1.21 has no such list.
        Err(error) if error.cause() == Cause::Missing => Some(Right::Given),
        Err(error) => {
            tracing::debug!("kubernetes: the API servers' own addresses: {error}");
            None
        }
    }
}

async fn ask(api: &Api) -> Result<BTreeSet<String>, SourceError> {
    let parameters = ListParams::default().labels(SELECTOR).match_any();
    let request = Request::new(ENDPOINT_SLICES).list(&parameters);
    let slices: Slices = request::ask(api, Attempt::FindServers, request).await?;
    Ok(slices.addresses())
}

#[derive(Deserialize)]
struct Slices {
    items: Option<Vec<Slice>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    address_type: String,
    /// Go's empty list may be `null`.
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    addresses: Vec<String>,
}

impl Slices {
    /// The IPv4 addresses. One that is not ready counts, too: it will be.
    fn addresses(self) -> BTreeSet<String> {
        let slices = self.items.into_iter().flatten().filter(|it| it.address_type == "IPv4");
        let endpoints = slices.flat_map(|slice| slice.endpoints).flatten();
        endpoints.flat_map(|endpoint| endpoint.addresses).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_addresses_of_all_ipv4_slices_count() {
        let slice = |kind: &str, endpoints| json!({"addressType": kind, "endpoints": endpoints});
        let ready = json!({"addresses": ["192.0.2.1"], "conditions": {"ready": true}});
        let starting = json!({"addresses": ["192.0.2.2"], "conditions": {"ready": false}});
        let list = json!({"items": [
            slice("IPv4", json!([ready, starting])),
            slice("IPv4", json!([{"addresses": ["192.0.2.3", "192.0.2.4"]}, {}])),
            slice("IPv4", json!(null)),
            slice("IPv6", json!([{"addresses": ["2001:db8::1"]}])),
            slice("FQDN", json!([{"addresses": ["api.example"]}])),
        ]});
        let slices: Slices = serde_json::from_value(list).unwrap();
        let expected = (1..=4).map(|last| format!("192.0.2.{last}"));
        assert_eq!(slices.addresses(), expected.collect());
        let none: Slices = serde_json::from_value(json!({"items": null})).unwrap();
        assert_eq!(none.addresses(), BTreeSet::new());
    }
}
