//! Credentials: a kubeconfig's, or those of a pod of the cluster.

use std::{collections::BTreeSet, fmt, fs, time::Duration};

use kube::{
    Client, Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use secrecy::ExposeSecret;

use crate::{
    config::KubernetesConfig,
    sources::{
        error::{Endpoint, SourceError},
        servers::host_of,
    },
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
    /// The hosts that connections are made to: the server's, and a proxy's.
    pub hosts: BTreeSet<String>,
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
                let mut kubeconfig = Kubeconfig::read_from(path)?;
                join_lines(&mut kubeconfig);
                Config::from_custom_kubeconfig(kubeconfig, &options).await
            };
            of_file.await.map_err(|error| endpoint.error(error))?
        }
    };
    trim_token(&mut kube.auth_info);
    kube.connect_timeout = Some(CONNECT);
    // It would try for minutes before anybody heard of it.
    kube.default_retry = false;
    let hosts = [Some(&kube.cluster_url), kube.proxy_url.as_ref()].into_iter().flatten();
    let hosts = hosts.filter_map(|url| Some(host_of(&url.to_string())?.to_owned())).collect();
    let url = kube.cluster_url.to_string();
    let endpoint = endpoint(url.trim_end_matches('/'));
    match Client::try_from(kube) {
        Ok(client) => Ok(Api { endpoint, client, hosts }),
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

/// Reads a token from its file as client-go does: it counts before one in the kubeconfig, and
/// blanks and line breaks around it do not count, which no header could carry.
///
/// Only a file that has any is read here. kube reads every other one again each minute; a token
/// that was read here is read again for the next session, which a 401 begins.
fn trim_token(auth: &mut AuthInfo) {
    let Some(path) = &auth.token_file else { return };
    // What cannot be read, kube reports.
    let Ok(text) = fs::read_to_string(path) else { return };
    let token = text.trim();
    if !token.is_empty() {
        auth.token = (token.len() != text.len()).then(|| token.into());
    }
}

/// Takes line breaks out of what is base64 in a kubeconfig. Go's decoder skips them, kube's does
/// not.
fn join_lines(kubeconfig: &mut Kubeconfig) {
    let joined = |text: &str| text.replace(['\r', '\n'], "");
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        let data = &mut cluster.certificate_authority_data;
        *data = data.as_deref().map(joined);
    }
    for auth in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        let data = &mut auth.client_certificate_data;
        *data = data.as_deref().map(joined);
        let key = &mut auth.client_key_data;
        *key = key.as_ref().map(|key| joined(key.expose_secret()).into());
    }
}

fn endpoint(name: impl fmt::Display) -> Endpoint {
    Endpoint::new(format!("Kubernetes {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What client-go takes for the token of a file, beside one in the kubeconfig.
    #[test]
    fn a_token_file_is_read_as_client_go_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (file, inline, token, is_followed) in [
            ("abc", None, None, true),
            ("abc\n", None, Some("abc"), false),
            ("\n abc\r\n", None, Some("abc"), false),
            ("abc", Some("old"), None, true),
            ("abc\n", Some("old"), Some("abc"), false),
            ("\n", Some("old"), Some("old"), false),
        ] {
            fs::write(&path, file).unwrap();
            let mut auth = AuthInfo {
                token: inline.map(Into::into),
                token_file: Some(path.display().to_string()),
                ..AuthInfo::default()
            };
            trim_token(&mut auth);
            let found = auth.token.as_ref().map(ExposeSecret::expose_secret);
            assert_eq!((found, found.is_none()), (token, is_followed), "{file:?} {inline:?}");
        }
        let mut missing = AuthInfo {
            token: Some("old".into()),
            token_file: Some("/none".into()),
            ..AuthInfo::default()
        };
        trim_token(&mut missing);
        assert!(missing.token.is_some());
    }

    #[test]
    fn base64_of_a_kubeconfig_may_have_line_breaks() {
        for data in ["YWI=", "YWI=\\n", "YW\\r\\nI=\\n"] {
            let text = format!(
                "clusters: [{{name: c, cluster: {{certificate-authority-data: \"{data}\"}}}}]\n\
                 users: [{{name: u, user: {{client-certificate-data: \"{data}\", \
                 client-key-data: \"{data}\"}}}}]\n"
            );
            let mut kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
            join_lines(&mut kubeconfig);
            let auth = kubeconfig.auth_infos[0].auth_info.as_ref().unwrap();
            let cluster = kubeconfig.clusters[0].cluster.as_ref().unwrap();
            assert_eq!(cluster.certificate_authority_data.as_deref(), Some("YWI="));
            assert_eq!(auth.client_certificate_data.as_deref(), Some("YWI="));
            assert_eq!(
                auth.client_key_data.as_ref().map(ExposeSecret::expose_secret),
                Some("YWI=")
            );
        }
    }
}
