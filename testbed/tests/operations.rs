//! Runs every command of doc/operations.md on its host, while pings go between two sites.
//!
//! Needs root or user namespaces, the release programs and etcd; fails without them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cframe_testbed::runbook::{self, Runner, Section};
use cframe_testbed::{Lab, Machine, Programs, Site, privilege};

/// For the whole guide.
const BOUND: Duration = Duration::from_secs(120);
/// Hosts on the internet: name, public address.
const PUBLIC: [(&str, &str); 4] = [
    ("ctl1", "198.51.100.10/28"),
    ("ctl2", "198.51.100.20/28"),
    ("ctl3", "198.51.100.40/28"),
    ("operator", "198.51.100.70/28"),
];
/// Gateways: name, public address, network behind it.
const GATEWAYS: [(&str, &str, &str); 3] = [
    ("aliyun-sz", "192.0.2.7/24", "172.18.0.0/16"),
    ("aws-hk", "203.0.113.7/24", "172.30.0.0/16"),
    ("idc", "198.18.0.7/24", "10.60.6.0/24"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn sections() -> Vec<Section> {
    let names: Vec<&str> =
        PUBLIC.iter().map(|(name, _)| *name).chain(GATEWAYS.map(|g| g.0)).collect();
    let text = std::fs::read_to_string(root().join("doc/operations.md")).unwrap();
    runbook::parse(&text, &names).unwrap_or_else(|error| panic!("doc/operations.md: {error:#}"))
}

/// Boots the hosts of the document. The operator has a built checkout of cframe in root's home.
fn boot(lab: &mut Lab) -> (Vec<Machine>, Vec<Site>) {
    let mut hosts = Vec::new();
    for (name, address) in PUBLIC {
        let host = lab.host(name).public(address).build().unwrap();
        hosts.push((name, (*host).clone()));
    }
    let mut sites = Vec::new();
    for (name, address, inner) in GATEWAYS {
        let site = lab.site(name).public(address).inner(inner).build().unwrap();
        hosts.push((name, site.edge().clone()));
        sites.push(site);
    }
    let programs = Programs::locate().unwrap();
    let release = programs.ctl().parent().unwrap().to_owned();
    let units = root().join("doc/systemd");
    let etc_hosts: Vec<String> = PUBLIC
        .iter()
        .map(|(name, address)| format!("{} {name}", address.split('/').next().unwrap()))
        .collect();
    let systemctl = Path::new(env!("CARGO_BIN_EXE_systemctl"));
    let boot = |name: &str, host| {
        let mut shares = vec![(systemctl, "/usr/local/sbin/systemctl")];
        if name == "operator" {
            shares.push((&release, "/root/cframe/target/dist"));
            shares.push((&units, "/root/cframe/doc/systemd"));
        }
        Machine::boot(lab, host, name, &etc_hosts.join("\n"), &shares).unwrap()
    };
    (hosts.iter().map(|(name, host)| boot(name, host)).collect(), sites)
}

#[test]
fn the_commands_of_the_operations_guide_do_what_it_says() {
    privilege::ensure().unwrap();
    privilege::ensure_tun().unwrap();
    let sections = sections();
    let mut lab = Lab::new("operations").unwrap();
    let (machines, sites) = boot(&mut lab);
    let target = sites[1].workload().address();
    let pinger = sites[0].workload().ping(target).interval(Duration::from_millis(10)).start();
    let runner = Runner::new(machines, pinger.unwrap());
    let start = Instant::now();
    for section in &sections {
        let report = runner.run_section(section);
        let report = report.unwrap_or_else(|error| panic!("doc/operations.md: {error:#}"));
        // Not by `println!`, whose output the harness shows for failing tests only.
        writeln!(std::io::stdout().lock(), "figure: operations: {report}").unwrap();
    }
    let took = start.elapsed();
    writeln!(std::io::stdout().lock(), "figure: operations: {took:.1?} (bound {BOUND:?})").unwrap();
    assert!(took <= BOUND, "{took:?} > {BOUND:?}");
}

#[test]
fn the_metrics_of_the_operations_guide_exist() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let text = read("doc/operations.md");
    let mut names = 0;
    for (prefix, source) in [
        ("cframe_controller_", read("controller/src/metrics.rs")),
        ("cframe_edge_", read("edge/src/metrics.rs")),
    ] {
        for rest in text.split(prefix).skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            let name = rest[..end.unwrap_or(rest.len())].trim_end_matches("_bucket");
            if name.is_empty() {
                continue;
            }
            // Counters have the suffix in either form.
            let spellings = [name, name.trim_end_matches("_total")];
            let known = |spelling: &&str| source.contains(&format!("\"{spelling}\""));
            assert!(spellings.iter().any(known), "there is no metric {prefix}{name}");
            names += 1;
        }
    }
    assert!(names > 10, "{names}");
}
