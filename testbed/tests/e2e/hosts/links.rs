//! Why a link does not come up or carries less than it should: each cause is named for what it is, and is over when
//! its cause is.

mod dns;
mod endpoints;
mod filters;
mod paths;
mod table;
mod while_up;

use cframe_testbed::Lab;
use serde_json::Value;

use super::support::{SHOWN, wait_problem_with};
use crate::lab::TestLab;

/// Waits until `cfctl status` has a problem of this code between `aliyun-sz` and `about` with these words.
fn wait_text(lab: &TestLab, code: &str, about: &str, words: &[&str]) -> Value {
    let problem = wait_problem_with(&lab.deployment, code, about, words, SHOWN);
    assert!(problem["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{problem:#}");
    problem
}

/// Rules of the router between all hosts.
struct RouterRules<'a>(&'a Lab);

impl RouterRules<'_> {
    fn set(&self, rules: &str) {
        let table = "inet faulty";
        let chain = format!(
            "table {table}\ndelete table {table}\ntable {table} {{\nset seen {{\n\
             type ipv4_addr . inet_service . ipv4_addr . inet_service\nsize 65535\nflags dynamic\n}}\n\
             chain f {{\ntype filter hook forward priority -5\n{rules}\n}}\n}}\n"
        );
        self.0.router().nft(&chain).unwrap();
    }

    fn clear(&self) {
        self.set("");
    }
}

/// Only links of `aliyun-sz` are expected.
fn only_links_of_sz(lab: &TestLab, others: &[&str]) {
    for name in others {
        let rest: Vec<&str> = others.iter().copied().filter(|other| other != name).collect();
        let set = ["edge", "set", name, "-n", "prod", "--no-link-to", &rest.join(",")];
        lab.deployment.ctl_ok(&set).unwrap();
    }
}
