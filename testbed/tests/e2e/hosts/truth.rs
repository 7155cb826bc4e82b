//! What `cfctl status` and `doctor` say in each fault, and in combinations of two.
//!
//! Three gateways, a workload behind each, and both families inside. While faults come and go, the status is read and
//! packets are sent between all workloads all the time, and all uplinks are captured.

mod combinations;
mod faults;
mod healthy;

use std::thread;
use std::time::Duration;

use cframe_testbed::deployment::Edge;
use cframe_testbed::neighbours::Undoing;
use cframe_testbed::{Lab, ThreeSites, neighbours, privilege};
use serde_json::Value;

use super::support::{Clear, FIXED, MeshStatus, SHOWN, UNHEALTHY, Verdict, doctor};
use crate::lab::{HK, IDC, SECOND, SZ, TestLab, figure, shared, wait_for};
use faults::{Fault, Seen};

/// The mesh in which faults are made. The fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Bed {
    verdict: Verdict,
    clear: Clear,
    /// A program that undoes what an edge does, while there is one.
    undoing: Option<Undoing>,
    sz: Edge,
    hk: Edge,
    idc: Edge,
    lab: TestLab,
}

impl Bed {
    fn start(name: &str) -> Self {
        privilege::ensure().unwrap();
        let mut net = Lab::new(name).unwrap();
        let sites = both_families(&mut net);
        let lab = TestLab::on(net, sites, "lab", shared());
        let edge = |site, endpoint: &str| {
            lab.deployment.edge(site).endpoints(&[endpoint]).enrol().unwrap()
        };
        let mut sz = edge(&lab.sites.aliyun_sz, SZ);
        let mut hk = edge(&lab.sites.aws_hk, HK);
        let mut idc = edge(&lab.sites.idc, IDC);
        for edge in [&mut sz, &mut hk, &mut idc] {
            edge.wait_links(2).unwrap();
            edge.wait_synced().unwrap();
        }
        let clear = Clear::watch(&lab.sites.sites(), &[]);
        let verdict = Verdict::watch(&lab.deployment, &lab.sites.sites());
        let bed = Self { verdict, clear, undoing: None, sz, hk, idc, lab };
        bed.verdict.wait_well("at the start", 2 * SHOWN);
        bed
    }

    /// The gateway on which faults are made.
    fn gateway(&self) -> &Edge {
        &self.hk
    }

    /// Runs a script on the gateway.
    fn run(&self, script: &str) {
        neighbours::run_script(self.gateway().host(), script).unwrap();
    }

    fn status(&self) -> MeshStatus {
        MeshStatus::read(&self.lab.deployment.operator()).unwrap()
    }

    /// Waits until `cfctl status` has a problem of one of these codes that names the faulty edge, or another edge if
    /// the fault is not on a host.
    fn wait_code(&self, fault: &Fault, codes: &[&str]) -> Value {
        let mut found = None;
        let waited = wait_for(SHOWN, || {
            let status = self.status();
            found = codes.iter().find_map(|code| {
                status.problems().into_iter().find(|problem| {
                    let names = |key: &str| {
                        problem[key].as_str().is_some_and(|text| text.contains(fault.edge))
                    };
                    problem["code"] == *code
                        && (names("subject") || names("about") || names("text"))
                })
            });
            found.is_some() && (status.code == UNHEALTHY || !fault.unhealthy())
        });
        let Ok(took) = waited else {
            panic!(
                "{}: none of {codes:?} names {} after {SHOWN:?}: {:#}",
                fault.name,
                fault.edge,
                self.status().json["problems"]
            );
        };
        figure(&format!("{}: seen", fault.name), format_args!("{took:.1?} (bound {SHOWN:?})"));
        found.unwrap()
    }

    /// Makes a fault, and checks what is said of it; then ends it, by its fix if it has one.
    fn try_fault(&mut self, fault: &Fault) {
        let name = fault.name;
        self.verdict.set_unseen(fault.seen == Seen::OnlyReported);
        fault.apply(self);
        match fault.seen {
            Seen::Recovers => {
                // The edge repairs it by itself, possibly before a packet is lost.
                self.verdict.wait_broken(3 * SECOND / 2);
                self.verdict.wait_well(name, SHOWN);
            }
            Seen::Lost | Seen::OnlyReported => {
                if fault.seen == Seen::Lost {
                    assert!(self.verdict.wait_broken(5 * SECOND), "{name}: all packets pass");
                }
                let problem = self.wait_code(fault, fault.codes);
                self.check_doctor(fault);
                if fault.at_gateway && fault.seen == Seen::Lost {
                    self.paste(fault, &problem);
                }
            }
        }
        fault.undo(self);
        let took = self.verdict.wait_well(name, SHOWN);
        figure(&format!("{name}: well again"), format_args!("{took:.1?} (bound {SHOWN:?})"));
        self.verdict.set_unseen(false);
        self.clear.check(name);
    }

    /// `doctor` on the faulty gateway exits with 7, and names what the status names, which the other gateways
    /// may have noticed sooner.
    fn check_doctor(&self, fault: &Fault) {
        if !fault.at_gateway || fault.seen != Seen::Lost {
            return;
        }
        let named = |problem: &Value| fault.codes.iter().any(|code| problem["code"] == *code);
        let mut last = (0, Value::Null);
        let agreed = wait_for(SHOWN, || {
            last = doctor(self.gateway());
            let (code, found) = &last;
            let problems = found["problems"].as_array().cloned().unwrap_or_default();
            *code == UNHEALTHY && problems.iter().any(named)
        });
        assert!(agreed.is_ok(), "{}: {}: {:#}", fault.name, last.0, last.1);
    }

    /// Pastes the fix of the problem, and of others of the same codes, such as that of the other family.
    fn paste(&self, fault: &Fault, first: &Value) {
        let (name, mut problem) = (fault.name, first.clone());
        for _ in 0..4 {
            let Some(fix) = problem["fix"].as_str().filter(|_| of_gateway(&problem)) else { break };
            let pasted = self.gateway().shell(fix).unwrap();
            figure(&format!("{name}: fix"), format_args!("{fix:?} exits with {}", pasted.code));
            if pasted.code != 0 {
                // An instruction, not a command.
                assert!(!fault.has_command, "{name}: {pasted}");
                return;
            }
            let well = || self.verdict.all_pass() && self.same_kind(fault).is_none();
            if wait_for(FIXED, well).is_ok() {
                return;
            }
            let Some(next) = self.same_kind(fault) else { break };
            assert!(next["fix"] != problem["fix"], "{name}: stays after its fix: {next:#}");
            problem = next;
        }
        assert!(!fault.has_command, "{name}: no fix has helped: {:#}", self.status().json);
    }

    fn same_kind(&self, fault: &Fault) -> Option<Value> {
        let all = self.status().problems();
        all.into_iter().find(|problem| fault.codes.iter().any(|code| problem["code"] == *code))
    }
}

fn of_gateway(problem: &Value) -> bool {
    problem["subject"] == "prod/aws-hk"
}

/// Tries half of the cases each in two labs at once: most of the time is spent waiting.
fn side_by_side<T: Sync>(name: &str, cases: &[T], attempt: impl Fn(&mut Bed, &T) + Sync) {
    thread::scope(|scope| {
        let halves =
            cases.chunks(cases.len().div_ceil(2).max(1)).enumerate().map(|(half, cases)| {
                let (attempt, name) = (&attempt, format!("{name}-{half}"));
                scope.spawn(move || {
                    let mut bed = Bed::start(&name);
                    cases.iter().for_each(|case| attempt(&mut bed, case));
                    bed.verdict.check(&name);
                })
            });
        let halves: Vec<_> = halves.collect();
        let failed: Vec<_> = halves.into_iter().filter_map(|half| half.join().err()).collect();
        if let Some(first) = failed.into_iter().next() {
            std::panic::resume_unwind(first);
        }
    });
}

/// The three sites, with an IPv6 network in each.
fn both_families(net: &mut Lab) -> ThreeSites {
    let controller = net.host("controller").public("198.51.100.10/24").build().unwrap();
    let mut site = |name: &str, public: &str, inner: [&str; 2]| {
        let site = net.site(name).public(public).inner(inner[0]).inner(inner[1]);
        site.build().unwrap()
    };
    let aliyun_sz = site("aliyun-sz", "192.0.2.7/24", ["172.18.0.0/16", "fd00:18::/64"]);
    let aws_hk = site("aws-hk", "203.0.113.7/24", ["172.30.0.0/16", "fd00:30::/64"]);
    let idc = site("idc", "198.18.0.7/24", ["10.60.6.0/24", "fd00:60::/64"]);
    ThreeSites { controller, aliyun_sz, aws_hk, idc }
}

/// How long a mesh without a fault is watched.
const WATCHED: Duration = Duration::from_secs(15);
