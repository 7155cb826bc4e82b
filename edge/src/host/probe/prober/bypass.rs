//! Packets of the mesh for the site that a rule sends elsewhere.

use std::collections::BTreeSet;

use super::{Prober, Site};
use crate::host::{
    netlink::{Kernel, RULE_PRIORITY},
    probe::{facts::Finding, packet::Kind, plan::Probe},
    rules::{Action, Packet, Rule, UDP, before},
};

/// The main table, and the priority of the rule that looks it up on any host.
const MAIN: u32 = 254;
const MAIN_PRIORITY: u32 = 32_766;
/// Routes of a rule's table that are looked at.
const MAX_NETS: usize = 1000;

impl Prober {
    /// What a rule does to a packet from the tunnel that should leave by the probe's device.
    pub(super) async fn bypassed(
        &self,
        kernel: &Kernel,
        probe: &Probe,
        tun: u32,
        site: &Site,
    ) -> Option<Finding> {
        let tun_name = self.means.instance.name();
        let protocol = match probe.kind {
            Kind::Udp | Kind::Large => UDP,
            Kind::TcpSyn => 6,
            Kind::Echo if probe.to.is_ipv6() => 58,
            Kind::Echo => 1,
        };
        let packet = Packet {
            from: Some(probe.from),
            iif: Some((tun_name.to_owned(), tun)),
            protocol: Some(protocol),
            ..Packet::default()
        };
        let way = kernel.way(probe.to, &packet).await.ok()?;
        // The main table's routes are the host's own, whichever device they lead to.
        if way.is_some_and(|way| way.device == probe.device || way.table == MAIN) {
            return None;
        }
        let rules = kernel.rules().await.ok()?;
        let selecting = || {
            before(&rules, MAIN_PRIORITY)
                .filter(|rule| rule.priority != RULE_PRIORITY && rule.matches(&packet, probe.to))
        };
        let rule = match way {
            Some(way) => selecting().find(|rule| rule.l3mdev || leads(rule, way.table)),
            None => match selecting().find(|rule| matches!(rule.action, Action::Refuse(_))) {
                Some(rule) => Some(rule),
                None => self.refusing(kernel, selecting(), probe).await,
            },
        }?;
        let what = match way {
            Some(way) => format!(
                "would leave by {} and not by {}",
                self.names.name(way.device),
                self.names.name(probe.device)
            ),
            None => "are refused".to_owned(),
        };
        let text = format!(
            "packets from {} in the mesh to {} {what}, by the rule \"{}\"",
            probe.from,
            probe.to,
            rule.text()
        );
        let own = site.own.iter().filter(|net| net.contains(&probe.to));
        let own = own.max_by_key(|net| net.prefix_len());
        let fix = own.zip(free_before(&rules, rule)).map(|(own, priority)| {
            let ip = if rule.v6 { "ip -6" } else { "ip" };
            format!("{ip} rule add iif {tun_name} to {own} lookup main pref {priority}")
        });
        Some(Finding { text, fix })
    }

    /// The rule for a table that has a route to the probe's address: one that refuses.
    async fn refusing<'a>(
        &self,
        kernel: &Kernel,
        rules: impl Iterator<Item = &'a Rule>,
        probe: &Probe,
    ) -> Option<&'a Rule> {
        for rule in rules {
            let Action::Table(table) = rule.action else { continue };
            let nets = kernel.nets(table, MAX_NETS).await.ok()?;
            if table != MAIN && nets.iter().any(|net| net.contains(&probe.to)) {
                return Some(rule);
            }
        }
        None
    }
}

fn leads(rule: &Rule, table: u32) -> bool {
    match rule.action {
        Action::Table(found) => found == table,
        // Over the edge's own rule, to one behind it.
        Action::Goto(priority) => priority > RULE_PRIORITY,
        Action::Refuse(_) | Action::Nothing => false,
    }
}

/// The last free priority before a rule. The kernel's own first rule has 0.
fn free_before(rules: &[Rule], rule: &Rule) -> Option<u32> {
    let same_family = rules.iter().filter(|other| other.v6 == rule.v6);
    let taken: BTreeSet<u32> = same_family.map(|rule| rule.priority).collect();
    (1..rule.priority).rev().find(|priority| !taken.contains(priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fix_comes_before_the_rule_at_a_priority_that_is_free() {
        let rule = |priority| Rule { priority, ..Rule::default() };
        let rules = [rule(0), rule(999), rule(1000)];
        assert_eq!(free_before(&rules, &rules[2]), Some(998));
        assert_eq!(free_before(&rules, &rule(1)), None);
        assert!(leads(&Rule { action: Action::Table(100), ..Rule::default() }, 100));
        assert!(!leads(&Rule { action: Action::Goto(100), ..Rule::default() }, 100));
    }
}
