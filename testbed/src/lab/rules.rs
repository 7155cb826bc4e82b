//! The router's routes and firewall rules for the conditions of its links: pure functions from the
//! conditions to lines for `ip` and `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ipnet::IpNet;

use crate::wan::device;

/// The largest IP packet that passes, header included. Larger IPv4 packets without DF are
/// fragmented, as by any router; all other larger packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    bytes: u16,
    silent: bool,
}

impl PathMtu {
    /// Larger packets are dropped silently: a black hole.
    pub fn silent(bytes: u16) -> Self {
        Self { bytes, silent: true }
    }

    /// Larger packets are answered with "fragmentation needed" or "packet too big".
    pub fn with_icmp(bytes: u16) -> Self {
        Self { bytes, silent: false }
    }

    pub(super) fn bytes(self) -> u16 {
        self.bytes
    }
}

/// Conditions of a link, for both directions.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    pub(super) cut: bool,
    pub(super) cut_from: BTreeSet<String>,
    pub(super) udp_blocked: bool,
    pub(super) loss_permille: u16,
    pub(super) path_mtu: Option<PathMtu>,
}

/// The router's side of a link. Its interface has the link's name.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    /// Routing table for packets that come in from it.
    pub(super) table: u32,
    pub(super) prefixes: Vec<IpNet>,
    pub(super) conditions: Conditions,
}

pub(super) type Wires = BTreeMap<String, Wire>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    interface: String,
    mtu: Option<u16>,
}

pub(super) type Routes = BTreeMap<(u32, IpNet), Route>;

/// The kernel's own table, `RT_TABLE_MAIN` of `linux/rtnetlink.h`.
const MAIN: u32 = 254;

/// All routes of the router by table and prefix. A path MTU is a locked metric of the routes of
/// both directions, so that the kernel compares it with the segments of a super-packet; a firewall
/// rule would see the whole super-packet of up to 64 KiB.
pub(super) fn routes(wires: &Wires) -> Routes {
    let mut routes = Routes::new();
    for (to, wire) in wires {
        for prefix in &wire.prefixes {
            let route = |mtu| Route { interface: to.clone(), mtu };
            // The router's own packets have no path MTU.
            routes.insert((MAIN, *prefix), route(None));
            for from in wires.values() {
                let ends = [from.conditions.path_mtu, wire.conditions.path_mtu];
                let mtu = ends.into_iter().flatten().map(PathMtu::bytes).min();
                routes.insert((from.table, *prefix), route(mtu));
            }
        }
    }
    routes
}

/// Lines for `ip` that change the `installed` routes into the `wanted` ones, additions first.
pub(super) fn difference(installed: &Routes, wanted: &Routes) -> String {
    let mut lines = String::new();
    for (key @ (table, prefix), route) in wanted {
        if installed.get(key) != Some(route) {
            let mtu = route.mtu.map_or_else(String::new, |mtu| format!(" mtu lock {mtu}"));
            let interface = &route.interface;
            line(
                &mut lines,
                format_args!("route replace {prefix} dev {interface} table {table}{mtu}"),
            );
        }
    }
    for (key @ (table, prefix), route) in installed {
        if !wanted.contains_key(key) {
            let interface = &route.interface;
            line(&mut lines, format_args!("route del {prefix} dev {interface} table {table}"));
        }
    }
    lines
}

/// The router's ruleset for nft, which replaces the previous one. It uses no connection tracking.
pub(super) fn firewall(wires: &Wires) -> String {
    let mut rules = String::new();
    let mut mtus = BTreeSet::new();
    for (name, Wire { conditions, table, .. }) in wires {
        for end in ["iifname", "oifname"] {
            if conditions.cut {
                line(&mut rules, format_args!("{end} \"{name}\" drop"));
            }
            if conditions.udp_blocked {
                line(&mut rules, format_args!("{end} \"{name}\" meta l4proto udp drop"));
            }
            if conditions.loss_permille > 0 {
                let loss = conditions.loss_permille;
                line(
                    &mut rules,
                    format_args!("{end} \"{name}\" numgen random mod 1000 < {loss} drop"),
                );
            }
        }
        for other in &conditions.cut_from {
            line(&mut rules, format_args!("iifname \"{name}\" oifname \"{other}\" drop"));
            line(&mut rules, format_args!("iifname \"{other}\" oifname \"{name}\" drop"));
            // A path with conditions goes through its TUN device first.
            if let Some(far) = wires.get(other) {
                let device = device(*table, far.table);
                line(&mut rules, format_args!("oifname \"{device}\" drop"));
            }
        }
        mtus.extend(conditions.path_mtu.filter(|mtu| mtu.silent).map(PathMtu::bytes));
    }
    let mut answers = String::new();
    for mtu in mtus {
        line(
            &mut answers,
            format_args!(
                "icmp type destination-unreachable icmp code frag-needed icmp mtu {mtu} drop"
            ),
        );
        line(&mut answers, format_args!("icmpv6 type packet-too-big icmpv6 mtu {mtu} drop"));
    }
    format!(
        "table inet wan\ndelete table inet wan\ntable inet wan {{\n\
         chain forward {{\ntype filter hook forward priority filter\n{rules}}}\n\
         chain output {{\ntype filter hook output priority filter\n{answers}}}\n}}\n"
    )
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String can't fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wires() -> Wires {
        let wire = |table, prefix: &str| Wire {
            table,
            prefixes: vec![prefix.parse().unwrap()],
            conditions: Conditions::default(),
        };
        Wires::from([
            ("hk".to_owned(), wire(100, "203.0.113.0/24")),
            ("sz".to_owned(), wire(101, "198.51.100.0/24")),
        ])
    }

    #[test]
    fn a_path_mtu_holds_in_both_directions_and_not_for_others() {
        let mut wires = wires();
        let idc = Wire {
            table: 102,
            prefixes: vec!["192.0.2.0/24".parse().unwrap()],
            conditions: Conditions::default(),
        };
        wires.insert("idc".to_owned(), idc);
        let before = routes(&wires);
        wires.get_mut("hk").unwrap().conditions.path_mtu = Some(PathMtu::silent(1300));
        let lines = difference(&before, &routes(&wires));
        let expected = "\
            route replace 192.0.2.0/24 dev idc table 100 mtu lock 1300\n\
            route replace 198.51.100.0/24 dev sz table 100 mtu lock 1300\n\
            route replace 203.0.113.0/24 dev hk table 100 mtu lock 1300\n\
            route replace 203.0.113.0/24 dev hk table 101 mtu lock 1300\n\
            route replace 203.0.113.0/24 dev hk table 102 mtu lock 1300\n";
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_prefix_that_moved_is_added_before_the_old_one_goes() {
        let mut wires = wires();
        let before = routes(&wires);
        wires.get_mut("hk").unwrap().prefixes = vec!["203.0.114.0/24".parse().unwrap()];
        let lines = difference(&before, &routes(&wires));
        let added = lines.rfind("replace 203.0.114.0/24").unwrap();
        let removed = lines.find("del 203.0.113.0/24").unwrap();
        assert!(added < removed, "{lines}");
        assert!(!lines.contains("198.51.100.0"), "{lines}");
    }

    #[test]
    fn only_silent_mtus_suppress_their_answer() {
        let mut wires = wires();
        wires.get_mut("hk").unwrap().conditions.path_mtu = Some(PathMtu::with_icmp(1300));
        assert!(!firewall(&wires).contains("1300"));
        wires.get_mut("hk").unwrap().conditions.path_mtu = Some(PathMtu::silent(1300));
        assert!(firewall(&wires).contains("icmp mtu 1300 drop"));
    }
}
