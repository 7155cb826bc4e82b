//! The report: what was measured as tables and charts, and the targets with their verdicts.

mod format;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::chart::{Bar, Chart};
use super::contender::{MTU, NAMES};
use super::scenario::{self, Condition, Scenario, Workload};
use super::statistics::{median, range, ratio};
use super::store::{Series, Standing, Store};
use super::targets::{self, Against, Bound, Target, Verdict};
use format::{figure, metrics, unit};

/// Writes the report to `out`, and its charts to the directory of the same name.
pub(super) fn write(store: &Store, out: &Path) -> Result<()> {
    let charts = out.with_extension("");
    fs::create_dir_all(&charts).with_context(|| format!("making {}", charts.display()))?;
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
    text += &failures(store);
    text += &fs::read_to_string(out).map(|old| by_hand(&old).to_owned()).unwrap_or_default();
    fs::write(out, text).with_context(|| format!("writing {}", out.display()))?;
    println!("{}", targets_table(store).trim_start());
    println!("Report: {}", out.display());
    Ok(())
}

/// What is in the former report and not of this program: the last section, of other measurements.
fn by_hand(report: &str) -> &str {
    report.find("\n## Control plane\n").map_or("", |start| &report[start..])
}

fn head(store: &Store) -> String {
    let mut text = format!(
        "# Benchmarks\n\n\
         Made by `testbed/bench`; but for the last section not written by hand. All tunnels run on the same two gateways (network\n\
         namespaces) and are measured in turns; both ends of a tunnel and of a flow share the machine. Every\n\
         tunnel's MTU is {MTU}. Figures are medians (smallest – largest round). Machines are noisy: ratios\n\
         count, and their intervals are those of the rounds.\n\n"
    );
    for line in &store.machine {
        line_to(&mut text, &format!("- {line}"));
    }
    text += "\n| contender | version |\n| --- | --- |\n";
    for name in NAMES {
        let standing = match store.contenders.get(name) {
            Some(Standing::Version(version)) => version.clone(),
            Some(Standing::Missing(why)) => format!("**not measured:** {}", one_line(why)),
            None => continue,
        };
        line_to(&mut text, &format!("| {name} | {standing} |"));
    }
    text
}

fn targets_table(store: &Store) -> String {
    let mut text = String::from(
        "\n## Targets\n\n| | against | target | measured | in rounds | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for target in targets::all() {
        line_to(&mut text, &target_row(&target, store));
    }
    text += "\n† the two were not measured in turns.\n";
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
        line_to(&mut text, &format!("\n## {}", heading(&scenarios[0])));
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
    line_to(&mut text, &format!("| | {} | cframe is |", heads.join(" | ")));
    line_to(&mut text, &format!("| --- |{} --- |", " --- |".repeat(heads.len())));
    let ours = store.series(scenario.name, "cframe");
    for name in NAMES {
        let Some(series) = store.series(scenario.name, name) else { continue };
        let cells: Vec<_> = metrics.iter().map(|metric| cell(series, metric)).collect();
        let compared = match ours.filter(|_| name != "cframe") {
            Some(ours) => compared(ours, series, metrics[0]),
            None => "–".to_owned(),
        };
        line_to(&mut text, &format!("| {name} | {} | {compared} |", cells.join(" | ")));
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

/// What went wrong, and which series are of another commit than the latest.
fn failures(store: &Store) -> String {
    let mut lines = Vec::new();
    let commits = commits(store);
    if commits.len() > 1 {
        lines.push(format!("- Series of several commits: {}.", commits.join(", ")));
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

/// With what each has.
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

fn line_to(text: &mut String, line: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{line}");
}

/// A chart: one metric of one scenario.
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
    plot("tcp1", "cpu_s_per_gb", "CPU per GB, 1 flow", "seconds at both ends, less is better"),
    plot(
        "paced180",
        "cpu_s_per_gb",
        "CPU per GB at 180 Mbit/s",
        "seconds at both ends, less is better",
    ),
    plot(
        "pps1",
        "pps",
        "64-byte packets, 1 flow",
        "packets a second at less than 1 % loss, more is better",
    ),
    plot("ping", "ping_p50_ms", "Ping, idle", "ms, median of every 2 ms, less is better"),
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
                ours: name == "cframe",
            })
        };
        // Without a tunnel throughput is another league, in which nothing else could be told apart.
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
    fn what_was_written_by_hand_stays() {
        assert_eq!(by_hand("# Benchmarks\n\n## Control plane\n\nx\n"), "\n## Control plane\n\nx\n");
        assert_eq!(by_hand("# Benchmarks\n\n## Notes\n"), "");
    }

    fn store() -> Store {
        let mut store = Store::default();
        store.machine.push("Linux 6".to_owned());
        store.contenders.insert("cframe".to_owned(), Standing::Version("abc".to_owned()));
        let missing = Standing::Missing("no\nnetwork".to_owned());
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
    fn a_report_has_targets_tables_charts_and_who_is_missing() {
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
        assert_eq!(failures(&store), "");
        let key = Key { scenario: "tcp1", contender: "quincy", session: 2, commit: "def" };
        store.add(&key, Err(anyhow::anyhow!("it\nended")));
        let key = Key { contender: "none", ..key };
        store.add(&key, Ok(Sample::from([("mbit".to_owned(), 1.0)])));
        let text = failures(&store);
        assert!(text.contains("abc (2 series), def (1 series)"), "{text}");
        assert!(text.contains("- tcp1, quincy: 1 rounds failed: it ended"), "{text}");
    }

    #[test]
    fn every_plot_is_of_a_scenario_that_there_is() {
        let scenarios = scenario::all();
        for plot in PLOTS {
            assert!(scenarios.iter().any(|s| s.name == plot.scenario), "{}", plot.scenario);
        }
    }
}
