//! Routes and policy rules that lead the packets of a direction through its TUN device, as lines
//! for `ip`: pure functions.
//!
//! Each direction has a device, so the device identifies the two links whatever a packet's
//! addresses are. A packet that the emulator writes back to the device is routed by the table of
//! the link that it came from, so the conditions of links apply too.

use std::collections::BTreeSet;

use super::protocol::Links;

/// Lower than the preferences of the links' rules, so that these are looked up first.
pub(super) const PREFERENCE: u32 = 50;

/// The table of the first device; each device has one.
const FIRST_TABLE: u32 = 10_000;

/// Name of the device for packets from one link to another, given the links' tables.
pub(crate) fn device(from: u32, to: u32) -> String {
    format!("wan{from}-{to}")
}

/// Lines for `ip -4` and `ip -6` that set up the device's table: all routes lead to the device.
pub(super) fn routes(device: &str, number: usize) -> [String; 2] {
    let table = table(number);
    [
        format!(
            "link set dev {device} txqueuelen 4096\nroute replace 0.0.0.0/0 dev {device} table {table}"
        ),
        format!("route replace ::/0 dev {device} table {table}"),
    ]
}

/// Rules of IPv4 and of IPv6, without the verb `add` or `del`.
pub(super) type Rules = [BTreeSet<String>; 2];

/// The rules for the directions that have conditions, given as (number, from, to).
pub(super) fn rules<'a>(
    links: &Links,
    active: impl IntoIterator<Item = (usize, &'a str, &'a str)>,
) -> Rules {
    let mut rules = Rules::default();
    for (number, from, to) in active {
        let (Some(source), Some(sink)) = (links.get(from), links.get(to)) else { continue };
        let table = table(number);
        for prefix in &sink.prefixes {
            rules[usize::from(prefix.addr().is_ipv6())]
                .insert(format!("iif {from} to {prefix} lookup {table} pref {PREFERENCE}"));
        }
        let (device, table) = (device(source.table, sink.table), source.table);
        for family in &mut rules {
            family.insert(format!("iif {device} lookup {table} pref {PREFERENCE}"));
        }
    }
    rules
}

/// Lines for `ip` that change the `installed` rules into the `wanted` ones, additions first.
pub(super) fn difference(installed: &BTreeSet<String>, wanted: &BTreeSet<String>) -> String {
    let added = wanted.difference(installed).map(|rule| format!("rule add {rule}\n"));
    let removed = installed.difference(wanted).map(|rule| format!("rule del {rule}\n"));
    added.chain(removed).collect()
}

fn table(number: usize) -> u32 {
    FIRST_TABLE.saturating_add(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::protocol::Link;

    fn links() -> Links {
        let link = |table, prefixes: &[&str]| Link {
            table,
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            gateways: Vec::new(),
        };
        Links::from([
            ("hk".to_owned(), link(100, &["203.0.113.0/24", "2001:db8:4::/64"])),
            ("sz".to_owned(), link(101, &["192.0.2.0/24"])),
        ])
    }

    #[test]
    fn a_direction_goes_through_its_device_and_back_to_the_sources_table() {
        let [v4, v6] = rules(&links(), [(3, "sz", "hk")]);
        let back = "iif wan101-100 lookup 101 pref 50".to_owned();
        let there = |prefix| format!("iif sz to {prefix} lookup 10003 pref 50");
        assert_eq!(v4, BTreeSet::from([there("203.0.113.0/24"), back.clone()]));
        assert_eq!(v6, BTreeSet::from([there("2001:db8:4::/64"), back]));
    }

    #[test]
    fn a_prefix_that_moved_is_added_before_the_old_one_goes() {
        let mut links = links();
        let before = rules(&links, [(0, "hk", "sz")]);
        links.get_mut("sz").unwrap().prefixes = vec!["192.0.3.0/24".parse().unwrap()];
        let after = rules(&links, [(0, "hk", "sz")]);
        assert_eq!(
            difference(&before[0], &after[0]),
            "rule add iif hk to 192.0.3.0/24 lookup 10000 pref 50\n\
             rule del iif hk to 192.0.2.0/24 lookup 10000 pref 50\n"
        );
        assert_eq!(difference(&after[0], &after[0]), "");
    }
}
