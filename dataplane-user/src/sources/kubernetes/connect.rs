//! Credentials: a kubeconfig's, or those of a pod of the cluster.

use std::{fmt, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::failure::{Failure, one_line};
use crate::config::KubernetesConfig;

/// How long the API may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The API, as it is called in messages.
#[derive(Clone, Debug)]
pub struct Endpoint(String);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kubernetes {}", self.0)
    }
}

/// A way to the API.
#[derive(Clone)]
pub struct Api {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Who asks.
    pub client: Client,
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// Reads the credentials anew; nothing is sent yet.
pub async fn connect(config: &KubernetesConfig) -> Result<Api, Failure> {
    let mut kube = match &config.kubeconfig {
        None => in_cluster()?,
        Some(path) => {
            let endpoint = Endpoint(path.display().to_string());
            let options =
                KubeConfigOptions { context: config.context.clone(), ..Default::default() };
            let of_file = async {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await
            };
            of_file.await.map_err(|error| Failure::other(endpoint, error.to_string()))?
        }
    };
    kube.connect_timeout = Some(CONNECT);
    // It would try for minutes before anybody heard of it.
    kube.default_retry = false;
    let url = kube.cluster_url.to_string();
    let endpoint = Endpoint(url.trim_end_matches('/').to_owned());
    match Client::try_from(kube) {
        Ok(client) => Ok(Api { endpoint, client }),
        Err(error) => {
            Err(Failure::other(&endpoint, format!("the credentials cannot be used: {error}")))
        }
    }
}

fn in_cluster() -> Result<Config, Failure> {
    Config::incluster().map_err(|error| {
        let endpoint = Endpoint("as a pod".to_owned());
        let what = one_line(&error.to_string());
        Failure::other(
            endpoint,
            format!("{what}; outside of a pod, name a file in sources.kubernetes.kubeconfig"),
        )
    })
}
