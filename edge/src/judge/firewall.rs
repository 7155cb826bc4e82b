//! The edge's own firewall table: whether it is in force, who removes it, and what it drops.

use std::time::Duration;

use cframe_protocol::problem::Code;

use crate::{
    config::OwnPrefixes,
    host::{
        backoff::Undone,
        culprit::{Culprit, who},
        firewall::{FirewallFacts, Uncovered},
    },
    problem::{Check, Problem},
};

/// Repairs that wait this long leave the host without the table for most of the time.
const LONG_DELAY: Duration = Duration::from_secs(1);

pub fn checks(facts: &FirewallFacts) -> Vec<Check> {
    let mut checks = vec![guard(facts)];
    checks.extend(masquerading(facts));
    checks.extend(undone(facts));
    checks.extend(uncovered(facts));
    checks
}

fn guard(facts: &FirewallFacts) -> Check {
    let what = "leak guard";
    if !facts.wanted {
        return Check::good(what, "no prefixes are known yet");
    }
    if let Some(why) = missing(facts) {
        let text = format!(
            "no firewall table keeps packets for other sites from leaving in the clear, only routes do: {why}"
        );
        return Check::bad(what, with_fix(Problem::new(Code::GuardMissing, "", text), facts));
    }
    let dropped = facts.dropped.foreign + facts.dropped.uncovered;
    Check::good(
        what,
        match dropped {
            0 => format!("{} is in force", facts.table),
            1 => "1 packet was kept from leaving in the clear".to_owned(),
            _ => format!("{dropped} packets were kept from leaving in the clear"),
        },
    )
}

fn masquerading(facts: &FirewallFacts) -> Option<Check> {
    if !facts.snat {
        return None;
    }
    let what = "masquerading";
    Some(match facts.snat_error.clone().or_else(|| missing(facts)) {
        None => Check::good(what, "in force"),
        Some(why) => {
            let text = format!("packets from the mesh are not masqueraded toward the site: {why}");
            Check::bad(what, with_fix(Problem::new(Code::SnatMissing, "", text), facts))
        }
    })
}

/// Why the table is not in force.
fn missing(facts: &FirewallFacts) -> Option<String> {
    let slow = facts.undone.as_ref().filter(|undone| undone.delay >= LONG_DELAY);
    let by_others =
        slow.map(|undone| format!("{} removes it again and again", who(undone.by.as_ref())));
    facts.error.clone().or(by_others)
}

fn with_fix(problem: Problem, facts: &FirewallFacts) -> Problem {
    let no_kernel = |error: &String| error.contains("not supported");
    match (facts.install_nft, &facts.error) {
        (Some(install), _) => problem.fix(install),
        (None, Some(error)) if no_kernel(error) => problem.fix("modprobe nf_tables"),
        (None, _) => match &facts.undone {
            Some(undone) => problem.fix(undone_fix(undone, facts)),
            None => problem,
        },
    }
}

fn undone(facts: &FirewallFacts) -> Option<Check> {
    let undone = facts.undone.as_ref()?;
    let Undone { times_in_a_minute, delay, .. } = undone;
    let text = format!(
        "{} changed the edge's firewall table {} {times_in_a_minute} times in the last minute; a repair now \
         waits {delay:.1?}",
        who(undone.by.as_ref()),
        facts.table
    );
    let problem = Problem::new(Code::ChangesUndone, &facts.table, text);
    Some(Check::bad("firewall table", problem.fix(undone_fix(undone, facts))))
}

fn undone_fix(undone: &Undone, facts: &FirewallFacts) -> String {
    let program = undone.by.as_ref().map_or_else(|| who(None), Culprit::in_fix);
    format!("configure {program} to leave the table {} alone, or stop it", facts.table)
}

fn uncovered(facts: &FirewallFacts) -> Option<Check> {
    let problem = |Uncovered { net, device, .. }: &Uncovered| {
        let text = format!(
            "addresses of this site's {net} that are in no network of this host have only the route over \
             {device}, which has no address of the site: packets for them are dropped"
        );
        Problem::new(Code::SiteUncovered, net.to_string(), text).fix(format!(
            "add routes to where the rest of {net} is; or set own_prefixes to allow, if {device} may carry it \
             unencrypted, or to block, if it need not be reached, and reload the edge"
        ))
    };
    let rest = &facts.uncovered;
    // The operator has decided, if it is not automatic.
    let decided = facts.own_prefixes != OwnPrefixes::Auto;
    let problems = rest.iter().filter(|rest| !rest.allowed && !decided).map(problem).collect();
    let text = |Uncovered { net, device, allowed }: &Uncovered| match allowed {
        true => format!("the rest of {net} leaves by {device}"),
        false => format!("the rest of {net} is dropped"),
    };
    let good = rest.iter().map(text).collect::<Vec<_>>().join("; ");
    (!rest.is_empty()).then(|| Check::of("own prefixes", problems, good))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::firewall::Dropped;

    fn in_force() -> FirewallFacts {
        FirewallFacts {
            table: "inet cframe-cframe0".to_owned(),
            wanted: true,
            in_force: true,
            ..FirewallFacts::default()
        }
    }

    fn problems(facts: &FirewallFacts) -> Vec<Problem> {
        checks(facts).into_iter().filter_map(|check| check.result.err()).flatten().collect()
    }

    fn codes(facts: &FirewallFacts) -> Vec<Code> {
        problems(facts).iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn a_table_in_force_is_good_and_says_what_it_dropped() {
        let dropped = Dropped { foreign: 40, uncovered: 2 };
        let facts = FirewallFacts { snat: true, dropped, ..in_force() };
        assert_eq!(codes(&facts), []);
        let guard = checks(&facts)[0].result.clone().unwrap();
        assert_eq!(guard, "42 packets were kept from leaving in the clear");
    }

    #[test]
    fn without_nft_the_guard_and_masquerading_are_missing_and_the_package_is_named() {
        let facts = FirewallFacts {
            in_force: false,
            error: Some("the program nft cannot be started".to_owned()),
            install_nft: Some("apt-get install -y nftables"),
            ..in_force()
        };
        let found = problems(&facts);
        assert_eq!(found[0].code, Code::GuardMissing);
        assert_eq!(found[0].fix.as_deref(), Some("apt-get install -y nftables"));
        assert_eq!(found.len(), 1);
        let facts = FirewallFacts { snat: true, ..facts };
        assert_eq!(codes(&facts), [Code::GuardMissing, Code::SnatMissing]);
    }

    #[test]
    fn a_kernel_that_refuses_nat_only_lacks_masquerading() {
        let snat_error = Some("no such chain type".to_owned());
        let facts = FirewallFacts { snat: true, snat_error, ..in_force() };
        assert_eq!(codes(&facts), [Code::SnatMissing]);
    }

    #[test]
    fn who_removes_the_table_again_and_again_is_named() {
        let by = |name: &str| Culprit { pid: 77, name: name.to_owned(), parent: None };
        let undone = |name, delay| Undone {
            what: "the firewall table",
            by: Some(by(name)),
            times_in_a_minute: 5,
            delay: Duration::from_millis(delay),
        };
        let facts = FirewallFacts { undone: Some(undone("fw-agent", 80)), ..in_force() };
        let found = problems(&facts);
        assert_eq!(found[0].code, Code::ChangesUndone);
        assert!(found[0].text.starts_with("fw-agent (pid 77) changed"), "{}", found[0].text);
        let facts = FirewallFacts { undone: Some(undone("nft", 5_000)), snat: true, ..in_force() };
        assert_eq!(codes(&facts), [Code::GuardMissing, Code::SnatMissing, Code::ChangesUndone]);
    }

    #[test]
    fn an_uncovered_part_of_the_site_is_named_unless_it_is_decided() {
        let rest = |device: &str, allowed| Uncovered {
            net: "172.31.0.0/16".parse().unwrap(),
            device: device.to_owned(),
            allowed,
        };
        let facts = FirewallFacts { uncovered: vec![rest("eth0", true)], ..in_force() };
        assert_eq!(codes(&facts), []);
        let facts = FirewallFacts { uncovered: vec![rest("eth0", false)], ..in_force() };
        let found = problems(&facts);
        assert_eq!((found[0].code, &*found[0].about), (Code::SiteUncovered, "172.31.0.0/16"));
        let facts = FirewallFacts { own_prefixes: OwnPrefixes::Block, ..facts };
        assert_eq!(codes(&facts), []);
    }
}
