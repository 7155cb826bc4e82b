//! The report: results as tables and charts, and the targets with their verdicts.

mod format;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::chart::{Bar, Chart};
use super::contender::{MTU, NAMES};
use super::scenario::{self, Condition, Scenario, Workload};
use super::statistics::{median, range, ratio};
use super::store::{Availability, Series, Store};
use super::targets::{self, Against, Bound, Target, Verdict};
use format::{figure, metrics, unit};

/// Writes the report to `out`, and its charts to the directory of the same name without extension.
pub(super) fn write(store: &Store, out: &Path) -> Result<()> {
    let charts = out.with_extension("");
    fs::create_dir_all(&charts).with_context(|| format!("creating {}", charts.display()))?;
    let directory = charts.file_name().map(|name| name.to_string_lossy().into_owned());
    let directory = directory.unwrap_or_default();
    let mut text = head(store);
    text += &targets_table(store);
    for plot in PLOTS {
        if let Some(chart) = plot.chart(store) {
            let file = format!("{}.svg", plot.name());
            fs::write(charts.join(&file), chart.svg())
                .with_context(|| format!("writing {file}"))?;
            text += &format!("\n![{}]({directory}/{file})\n", chart.title);
        }
    }
    text += &scenarios(store);
    text += &notes(store);
    text += &fs::read_to_string(out).map(|old| manual_part(&old).to_owned()).unwrap_or_default();
    fs::write(out, text).with_context(|| format!("writing {}", out.display()))?;
    println!("{}", targets_table(store).trim_start());
    println!("Report: {}", out.display());
    Ok(())
}

/// The last section of the previous report, which is written by hand.
fn manual_part(report: &str) -> &str {
    report.find("\n## Control plane\n").map_or("", |start| &report[start..])
}

fn head(store: &Store) -> String {
    let mut text = format!(
        "# Benchmarks\n\n\
         Written by `testbed/bench`, except the last section. All tunnels run on the same two gateways (network\n\
         namespaces) and are measured in turns. Both ends of each tunnel and flow share the machine. The MTU of\n\
         every tunnel is {MTU}. Figures are medians (smallest – largest round). Compare the ratios, as absolute\n\
         figures depend on the machine; the interval of a ratio is that of its rounds.\n\n"
    );
    for line in &store.machine {
        add_line(&mut text, &format!("- {line}"));
    }
    text += "\n| contender | version |\n| --- | --- |\n";
    for name in NAMES {
        let version = match store.contenders.get(name) {
            Some(Availability::Version(version)) => version.clone(),
            Some(Availability::Missing(why)) => format!("**not measured:** {}", one_line(why)),
            None => continue,
        };
        add_line(&mut text, &format!("| {name} | {version} |"));
    }
    text
}

fn targets_table(store: &Store) -> String {
    let mut text = String::from(
        "\n## Targets\n\n| | against | target | measured | in rounds | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for target in targets::all() {
        add_line(&mut text, &target_row(&target, store));
    }
    text += "\n† not measured in turns.\n";
    text
}

fn target_row(target: &Target, store: &Store) -> String {
    let (against, times) = match target.against {
        Against::Contender(name) => (name, "x"),
        Against::Absolute => ("–", ""),
    };
    let bound = match target.bound {
        Bound::AtLeast(least) => format!("≥ {least}{times}"),
        Bound::AtMost(most) => format!("≤ {most}{times}"),
    };
    let outcome = match target.outcome(store) {
        None => "– | – | not measured".to_owned(),
        Some(outcome) => {
            let (low, high) = outcome.measured.interval;
            let verdict = match outcome.verdict {
                Verdict::Met => "met",
                Verdict::WithinNoise => "**missed**, within the rounds' range",
                Verdict::Missed => "**missed**",
            };
            let mark = if outcome.interleaved { "" } else { " †" };
            let value = outcome.measured.value;
            format!("{value:.2}{times} | {low:.2} – {high:.2} | {verdict}{mark}")
        }
    };
    format!("| {} | {against} | {bound} | {outcome} |", target.title)
}

fn scenarios(store: &Store) -> String {
    let measured: Vec<_> = scenario::all()
        .into_iter()
        .filter(|scenario| store.results.contains_key(scenario.name))
        .collect();
    let mut text = String::new();
    for scenarios in measured.chunk_by(|one, other| heading(one) == heading(other)) {
        add_line(&mut text, &format!("\n## {}", heading(&scenarios[0])));
        for scenario in scenarios {
            text += &table(store, scenario);
        }
    }
    text
}

fn heading(scenario: &Scenario) -> String {
    let condition = scenario.condition.to_string();
    condition[..1].to_uppercase() + &condition[1..]
}

fn title(scenario: &Scenario) -> String {
    match (scenario.condition, scenario.workload) {
        (Condition::Wan { .. }, Workload::Tcp(tcp)) => {
            format!("{}, {}", scenario.title, tcp.congestion.unwrap_or("default"))
        }
        _ => scenario.title.to_owned(),
    }
}

fn table(store: &Store, scenario: &Scenario) -> String {
    let metrics = metrics(scenario);
    let mut text = format!("\n### {} (`{}`)\n\n", title(scenario), scenario.name);
    let heads: Vec<_> = metrics.iter().map(|metric| unit(metric)).collect();
    add_line(&mut text, &format!("| | {} | cframe is |", heads.join(" | ")));
    add_line(&mut text, &format!("| --- |{} --- |", " --- |".repeat(heads.len())));
    let ours = store.series(scenario.name, "cframe");
    for name in NAMES {
        let Some(series) = store.series(scenario.name, name) else { continue };
        let cells: Vec<_> = metrics.iter().map(|metric| cell(series, metric)).collect();
        let compared = match ours.filter(|_| name != "cframe") {
            Some(ours) => compared(ours, series, metrics[0]),
            None => "–".to_owned(),
        };
        add_line(&mut text, &format!("| {name} | {} | {compared} |", cells.join(" | ")));
    }
    text
}

fn cell(series: &Series, metric: &str) -> String {
    let values = series.values(metric);
    match (median(&values), range(&values)) {
        (Some(median), Some((low, high))) if values.len() > 1 => {
            format!("{} ({} – {})", figure(median), figure(low), figure(high))
        }
        (Some(median), _) => figure(median),
        (None, _) => "–".to_owned(),
    }
}

fn compared(ours: &Series, theirs: &Series, metric: &str) -> String {
    match ratio(&ours.values(metric), &theirs.values(metric)) {
        None => "–".to_owned(),
        Some(ratio) => {
            let (low, high) = ratio.interval;
            let mark = if ours.session == theirs.session { "" } else { " †" };
            format!("{:.2}x ({low:.2} – {high:.2}){mark}", ratio.value)
        }
    }
}

/// Notes about failed rounds, and about results of several commits.
fn notes(store: &Store) -> String {
    let mut lines = Vec::new();
    let commits = commits(store);
    if commits.len() > 1 {
        lines.push(format!("- Results of several commits: {}.", commits.join(", ")));
    }
    for (scenario, series) in &store.results {
        for (name, series) in series {
            if let Some(error) = series.errors.last() {
                let count = series.errors.len();
                lines.push(format!(
                    "- {scenario}, {name}: {count} rounds failed: {}",
                    one_line(error)
                ));
            }
        }
    }
    if lines.is_empty() { String::new() } else { format!("\n## Notes\n\n{}\n", lines.join("\n")) }
}

/// The commits of all results, each with its number of series.
fn commits(store: &Store) -> Vec<String> {
    let mut commits = std::collections::BTreeMap::<_, Vec<String>>::new();
    for (scenario, series) in &store.results {
        for (name, series) in series.iter().filter(|(_, series)| !series.rounds.is_empty()) {
            commits.entry(series.commit.clone()).or_default().push(format!("{scenario}/{name}"));
        }
    }
    commits.into_iter().map(|(commit, of)| format!("{commit} ({} series)", of.len())).collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn add_line(text: &mut String, line: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{line}");
}

/// A chart of one metric of one scenario.
struct Plot {
    scenario: &'static str,
    metric: &'static str,
    title: &'static str,
    note: &'static str,
}

const fn plot(
    scenario: &'static str,
    metric: &'static str,
    title: &'static str,
    note: &'static str,
) -> Plot {
    Plot { scenario, metric, title, note }
}

const PLOTS: [Plot; 7] = [
    plot("tcp1", "mbit", "TCP, 1 flow", "Mbit/s, more is better"),
    plot("tcp1", "cpu_s_per_gb", "CPU per GB, 1 flow", "seconds, both ends, less is better"),
    plot(
        "paced180",
        "cpu_s_per_gb",
        "CPU per GB at 180 Mbit/s",
        "seconds, both ends, less is better",
    ),
    plot(
        "pps1",
        "pps",
        "64-byte packets, 1 flow",
        "packets/s at less than 1 % loss, more is better",
    ),
    plot("ping", "ping_p50_ms", "Ping, idle", "ms, median, less is better"),
    plot("load", "ping_p99_ms", "Ping under a bulk flow", "ms, 99th percentile, less is better"),
    plot(
        "wan-20-1-bbr",
        "mbit",
        "WAN: 20 ms, 1 % loss, one flow with bbr",
        "Mbit/s, more is better",
    ),
];

impl Plot {
    fn name(&self) -> String {
        format!("{}-{}", self.scenario, self.metric.replace('_', "-"))
    }

    fn chart<'a>(&'a self, store: &Store) -> Option<Chart<'a>> {
        let bar = |name: &'static str| {
            let values = store.series(self.scenario, name)?.values(self.metric);
            let value = median(&values)?;
            Some(Bar {
                name,
                value,
                range: range(&values)?,
                label: figure(value),
                highlighted: name == "cframe",
            })
        };
        // Throughput without a tunnel is so much higher that the other bars would look alike.
        let clean = !self.scenario.starts_with("wan") && self.metric == "mbit";
        let names = NAMES.into_iter().filter(|name| !(clean && name.starts_with("none")));
        let bars: Vec<_> = names.filter_map(bar).collect();
        (bars.len() > 1).then_some(Chart { title: self.title, note: self.note, bars })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::store::{Key, Sample};

    #[test]
    fn the_manual_section_stays() {
        assert_eq!(
            manual_part("# Benchmarks\n\n## Control plane\n\nx\n"),
            "\n## Control plane\n\nx\n"
        );
        assert_eq!(manual_part("# Benchmarks\n\n## Notes\n"), "");
    }

    fn store() -> Store {
        let mut store = Store::default();
        store.machine.push("Linux 6".to_owned());
        store.contenders.insert("cframe".to_owned(), Availability::Version("abc".to_owned()));
        let missing = Availability::Missing("no\nnetwork".to_owned());
        store.contenders.insert("nebula".to_owned(), missing);
        for (contender, rounds) in
            [("cframe", [4400.0, 5000.0]), ("wireguard-go", [2000.0, 2000.0])]
        {
            for mbit in rounds {
                let key = Key { scenario: "tcp1", contender, session: 1, commit: "abc" };
                store.add(&key, Ok(Sample::from([("mbit".to_owned(), mbit)])));
            }
        }
        store
    }

    #[test]
    fn a_report_has_targets_tables_charts_and_missing_contenders() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("benchmarks.md");
        write(&store(), &out).unwrap();
        let text = fs::read_to_string(&out).unwrap();
        for part in [
            "- Linux 6",
            "| nebula | **not measured:** no network |",
            "| TCP, 1 flow | wireguard-go | ≥ 2.2x | 2.35x | 2.20 – 2.50 | met |",
            "| TCP, 1 flow | quincy | ≥ 3.3x | – | – | not measured |",
            "## Clean veth",
            "| cframe | 4,700 (4,400 – 5,000) |",
            "2.35x (2.20 – 2.50)",
            "](benchmarks/tcp1-mbit.svg)",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(dir.path().join("benchmarks/tcp1-mbit.svg").is_file());
    }

    #[test]
    fn failed_rounds_and_several_commits_are_noted() {
        let mut store = store();
        assert_eq!(notes(&store), "");
        let key = Key { scenario: "tcp1", contender: "quincy", session: 2, commit: "def" };
        store.add(&key, Err(anyhow::anyhow!("it\nended")));
        let key = Key { contender: "none", ..key };
        store.add(&key, Ok(Sample::from([("mbit".to_owned(), 1.0)])));
        let text = notes(&store);
        assert!(text.contains("abc (2 series), def (1 series)"), "{text}");
        assert!(text.contains("- tcp1, quincy: 1 rounds failed: it ended"), "{text}");
    }

    #[test]
    fn every_plot_is_of_an_existing_scenario() {
        let scenarios = scenario::all();
        for plot in PLOTS {
            assert!(scenarios.iter().any(|s| s.name == plot.scenario), "{}", plot.scenario);
        }
    }
}
