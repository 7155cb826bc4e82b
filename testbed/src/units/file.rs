//! Unit files: their places and their settings.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Directories of unit files: the operator's come before the packages'.
const DIRECTORIES: [&str; 3] =
    ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Adds `.service` to a name without a kind.
pub(super) fn full_name(name: &str) -> String {
    let kinds = [".service", ".timer"];
    if kinds.iter().any(|kind| name.ends_with(kind)) {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// The settings of a unit, with its drop-ins applied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    name: String,
    /// The values by `Section.Key`, in order.
    settings: BTreeMap<String, Vec<String>>,
}

impl Unit {
    /// Loads the unit, or the template that it is an instance of.
    pub(super) fn load(name: &str) -> Result<Self> {
        let mut unit = Self { name: name.to_owned(), ..Self::default() };
        let names = [Some(name.to_owned()), template_of(name)];
        let candidates = || {
            names.iter().flatten().flat_map(|name| DIRECTORIES.map(|dir| Path::new(dir).join(name)))
        };
        let Some(path) = candidates().find(|path| path.is_file()) else {
            bail!("Unit {name} not found: it is in none of {}", DIRECTORIES.join(", "));
        };
        unit.read(&path)?;
        for path in candidates() {
            for drop_in in drop_ins(&path)? {
                unit.read(&drop_in)?;
            }
        }
        Ok(unit)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        self.add(&text).with_context(|| format!("in {}", path.display()))
    }

    fn add(&mut self, text: &str) -> Result<()> {
        let mut section = String::new();
        for line in text.replace("\\\n", " ").lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut section);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                bail!("{line:?} is neither a section nor a setting");
            };
            let values = self.settings.entry(format!("{section}.{}", key.trim())).or_default();
            // An empty value removes all values before it.
            match value.trim() {
                "" => values.clear(),
                value => values.push(value.to_owned()),
            }
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All values of a setting, such as `Service.Environment`, with specifiers resolved.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = String> {
        self.settings.get(key).into_iter().flatten().map(|value| self.resolve(value))
    }

    /// The last value of a setting.
    pub(super) fn last(&self, key: &str) -> Option<String> {
        self.all(key).last()
    }

    /// A time span such as `200ms`, `10s`, `2min`, or seconds.
    pub(super) fn span(&self, key: &str) -> Result<Option<Duration>> {
        self.last(key).map(|text| span(&text).with_context(|| format!("{key}={text}"))).transpose()
    }

    fn resolve(&self, text: &str) -> String {
        let stem = self.name.rsplit_once('.').map_or(self.name.as_str(), |(stem, _)| stem);
        let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('i' | 'I') => out.push_str(instance),
                Some('p' | 'P') => out.push_str(prefix),
                Some('n') => out.push_str(&self.name),
                Some('H') => out.push_str(&hostname()),
                Some('%') | None => out.push('%'),
                Some(other) => out.extend(['%', other]),
            }
        }
        out
    }
}

fn template_of(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_once('@')?;
    let kind = rest.rsplit_once('.')?.1;
    Some(format!("{prefix}@.{kind}"))
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>> {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", dir.display()))?,
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|kind| kind == "conf"));
    found.sort();
    Ok(found)
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn span(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().context("not a time span")?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" | "sec" => Ok(Duration::from_secs(number)),
        "m" | "min" => Ok(Duration::from_secs(number * 60)),
        unit => bail!("{unit:?} is not a supported unit of time"),
    }
}

/// Splits a command line or a value of `Environment` into words. Quotes hold words together.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, text: &str) -> Unit {
        let mut unit = Unit { name: name.to_owned(), ..Unit::default() };
        unit.add(text).unwrap();
        unit
    }

    #[test]
    fn settings_are_read_with_their_specifiers() {
        let edge = unit(
            "cframe-edge@staging.service",
            "# one more\n[Unit]\nDescription=edge %i\n\n[Service]\nExecStart=/bin/edge \\\n  --instance %i\nRestartSec=200ms\n",
        );
        assert_eq!(edge.last("Unit.Description").unwrap(), "edge staging");
        assert_eq!(
            words(&edge.last("Service.ExecStart").unwrap()),
            ["/bin/edge", "--instance", "staging"]
        );
        assert_eq!(edge.span("Service.RestartSec").unwrap(), Some(Duration::from_millis(200)));
        assert_eq!(edge.span("Service.TimeoutStopSec").unwrap(), None);
    }

    #[test]
    fn a_drop_in_adds_values_and_an_empty_value_removes_them() {
        let mut etcd = unit("etcd.service", "[Service]\nEnvironment=A=1\nExecStart=/bin/a\n");
        etcd.add("[Service]\nEnvironment=B=2\nExecStart=\nExecStart=/bin/b %p\n").unwrap();
        assert_eq!(etcd.all("Service.Environment").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(etcd.all("Service.ExecStart").collect::<Vec<_>>(), ["/bin/b etcd"]);
        etcd.add("nonsense").unwrap_err();
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(words(r#"a "b c" d='e f' "" "#), ["a", "b c", "d=e f", ""]);
    }

    #[test]
    fn the_units_of_the_documents_are_understood() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../doc/systemd");
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let mut unit = Unit { name: "x@y.service".to_owned(), ..Unit::default() };
            unit.read(&entry.path()).unwrap();
            let timer = entry.path().extension().is_some_and(|kind| kind == "timer");
            assert_eq!(unit.last("Service.ExecStart").is_some(), !timer, "{:?}", entry.path());
        }
    }
}
