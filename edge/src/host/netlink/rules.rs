//! Policy rules: requests, and the kernel's messages.

use futures_util::StreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use rtnetlink::IpVersion;
use rustix::io::Errno;

use super::{
    Kernel, NetlinkError, RULE_PRIORITY, gone_is_fine,
    message::{self, PROTOCOL},
    next_of_dump, refused,
};
use crate::{
    host::rules::{Action, Rule},
    instance::Mark,
};

impl Kernel {
    /// Adds the policy rules "unless marked as underlay, look up `table`", and deletes other rules for
    /// this table. Returns whether one was missing. A host without IPv6 refuses that family's rule, which is
    /// no error.
    pub async fn ensure_rules(&self, table: u32, mark: Mark) -> Result<bool, NetlinkError> {
        let mut added = false;
        for version in [IpVersion::V4, IpVersion::V6] {
            let v6 = version == IpVersion::V6;
            let wanted = ours(table, mark, v6);
            let mut found = false;
            for rule in self.rules_to(table, version).await? {
                match !found && is_same(&rule, &wanted) {
                    true => found = true,
                    false => self.delete_rule(rule).await?,
                }
            }
            if !found {
                match self.add_rule(wanted).await {
                    Err(error)
                        if v6
                            && matches!(
                                error.errno(),
                                Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)
                            ) => {}
                    Err(error) if error.errno() == Some(Errno::EXIST) => {}
                    other => {
                        other?;
                        added = true;
                    }
                }
            }
        }
        Ok(added)
    }

    /// Deletes all rules for a table and returns how many there were.
    pub async fn delete_rules(&self, table: u32) -> Result<usize, NetlinkError> {
        let mut count = 0;
        for version in [IpVersion::V4, IpVersion::V6] {
            for rule in self.rules_to(table, version).await? {
                self.delete_rule(rule).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    async fn rules_to(
        &self,
        table: u32,
        version: IpVersion,
    ) -> Result<Vec<RuleMessage>, NetlinkError> {
        let mut rules = Vec::new();
        let mut dump = std::pin::pin!(self.handle.rule().get(version.clone()).execute());
        while let Some(rule) = next_of_dump(dump.next().await, "reading rules")? {
            let right_family = message::has_family(rule.header.family, &version);
            if right_family && self::table(&rule) == table {
                rules.push(rule);
            }
        }
        Ok(rules)
    }

    /// All policy rules, in the order in which the kernel uses them.
    pub async fn rules(&self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut dump = std::pin::pin!(self.handle.rule().get(version.clone()).execute());
            while let Some(rule) = next_of_dump(dump.next().await, "reading rules")? {
                if message::has_family(rule.header.family, &version) {
                    rules.push(to_rule(&rule));
                }
            }
        }
        Ok(rules)
    }

    async fn add_rule(&self, rule: RuleMessage) -> Result<(), NetlinkError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule;
        refused(request.execute().await, || "adding the policy rule".to_owned())
    }

    async fn delete_rule(&self, rule: RuleMessage) -> Result<(), NetlinkError> {
        let result = self.handle.rule().del(rule).execute().await;
        gone_is_fine(refused(result, || "deleting a policy rule".to_owned()))
    }
}

/// `not fwmark 0x1040/0x1040 lookup <table>`.
pub(super) fn ours(table: u32, mark: Mark, v6: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.header.flags = RuleFlags::Invert;
    message.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(mark.value),
        RuleAttribute::FwMask(mark.mask),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    message
}

pub(super) fn table(rule: &RuleMessage) -> u32 {
    let attribute = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| u32::from(rule.header.table))
}

/// Whether a rule of the kernel does what `wanted` does, and nothing else.
pub(super) fn is_same(found: &RuleMessage, wanted: &RuleMessage) -> bool {
    to_rule(found) == to_rule(wanted)
}

pub(super) fn to_rule(message: &RuleMessage) -> Rule {
    let header = &message.header;
    let mut rule = Rule {
        v6: header.family == AddressFamily::Inet6,
        invert: header.flags.contains(RuleFlags::Invert),
        tos: header.tos,
        ..Rule::default()
    };
    let mut goto = 0;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(ip) => rule.from = IpNet::new(*ip, header.src_len).ok(),
            RuleAttribute::Destination(ip) => rule.to = IpNet::new(*ip, header.dst_len).ok(),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.oif = Some(name.clone()),
            RuleAttribute::FwMark(mark) => rule.mark = *mark,
            RuleAttribute::FwMask(mask) => rule.mark_mask = *mask,
            RuleAttribute::IpProtocol(protocol) => rule.protocol = Some(u8::from(*protocol)),
            RuleAttribute::SourcePortRange(ports) => {
                rule.source_ports = Some(ports.start..=ports.end);
            }
            RuleAttribute::DestinationPortRange(ports) => {
                rule.ports = Some(ports.start..=ports.end)
            }
            RuleAttribute::UidRange(users) => rule.users = Some(users.start..=users.end),
            RuleAttribute::L3MDev(on) => rule.l3mdev = *on,
            // The kernel has all ones for "none".
            RuleAttribute::SuppressPrefixLen(len) => {
                rule.suppressed_len = Some(*len).filter(|len| *len != u32::MAX);
            }
            RuleAttribute::Goto(priority) => goto = *priority,
            RuleAttribute::TunId(id) => rule.other |= *id != 0,
            _ => {}
        }
    }
    rule.action = match header.action {
        RuleAction::ToTable => Action::Table(table(message)),
        RuleAction::Goto => Action::Goto(goto),
        RuleAction::Blackhole => Action::Refuse("blackhole"),
        RuleAction::Unreachable => Action::Refuse("unreachable"),
        RuleAction::Prohibit => Action::Refuse("prohibit"),
        _ => Action::Nothing,
    };
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_another_mark_or_table_is_another_rule() {
        let mark = Mark::default();
        let ours = ours(0xcf_1234, mark, false);
        assert!(is_same(&super::ours(0xcf_1234, mark, false), &ours));
        let mut other = ours.clone();
        other.attributes[1] = RuleAttribute::FwMark(1);
        assert!(!is_same(&other, &ours));
        let mut narrower = ours.clone();
        narrower.attributes.push(RuleAttribute::Iifname("eth0".to_owned()));
        assert!(!is_same(&narrower, &ours));
        let mut upright = ours.clone();
        upright.header.flags = RuleFlags::empty();
        assert!(!is_same(&upright, &ours));
    }
}
