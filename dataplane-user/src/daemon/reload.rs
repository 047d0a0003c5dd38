//! The file is read again: taken over if it is sane, else everything stays as it was.

use anyhow::{Result, bail};

use super::{
    Daemon,
    apply::shadow,
    attempt,
    decide::{Fitness, NodeAddress},
    observe::fitness::{self, Depth},
    report::{Code, ConfigState, Problem, Stage},
    service,
    start::check_host,
};
use crate::config::{Config, ConfigFile};

impl Daemon {
    pub(super) async fn reload(&mut self) {
        service::reloading();
        match self.read_again().await {
            Ok((file, fitness, node)) => {
                let before = self.decider.file();
                let is_changed = before.text() != file.text();
                let changes = changes(&before.config, &file.config);
                if is_changed || self.is_refused {
                    tracing::info!("{}: applied: {changes}", file.path.display());
                }
                let empties =
                    !before.config.routes.fixed.is_empty() && file.config.routes.fixed.is_empty();
                if empties {
                    tracing::warn!(
                        "{}: `routes.static` is empty now; all its routes are removed",
                        file.path.display()
                    );
                }
                self.is_refused = false;
                self.reporter.set(Stage::File, Vec::new());
                self.reporter.set_config(ConfigState::accepted(&file.path, file.text()));
                self.http.configure(file.config.http.clone());
                let memory = self.decider.memory_mut();
                memory.config = Some(file.text().to_owned());
                self.decider.replace_file(file, fitness);
                self.run_sources(node);
                self.observer.forget();
            }
            Err(error) => {
                self.is_refused = true;
                self.reporter.set(Stage::File, vec![refused(&format!("{error:#}"))]);
                self.reporter.publish();
            }
        }
    }

    /// The file, whether this host is fit for its fast path, and our node address.
    async fn read_again(&mut self) -> Result<(ConfigFile, Fitness, Option<NodeAddress>)> {
        let running = self.decider.file();
        let mut file = ConfigFile::read(&running.path)?;
        if self.decider.memory().attempt.is_some() {
            attempt::adapt(&mut file)?;
        }
        if self.bpffs_override {
            file.config.bpffs.clone_from(&running.config.bpffs);
        } else if file.config.bpffs != running.config.bpffs {
            bail!("{}: bpffs: changes only with a restart", file.path.display());
        }
        shadow::refuse_beside_serving(&file, &self.pins)?;
        let kernel = self.observer.kernel();
        let host = kernel.look().await?;
        let node = check_host(kernel, &host, &file, self.decider.memory()).await?;
        match fitness::judge(kernel, &host, &self.pins, &file, &mut self.programs, Depth::Whole)
            .await
        {
            Ok(fitness) => Ok((file, fitness, node)),
            // Nothing new: what forbids it came later, and routes must go on changing.
            Err(error)
                if running.config.fastpath == file.config.fastpath
                    && running.config.leases == file.config.leases =>
            {
                let refusal = Some(format!("{error:#}"));
                Ok((file, Fitness { refusal, ..self.decider.fitness().clone() }, node))
            }
            Err(error) => Err(error),
        }
    }

    /// systemd waits for READY after RELOADING.
    pub(super) fn confirm_reload(&self) {
        if self.is_ready {
            service::ready_again();
        }
    }
}

/// The file on disk was refused: the daemon goes on with the text it accepted last.
pub(super) fn refused(why: &str) -> Problem {
    let place = why.split(": ").next().unwrap_or_default();
    let what = format!("the file on disk is refused, the one accepted before stays active: {why}");
    Problem::new(Code::ConfigRefused, place, what)
        .remedy("`tunless config validate` checks the file after it was repaired")
}

/// What a new configuration changes, for the log: `+2 −1 routes, node.tunnel_address a → b`.
fn changes(before: &Config, after: &Config) -> String {
    let (old, new) = (&before.routes.fixed, &after.routes.fixed);
    let added = new.iter().filter(|route| !old.contains(route)).count();
    let removed = old.iter().filter(|route| !new.contains(route)).count();
    let mut parts = Vec::new();
    if added + removed > 0 {
        parts.push(format!("+{added} −{removed} routes"));
    }
    let values = |config: &Config| {
        let mut config = config.clone();
        config.routes.fixed.clear();
        serde_json::to_value(config).unwrap_or_default()
    };
    compare("", &values(before), &values(after), &mut parts);
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join(", ") }
}

/// Lists the keys whose values differ.
fn compare(
    path: &str,
    before: &serde_json::Value,
    after: &serde_json::Value,
    parts: &mut Vec<String>,
) {
    use serde_json::Value;
    if before == after {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let value =
                |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
            compare(&path, &value(old), &value(new), parts);
        }
        return;
    }
    let shown = |value: &Value| match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) => text.clone(),
        // Secrets are paths in this file, never values; long lists are only noise.
        Value::Array(items) => format!("{} entries", items.len()),
        other => other.to_string(),
    };
    parts.push(format!("{path} {} → {}", shown(before), shown(after)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn a_reload_names_what_it_changes() {
        let before = config(
            "node: {tunnel_address: 10.20.42.0}\nfastpath: off\n\
             routes: {static: [{cidr: 10.20.43.0/26, node: 172.16.35.4}]}",
        );
        let after = config(
            "node: {tunnel_address: 10.20.42.1}\nfastpath: verified\n\
             routes: {static: [{cidr: 10.20.44.0/26, node: 172.16.35.4}, \
             {cidr: 10.20.45.0/26, node: 172.16.35.4}]}",
        );
        assert_eq!(
            changes(&before, &after),
            "+2 −1 routes, fastpath off → verified, node.tunnel_address 10.20.42.0 → 10.20.42.1"
        );
        assert_eq!(changes(&before, &before), "nothing changed");
        let named = config("node: {tunnel_address: 10.20.42.0, name: a}\nfastpath: off");
        assert_eq!(changes(&before, &named), "+0 −1 routes, node.name unset → a");
    }

    #[test]
    fn a_refusal_names_the_place() {
        let problem = refused("/etc/tunless/config.yaml:3: bogus: unknown field");
        assert_eq!(problem.subject, "/etc/tunless/config.yaml:3");
    }
}
