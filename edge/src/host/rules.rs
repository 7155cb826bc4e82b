//! The host's policy rules: which of them handle packets for the mesh before the edge's own does. Pure.

use std::{fmt::Write as _, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

use super::command::plain;
use crate::instance::Mark;

/// The protocol of an ordinary packet: the kernel assumes it for IPv4 if it is asked without one.
pub const UDP: u8 = 17;
/// The end of a fix that is no command.
const BY_HAND: &str = ", by hand: its device's name has characters that a shell reads as commands";

/// A rule as the kernel has it.
// fields: the selectors of ip-rule(8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub v6: bool,
    pub priority: u32,
    pub invert: bool,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    pub iif: Option<String>,
    pub oif: Option<String>,
    pub tos: u8,
    pub mark: u32,
    pub mark_mask: u32,
    /// By number, as in the header of IP.
    pub protocol: Option<u8>,
    pub source_ports: Option<RangeInclusive<u16>>,
    pub ports: Option<RangeInclusive<u16>>,
    pub users: Option<RangeInclusive<u32>>,
    /// The table of the packet's VRF.
    pub l3mdev: bool,
    /// Routes of the table with at most this prefix length do not count.
    pub suppressed_len: Option<u32>,
    /// Anything else that selects packets.
    pub other: bool,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    Table(u32),
    Goto(u32),
    /// Answers or drops: the word of ip-rule(8).
    Refuse(&'static str),
    #[default]
    Nothing,
}

/// A packet whose way is looked up. It is forwarded if it has come in by a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    pub from: Option<IpAddr>,
    /// Name and number of the device.
    pub iif: Option<(String, u32)>,
    pub tos: u8,
    pub mark: u32,
    pub protocol: Option<u8>,
    pub source_port: Option<u16>,
    pub port: Option<u16>,
}

impl Rule {
    /// Whether a packet can match. Where a packet has no value, a selector may match.
    pub fn matches(&self, packet: &Packet, to: IpAddr) -> bool {
        let inside = |net: &Option<IpNet>, ip: Option<IpAddr>| match (net, ip) {
            (Some(net), Some(ip)) => net.contains(&ip),
            (Some(net), None) => net.prefix_len() == 0,
            (None, _) => true,
        };
        let port = |range: &Option<RangeInclusive<u16>>, port: Option<u16>| {
            range.as_ref().is_none_or(|range| port.is_some_and(|port| range.contains(&port)))
        };
        let iif = match (&self.iif, &packet.iif) {
            (None, _) => true,
            (Some(name), None) => name == "lo",
            (Some(name), Some((device, _))) => name == device,
        };
        let all = self.v6 == to.is_ipv6()
            && inside(&self.from, packet.from)
            && inside(&self.to, Some(to))
            && iif
            && (self.mark ^ packet.mark) & self.mark_mask == 0
            && (self.tos == 0 || self.tos == packet.tos)
            && self.protocol.is_none_or(|protocol| packet.protocol == Some(protocol))
            && port(&self.source_ports, packet.source_port)
            && port(&self.ports, packet.port)
            && self.oif.is_none()
            && self.selects_root()
            && !self.other;
        all != self.invert
    }

    /// Whether it selects forwarded packets, which are root's to the kernel (`sock_net_uid`), as are those
    /// of most services.
    fn selects_root(&self) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(&0))
    }

    /// Whether it selects packets with exactly this mark, which others do not have.
    pub fn selects_mark(&self, mark: Mark) -> bool {
        !self.invert
            && self.mark_mask != 0
            && self.mark != 0
            && mark.value & self.mark_mask == self.mark
    }

    /// Whether it selects packets by a mark.
    pub fn selects_any_mark(&self) -> bool {
        !self.invert && self.mark & self.mark_mask != 0
    }

    /// A packet of the site that the rule selects, if there can be one. `from` and `iif` are those of an
    /// ordinary packet.
    pub fn example(&self, packet: &Packet, own: impl Iterator<Item = IpNet>) -> Option<Packet> {
        let none = self.invert || self.oif.is_some() || !self.selects_root();
        if none || self.other {
            return None;
        }
        let from = match self.from {
            Some(net) => Some(inside_both(net, own)?),
            None => packet.from,
        };
        Some(Packet {
            from,
            iif: packet.iif.clone(),
            tos: self.tos,
            mark: self.mark & self.mark_mask,
            protocol: self.protocol.or(packet.protocol),
            source_port: self.source_ports.as_ref().map(|ports| *ports.start()),
            port: self.ports.as_ref().map(|ports| *ports.start()),
        })
    }

    /// The commands that move the rule to another priority.
    pub fn moved_to(&self, priority: u32) -> String {
        if !self.is_plain() {
            return format!(
                "give the rule with priority {} the priority {priority}{BY_HAND}",
                self.priority
            );
        }
        let ip = if self.v6 { "ip -6" } else { "ip" };
        let (selectors, action) = (self.selectors(), self.action_text());
        let was = self.priority;
        format!(
            "{ip} rule add {selectors} pref {priority} {action}; {ip} rule del {selectors} pref {was} {action}"
        )
    }

    /// The command that lets packets with the mark of this rule take the way of others.
    pub fn exemption(&self) -> String {
        let ip = if self.v6 { "ip -6" } else { "ip" };
        let was = self.priority;
        match was {
            0 | 1 if !self.is_plain() => format!("remove the rule with priority {was}{BY_HAND}"),
            0 | 1 => {
                format!("{ip} rule del {} pref {was} {}", self.selectors(), self.action_text())
            }
            _ => {
                let mark = format!("{:#x}/{:#x}", self.mark, self.mark_mask);
                format!("{ip} rule add fwmark {mark} lookup main pref {}", was - 1)
            }
        }
    }

    /// The rule as `ip rule` prints and takes it.
    pub fn text(&self) -> String {
        format!("{}: {} {}", self.priority, self.selectors(), self.action_text())
    }

    /// Whether its devices' names can stand in a command.
    fn is_plain(&self) -> bool {
        [&self.iif, &self.oif].into_iter().flatten().all(|name| plain(name).is_some())
    }

    fn selectors(&self) -> String {
        let mut text = String::new();
        if self.invert {
            text.push_str("not ");
        }
        match self.from {
            Some(net) => push(&mut text, "from", net),
            None => text.push_str("from all"),
        }
        if let Some(net) = self.to {
            push(&mut text, " to", net);
        }
        if self.tos != 0 {
            push(&mut text, " tos", format_args!("{:#x}", self.tos));
        }
        if self.mark != 0 || self.mark_mask != 0 {
            let mark = format!("{:#x}/{:#x}", self.mark, self.mark_mask);
            push(&mut text, " fwmark", mark);
        }
        for (word, name) in [(" iif", &self.iif), (" oif", &self.oif)] {
            if let Some(name) = name {
                push(&mut text, word, name);
            }
        }
        if let Some(users) = &self.users {
            push(&mut text, " uidrange", format_args!("{}-{}", users.start(), users.end()));
        }
        if let Some(protocol) = self.protocol {
            push(&mut text, " ipproto", protocol);
        }
        for (word, ports) in [(" sport", &self.source_ports), (" dport", &self.ports)] {
            if let Some(ports) = ports {
                push(&mut text, word, format_args!("{}-{}", ports.start(), ports.end()));
            }
        }
        text
    }

    fn action_text(&self) -> String {
        let mut text = match self.action {
            _ if self.l3mdev => "l3mdev".to_owned(),
            Action::Table(255) => "lookup local".to_owned(),
            Action::Table(254) => "lookup main".to_owned(),
            Action::Table(253) => "lookup default".to_owned(),
            Action::Table(table) => format!("lookup {table}"),
            Action::Goto(priority) => format!("goto {priority}"),
            Action::Refuse(word) => word.to_owned(),
            Action::Nothing => "nop".to_owned(),
        };
        if let Some(len) = self.suppressed_len {
            push(&mut text, " suppress_prefixlength", len);
        }
        text
    }
}

/// The rules before `priority` that can send packets elsewhere: not the local table's.
pub fn before(rules: &[Rule], priority: u32) -> impl Iterator<Item = &Rule> {
    let is_local = |rule: &Rule| rule.action == Action::Table(255) && !rule.l3mdev;
    rules.iter().filter(move |rule| rule.priority < priority && !is_local(rule))
}

/// An address in `net` and in one of `own`.
fn inside_both(net: IpNet, mut own: impl Iterator<Item = IpNet>) -> Option<IpAddr> {
    let narrow = own.find_map(|own| match (net.contains(&own), own.contains(&net)) {
        (true, _) => Some(own),
        (_, true) => Some(net),
        _ => None,
    })?;
    Some(examples(narrow).next().unwrap_or_else(|| narrow.addr()))
}

/// A few addresses of hosts in a network, the last ones first: gateways often have the first.
pub fn examples(net: IpNet) -> impl Iterator<Item = IpAddr> {
    let (first, last) = match net {
        IpNet::V4(net) => {
            (u128::from(u32::from(net.network())), u128::from(u32::from(net.broadcast())))
        }
        IpNet::V6(net) => (u128::from(net.network()), u128::from(net.broadcast())),
    };
    let middle = first + (last - first) / 2;
    let offsets = match last - first {
        0 => vec![first],
        1 => vec![first, last],
        _ => vec![last - 1, first + 1, middle, last - 2, first + 2, middle + 1],
    };
    offsets.into_iter().filter(move |at| (first..=last).contains(at)).map(move |at| match net {
        IpNet::V4(_) => IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(at).unwrap_or(0))),
        IpNet::V6(_) => IpAddr::from(std::net::Ipv6Addr::from(at)),
    })
}

fn push(text: &mut String, word: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{word} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u32, from: &str, table: u32) -> Rule {
        Rule {
            priority,
            from: Some(from.parse().unwrap()),
            action: Action::Table(table),
            ..Rule::default()
        }
    }

    fn packet(from: &str, iif: &str) -> Packet {
        Packet {
            from: Some(from.parse().unwrap()),
            iif: Some((iif.to_owned(), 3)),
            ..Packet::default()
        }
    }

    #[test]
    fn a_rule_is_moved_by_the_commands_that_one_would_type() {
        let rule = Rule {
            to: Some("10.0.0.0/8".parse().unwrap()),
            iif: Some("eth1".to_owned()),
            ports: Some(443..=443),
            protocol: Some(6),
            ..rule(1000, "172.18.0.0/16", 100)
        };
        assert_eq!(
            rule.moved_to(6000),
            "ip rule add from 172.18.0.0/16 to 10.0.0.0/8 iif eth1 ipproto 6 dport 443-443 pref 6000 lookup 100; \
             ip rule del from 172.18.0.0/16 to 10.0.0.0/8 iif eth1 ipproto 6 dport 443-443 pref 1000 lookup 100"
        );
        let mut rule = Rule { priority: 200, mark: 0x40, mark_mask: 0xc0, ..Rule::default() };
        assert_eq!(rule.exemption(), "ip rule add fwmark 0x40/0xc0 lookup main pref 199");
        rule.priority = 0;
        assert!(rule.exemption().starts_with("ip rule del from all fwmark 0x40/0xc0 pref 0"));
        rule.iif = Some("$(reboot)".to_owned());
        for fix in [rule.exemption(), rule.moved_to(6000)] {
            assert!(!fix.contains("reboot") && fix.contains("by hand"), "{fix}");
        }
    }

    #[test]
    fn only_a_rule_whose_selectors_all_match_selects_a_packet() {
        let to = "10.2.0.1".parse().unwrap();
        let site = packet("172.18.0.9", "eth1");
        assert!(rule(1, "172.18.0.0/16", 100).matches(&site, to));
        assert!(!rule(1, "172.19.0.0/16", 100).matches(&site, to));
        let not = Rule { invert: true, ..rule(1, "172.19.0.0/16", 100) };
        assert!(not.matches(&site, to));
        let by_device = |name: &str| Rule { iif: Some(name.to_owned()), ..Rule::default() };
        assert!(by_device("eth1").matches(&site, to) && !by_device("eth2").matches(&site, to));
        let marked = Rule { mark: 1, mark_mask: 0xff, ..Rule::default() };
        assert!(!marked.matches(&site, to));
        // The rule of wg-quick: everything that is not its own.
        let inverted = Rule { invert: true, mark: 0xca6c, mark_mask: u32::MAX, ..Rule::default() };
        assert!(inverted.matches(&site, to) && !inverted.selects_mark(Mark::default()));
    }

    #[test]
    fn selectors_of_protocol_type_of_service_and_user_select_packets_that_have_them() {
        let to = "10.2.0.1".parse().unwrap();
        let site = Packet { protocol: Some(UDP), ..packet("172.18.0.9", "eth1") };
        let of = |rule: Rule| rule.example(&site, std::iter::empty()).unwrap();
        let udp = Rule { protocol: Some(17), ..Rule::default() };
        assert!(udp.matches(&site, to) && of(udp) == site);
        let icmp = Rule { protocol: Some(1), ..Rule::default() };
        assert!(!icmp.matches(&site, to) && icmp.matches(&of(icmp.clone()), to));
        let tos = Rule { tos: 0x10, ..Rule::default() };
        assert!(!tos.matches(&site, to) && tos.matches(&of(tos.clone()), to));
        let users = |users| Rule { users: Some(users), ..Rule::default() };
        assert!(users(0..=99).matches(&site, to), "forwarded packets are root's");
        assert!(!users(1000..=1000).matches(&site, to));
    }

    #[test]
    fn an_example_is_a_packet_of_the_site() {
        let own = || ["172.18.0.0/16".parse().unwrap()].into_iter();
        let site = packet("172.18.0.9", "eth1");
        let narrow = rule(1, "172.18.7.0/24", 100).example(&site, own()).unwrap();
        assert!(rule(1, "172.18.7.0/24", 100).matches(&narrow, "10.2.0.1".parse().unwrap()));
        assert_eq!(rule(1, "192.168.0.0/16", 100).example(&site, own()), None);
        let one: Vec<IpAddr> = examples("10.0.0.7/32".parse().unwrap()).collect();
        assert_eq!(one, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_rule_selects_the_edges_mark_only_by_its_bits() {
        let mark = Mark::default();
        let rule = |mark, mark_mask| Rule { mark, mark_mask, ..Rule::default() };
        assert!(rule(0x1040, 0x1040).selects_mark(mark) && rule(0x40, 0x40).selects_mark(mark));
        assert!(!rule(0x4000, 0x4000).selects_mark(mark) && !rule(0, 0x4000).selects_mark(mark));
        assert!(!rule(0, 0).selects_mark(mark));
    }
}
