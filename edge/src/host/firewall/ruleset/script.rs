use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use ipnet::IpNet;

use super::{Bound, Destination, Ruleset};
use crate::{
    host::{firewall::Dropped, tun::DEVICE_GROUP},
    instance::{Instance, Mark},
};

/// Before the rules of others.
const FIRST: i32 = i32::MIN + 1;

pub(in crate::host::firewall) fn name(instance: &Instance) -> String {
    format!("inet cframe-{instance}")
}

/// Removes the table, if it is there: it is added first, because the deletion of a missing table fails.
pub(in crate::host::firewall) fn removal(instance: &Instance) -> String {
    let table = name(instance);
    format!("add table {table}\ndelete table {table}\n")
}

/// Replaces the whole table, in one transaction. Its counters start with what was dropped before.
pub(in crate::host::firewall) fn table(
    ruleset: &Ruleset,
    destinations: &Changes,
    dropped: Dropped,
) -> String {
    let Ruleset { instance, mark, snat, .. } = ruleset;
    let mut text = removal(instance);
    line(&mut text, format_args!("table {} {{", name(instance)));
    for (counter, packets) in [("leaks", dropped.foreign), ("uncovered", dropped.uncovered)] {
        line(&mut text, format_args!("counter {counter} {{\npackets {packets} bytes 0\n}}"));
    }
    for (family, v6) in [("4", false), ("6", true)] {
        let devices = list(ruleset.site_devices(v6));
        let elements =
            if devices.is_empty() { devices } else { format!("elements = {{ {devices} }}\n") };
        line(&mut text, format_args!("set site{family} {{\ntype iface_index\n{elements}}}"));
        line(
            &mut text,
            format_args!(
                "chain own{family} {{\noif @site{family} accept\ncounter name uncovered drop\n}}"
            ),
        );
    }
    text.push_str("chain foreign {\ncounter name leaks drop\n}\n");
    text.push_str("chain destinations4 {\n}\nchain destinations6 {\n}\n");
    text.push_str(&guard(instance, *mark));
    if *snat {
        text.push_str(&masquerading(instance));
    }
    text.push_str("}\n");
    text.push_str(&changes(instance, &Installed::default(), destinations));
    text
}

/// Postrouting is the one hook where a packet's device and destination do not change any more: not by a
/// mark that another program sets, not by DNAT.
///
/// The edge's own packets have its mark and come from no device.
///
/// A flow that a flowtable has taken over is sent without postrouting. Rules take flows over in the hook
/// forward, so that a packet that must not leave is dropped before them, too.
fn guard(instance: &Instance, Mark { value, mask }: Mark) -> String {
    let destinations = "meta nfproto vmap { ipv4 : goto destinations4, ipv6 : goto destinations6 }";
    format!(
        "chain forwarded {{\n\
         type filter hook forward priority {FIRST}; policy accept;\n\
         oifname \"{instance}\" accept\n\
         oifname \"lo\" accept\n\
         oifgroup {DEVICE_GROUP} accept\n\
         {destinations}\n\
         }}\n\
         chain guard {{\n\
         type filter hook postrouting priority 400; policy accept;\n\
         oifname \"{instance}\" accept\n\
         meta mark & {mask:#x} == {value:#x} iif 0 accept\n\
         oifname \"lo\" accept\n\
         oifgroup {DEVICE_GROUP} accept\n\
         {destinations}\n\
         }}\n"
    )
}

fn masquerading(instance: &Instance) -> String {
    format!(
        "chain masquerading {{\n\
         type nat hook postrouting priority srcnat; policy accept;\n\
         iifname \"{instance}\" oifname != \"{instance}\" masquerade\n\
         }}\n"
    )
}

/// Applies changes of destinations to the table.
pub(in crate::host::firewall) fn changes(
    instance: &Instance,
    installed: &Installed,
    changes: &Changes,
) -> String {
    let table = name(instance);
    let mut text = String::new();
    let (mut gone, mut new) = (Elements::default(), Elements::default());
    for (net, wanted) in changes {
        if let Some(destination) = installed.at.get(net) {
            gone.add(net, *destination);
        }
        if let Some(destination) = wanted {
            new.add(net, *destination);
        }
    }
    let before: BTreeSet<Family> = installed.lengths.keys().copied().collect();
    let mut after = installed.lengths.clone();
    count(&mut after, installed, changes);
    let after: BTreeSet<Family> = after.into_keys().collect();
    let mut chains_after = installed.chains.clone();
    count_chains(&mut chains_after, installed, changes);
    for bound in chains_after.keys().filter(|bound| !installed.chains.contains_key(bound)) {
        let chain = chain(bound);
        let counter = if bound.foreign { "leaks" } else { "uncovered" };
        let devices = list(bound.devices().collect());
        line(&mut text, format_args!("add chain {table} {chain}"));
        line(&mut text, format_args!("add rule {table} {chain} oif {{ {devices} }} accept"));
        line(&mut text, format_args!("add rule {table} {chain} counter name {counter} drop"));
    }
    for (v6, length) in after.difference(&before) {
        let (key, map) = (if *v6 { "ipv6_addr" } else { "ipv4_addr" }, map(*v6, *length));
        line(&mut text, format_args!("add map {table} {map} {{ type {key} : verdict; }}"));
    }
    for (verb, elements) in [("delete", gone), ("add", new)] {
        for ((v6, length), elements) in elements.0 {
            let map = map(v6, length);
            line(&mut text, format_args!("{verb} element {table} {map} {{ {elements} }}"));
        }
    }
    if after != before {
        for (v6, chain) in [(false, "destinations4"), (true, "destinations6")] {
            line(&mut text, format_args!("flush chain {table} {chain}"));
            // The longest prefix first.
            for (_, length) in after.iter().rev().filter(|(family, _)| *family == v6) {
                let (field, map) = (masked(v6, *length), map(v6, *length));
                line(&mut text, format_args!("add rule {table} {chain} {field} vmap @{map}"));
            }
        }
        for (v6, length) in before.difference(&after) {
            line(&mut text, format_args!("delete map {table} {}", map(*v6, *length)));
        }
    }
    for bound in installed.chains.keys().filter(|bound| !chains_after.contains_key(bound)) {
        let chain = chain(bound);
        line(&mut text, format_args!("flush chain {table} {chain}\ndelete chain {table} {chain}"));
    }
    text
}

/// Destinations that change; `None`: the prefix is not in the table any more.
pub(in crate::host::firewall) type Changes = BTreeMap<IpNet, Option<Destination>>;

/// Whether IPv6, and the prefix length, which determine the map.
type Family = (bool, u8);

/// The destinations that are in the kernel's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::host::firewall) struct Installed {
    at: BTreeMap<IpNet, Destination>,
    /// How many there are of each length.
    lengths: BTreeMap<Family, usize>,
    /// How many there are of each set of devices, which has a chain.
    chains: BTreeMap<Bound, usize>,
}

impl Installed {
    /// Those of the wanted ones that differ.
    pub(in crate::host::firewall) fn changes(
        &self,
        wanted: impl IntoIterator<Item = (IpNet, Option<Destination>)>,
    ) -> Changes {
        let differs =
            |(net, wanted): &(IpNet, Option<Destination>)| self.at.get(net) != wanted.as_ref();
        wanted.into_iter().filter(differs).collect()
    }

    /// Elements of each map, by its name.
    pub(in crate::host::firewall) fn sizes(&self) -> impl Iterator<Item = (String, usize)> {
        self.lengths.iter().map(|((v6, length), size)| (map(*v6, *length), *size))
    }

    pub(in crate::host::firewall) fn apply(&mut self, changes: &Changes) {
        let mut lengths = std::mem::take(&mut self.lengths);
        count(&mut lengths, self, changes);
        self.lengths = lengths;
        let mut chains = std::mem::take(&mut self.chains);
        count_chains(&mut chains, self, changes);
        self.chains = chains;
        for (net, wanted) in changes {
            match wanted {
                Some(destination) => self.at.insert(*net, *destination),
                None => self.at.remove(net),
            };
        }
    }
}

/// Changes the number of prefixes of each length.
fn count(lengths: &mut BTreeMap<Family, usize>, installed: &Installed, changes: &Changes) {
    for (net, wanted) in changes {
        match (installed.at.contains_key(net), wanted) {
            (false, Some(_)) => *lengths.entry(family(net)).or_default() += 1,
            (true, None) => {
                if let Some(count) = lengths.get_mut(&family(net)) {
                    *count -= 1;
                }
            }
            _ => {}
        }
    }
    lengths.retain(|_, count| *count > 0);
}

/// Changes the number of prefixes of each set of devices.
fn count_chains(chains: &mut BTreeMap<Bound, usize>, installed: &Installed, changes: &Changes) {
    for (net, wanted) in changes {
        if let Some(Destination::Bound(bound)) = installed.at.get(net)
            && let Some(count) = chains.get_mut(bound)
        {
            *count -= 1;
        }
        if let Some(Destination::Bound(bound)) = wanted {
            *chains.entry(*bound).or_default() += 1;
        }
    }
    chains.retain(|_, count| *count > 0);
}

/// The name of the chain that lets packets leave by these devices only.
fn chain(bound: &Bound) -> String {
    let numbers = bound.devices().map(|device| format!("-{device}")).collect::<String>();
    format!("{}{numbers}", if bound.foreign { "subnet" } else { "site" })
}

/// Elements by map, as text.
#[derive(Default)]
struct Elements(BTreeMap<Family, String>);

impl Elements {
    fn add(&mut self, net: &IpNet, destination: Destination) {
        let text = self.0.entry(family(net)).or_default();
        if !text.is_empty() {
            text.push_str(", ");
        }
        let bound;
        let verdict = match (destination, net) {
            (Destination::Foreign, _) => "goto foreign",
            (Destination::Uncovered, IpNet::V4(_)) => "goto own4",
            (Destination::Uncovered, IpNet::V6(_)) => "goto own6",
            (Destination::Bound(to), _) => {
                bound = format!("goto {}", chain(&to));
                &bound
            }
            (Destination::Local, _) => "accept",
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{} : {verdict}", net.network());
    }
}

fn family(net: &IpNet) -> Family {
    (net.addr().is_ipv6(), net.prefix_len())
}

fn map(v6: bool, length: u8) -> String {
    format!("{}-{length}", if v6 { "v6" } else { "v4" })
}

/// The destination address, masked to a prefix length.
fn masked(v6: bool, length: u8) -> String {
    let any: IpNet = match v6 {
        true => ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, length).into(),
        false => ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, length).into(),
    };
    let field = if v6 { "ip6 daddr" } else { "ip daddr" };
    match any.max_prefix_len() == length {
        true => field.to_owned(),
        false => format!("{field} & {}", any.netmask()),
    }
}

fn list(numbers: BTreeSet<u32>) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
