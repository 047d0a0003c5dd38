//! Credentials: a kubeconfig's, or those of a pod of the cluster.

use std::{fmt, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    config::KubernetesConfig,
    sources::error::{Endpoint, SourceError},
};

/// How long the API may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

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
pub async fn connect(config: &KubernetesConfig) -> Result<Api, SourceError> {
    let mut kube = match &config.kubeconfig {
        None => in_cluster()?,
        Some(path) => {
            let endpoint = endpoint(path.display());
            let options =
                KubeConfigOptions { context: config.context.clone(), ..Default::default() };
            let of_file = async {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await
            };
            of_file.await.map_err(|error| endpoint.error(error))?
        }
    };
    kube.connect_timeout = Some(CONNECT);
    // It would try for minutes before anybody heard of it.
    kube.default_retry = false;
    let url = kube.cluster_url.to_string();
    let endpoint = endpoint(url.trim_end_matches('/'));
    match Client::try_from(kube) {
        Ok(client) => Ok(Api { endpoint, client }),
        Err(error) => Err(endpoint.error(format!("the credentials cannot be used: {error}"))),
    }
}

fn in_cluster() -> Result<Config, SourceError> {
    Config::incluster().map_err(|error| {
        endpoint("as a pod")
            .error(error)
            .remedy("outside of a pod, name a file in sources.kubernetes.kubeconfig")
    })
}

fn endpoint(name: impl fmt::Display) -> Endpoint {
    Endpoint::new(format!("Kubernetes {name}"))
}
