//! The results on disk. A run of some scenarios or contenders updates only theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Metrics of a round by name, such as `mbit`, `cpu_s_per_gb`, `pps` and `ping_p50_ms`.
pub(super) type Sample = BTreeMap<String, f64>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Store {
    /// Description of the latest run's machine, in lines.
    pub(super) machine: Vec<String>,
    pub(super) contenders: BTreeMap<String, Availability>,
    /// By scenario and contender.
    pub(super) results: BTreeMap<String, BTreeMap<String, Series>>,
}

/// Whether a contender's programs are available.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Availability {
    Version(String),
    /// Not available, with the reason.
    Missing(String),
}

/// The rounds of one contender in one scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) commit: String,
    /// Number of the run. Series of the same run were measured in turns.
    pub(super) session: u64,
    pub(super) rounds: Vec<Sample>,
    /// Errors of failed rounds.
    #[serde(default)]
    pub(super) errors: Vec<String>,
}

impl Series {
    pub(super) fn values(&self, metric: &str) -> Vec<f64> {
        self.rounds.iter().filter_map(|sample| sample.get(metric).copied()).collect()
    }
}

impl Store {
    /// Reads the file; returns an empty store if there is none.
    pub(super) fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not a file of results: remove it", path.display())),
        }
    }

    /// Replaces the file atomically.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("encoding the results")?;
        let new = path.with_extension("new");
        fs::write(&new, text + "\n")
            .and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Adds a round to its series. The first round of a session replaces an earlier session's series.
    pub(super) fn add(&mut self, key: &Key<'_>, round: Result<Sample>) {
        let series = self
            .results
            .entry(key.scenario.to_owned())
            .or_default()
            .entry(key.contender.to_owned())
            .or_default();
        if series.session != key.session {
            let (commit, session) = (key.commit.to_owned(), key.session);
            *series = Series { commit, session, ..Series::default() };
        }
        match round {
            Ok(sample) => series.rounds.push(sample),
            Err(error) => series.errors.push(format!("{error:#}")),
        }
    }

    /// The series, if it has at least one round.
    pub(super) fn series(&self, scenario: &str, contender: &str) -> Option<&Series> {
        let series = self.results.get(scenario)?.get(contender)?;
        (!series.rounds.is_empty()).then_some(series)
    }
}

/// Identifies the series of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub(super) scenario: &'a str,
    pub(super) contender: &'a str,
    pub(super) session: u64,
    pub(super) commit: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(contender: &str, session: u64) -> Key<'_> {
        Key { scenario: "tcp1", contender, session, commit: "abc" }
    }

    fn sample(mbit: f64) -> Result<Sample> {
        Ok(Sample::from([("mbit".to_owned(), mbit)]))
    }

    #[test]
    fn a_later_session_replaces_only_what_it_measures() {
        let mut store = Store::default();
        store.add(&key("cframe", 1), sample(1.0));
        store.add(&key("cframe", 1), sample(2.0));
        store.add(&key("none", 1), sample(9.0));
        store.add(&key("cframe", 2), sample(3.0));
        assert_eq!(store.series("tcp1", "cframe").unwrap().values("mbit"), [3.0]);
        assert_eq!(store.series("tcp1", "none").unwrap().values("mbit"), [9.0]);
    }

    #[test]
    fn a_failed_round_is_stored_as_an_error() {
        let mut store = Store::default();
        store.add(&key("cframe", 1), Err(anyhow::anyhow!("no route")));
        assert_eq!(store.series("tcp1", "cframe"), None);
        assert_eq!(store.results["tcp1"]["cframe"].errors, ["no route"]);
    }

    #[test]
    fn a_saved_store_is_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        assert_eq!(Store::load(&path).unwrap(), Store::default());
        let mut store = Store { machine: vec!["one core".to_owned()], ..Store::default() };
        store
            .contenders
            .insert("nebula".to_owned(), Availability::Missing("no network".to_owned()));
        store.add(&key("cframe", 1), sample(1.5));
        store.save(&path).unwrap();
        assert_eq!(Store::load(&path).unwrap(), store);
        fs::write(&path, "{").unwrap();
        Store::load(&path).unwrap_err();
    }
}
