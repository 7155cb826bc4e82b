use super::*;
use crate::host::{firewall::Dropped, reconcile::Local};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().copied().map(net).collect()
}

fn ruleset(own: &[&str], foreign: &[&str], subnets: &[&str]) -> Ruleset {
    let mut ruleset = Ruleset::new(Instance::default());
    own.iter().for_each(|text| ruleset.intent.add(net(text), true));
    foreign.iter().for_each(|text| ruleset.intent.add(net(text), false));
    let (connected, subnets) = (nets(subnets), nets(subnets));
    ruleset.devices = connected.iter().map(|net| (*net, BTreeSet::from([LAN]))).collect();
    ruleset.intent.set_local(Local { connected, subnets, ..Local::default() });
    ruleset
}

/// The only device of networks.
const LAN: u32 = 7;

fn bound(devices: &[u32], foreign: bool) -> Option<Destination> {
    Bound::new(&devices.iter().copied().collect(), foreign).map(Destination::Bound)
}

/// What happens to a packet for this address: that of the longest prefix.
fn destination(ruleset: &Ruleset, address: &str) -> Option<Destination> {
    let all = ruleset.destinations();
    let address: IpAddr = address.parse().unwrap();
    let containing = all.iter().filter(|(net, _)| net.contains(&address));
    containing.max_by_key(|(net, _)| net.prefix_len()).and_then(|(_, destination)| *destination)
}

#[test]
fn the_longest_prefix_decides_and_networks_of_the_host_win() {
    let ruleset = ruleset(
        &["10.1.0.0/16", "10.20.0.0/16"],
        &["10.0.0.0/8", "10.20.5.0/24", "10.30.1.0/24", "fd00:2::/32"],
        &["10.1.2.0/24", "10.9.0.0/16", "10.30.0.0/16", "192.168.7.0/24"],
    );
    for (address, expected) in [
        ("10.77.0.1", Some(Destination::Foreign)),
        ("10.1.2.3", bound(&[LAN], false)),
        ("10.1.3.3", Some(Destination::Uncovered)),
        ("10.9.1.1", bound(&[LAN], true)),
        ("10.20.5.1", Some(Destination::Foreign)),
        ("10.20.6.1", Some(Destination::Uncovered)),
        ("10.30.1.1", bound(&[LAN], true)),
        ("fd00:2::1", Some(Destination::Foreign)),
        ("192.168.7.1", None),
        ("203.0.113.1", None),
    ] {
        assert_eq!(destination(&ruleset, address), expected, "{address}");
    }
}

#[test]
fn the_table_looks_destinations_up_from_the_longest_prefix_to_the_shortest() {
    let mut ruleset = ruleset(&["172.30.0.0/16"], &["10.0.0.0/8", "0.0.0.0/1", "fd00::1/128"], &[]);
    ruleset.snat = true;
    let dropped = Dropped { foreign: 7, uncovered: 8 };
    let text = table(&ruleset, &ruleset.destinations(), dropped);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..3],
        [
            "add table inet cframe-cframe0",
            "delete table inet cframe-cframe0",
            "table inet cframe-cframe0 {"
        ]
    );
    let rules: Vec<&str> = lines.iter().copied().filter(|line| line.contains("vmap @")).collect();
    // /32 and /30 have the addresses of clouds' services, which stay on the host.
    assert_eq!(
        rules,
        [
            "add rule inet cframe-cframe0 destinations4 ip daddr vmap @v4-32",
            "add rule inet cframe-cframe0 destinations4 ip daddr & 255.255.255.252 vmap @v4-30",
            "add rule inet cframe-cframe0 destinations4 ip daddr & 255.255.0.0 vmap @v4-16",
            "add rule inet cframe-cframe0 destinations4 ip daddr & 255.0.0.0 vmap @v4-8",
            "add rule inet cframe-cframe0 destinations4 ip daddr & 128.0.0.0 vmap @v4-1",
            "add rule inet cframe-cframe0 destinations6 ip6 daddr vmap @v6-128",
        ]
    );
    for line in [
        "packets 7 bytes 0",
        "packets 8 bytes 0",
        "oifname \"cframe0\" accept",
        "iifname \"cframe0\" oifname != \"cframe0\" masquerade",
        "add element inet cframe-cframe0 v4-8 { 10.0.0.0 : goto foreign }",
        "add element inet cframe-cframe0 v4-16 { 172.30.0.0 : goto own4 }",
    ] {
        assert!(lines.contains(&line), "{line}\n{text}");
    }
    ruleset.snat = false;
    let text = table(&ruleset, &ruleset.destinations(), Dropped::default());
    assert!(!text.contains("masquerade"), "{text}");
}

#[test]
fn an_edit_names_only_what_changes() {
    let mut ruleset = ruleset(&[], &["10.1.0.0/16", "10.2.0.0/16"], &[]);
    let mut installed = Installed::default();
    installed.apply(&ruleset.destinations());
    let edit = |ruleset: &Ruleset, installed: &mut Installed, net: IpNet| {
        let changed = installed.changes([(net, ruleset.at(&net))]);
        let text = changes(&ruleset.instance, installed, &changed);
        installed.apply(&changed);
        text.replace("inet cframe-cframe0 ", "")
    };
    ruleset.intent.add(net("10.3.0.0/16"), false);
    let text = edit(&ruleset, &mut installed, net("10.3.0.0/16"));
    assert_eq!(text, "add element v4-16 { 10.3.0.0 : goto foreign }\n");
    assert_eq!(edit(&ruleset, &mut installed, net("10.3.0.0/16")), "", "it is there");

    ruleset.intent.add(net("10.3.0.0/16"), true);
    let text = edit(&ruleset, &mut installed, net("10.3.0.0/16"));
    let moved = "delete element v4-16 { 10.3.0.0 : goto foreign }\n\
                 add element v4-16 { 10.3.0.0 : goto own4 }\n";
    assert_eq!(text, moved);

    ruleset.intent.add(net("10.3.7.0/24"), false);
    let text = edit(&ruleset, &mut installed, net("10.3.7.0/24"));
    let longer = "add map v4-24 { type ipv4_addr : verdict; }\n\
                  add element v4-24 { 10.3.7.0 : goto foreign }\n\
                  flush chain destinations4\n\
                  add rule destinations4 ip daddr & 255.255.255.0 vmap @v4-24\n\
                  add rule destinations4 ip daddr & 255.255.0.0 vmap @v4-16\n\
                  flush chain destinations6\n";
    assert_eq!(text, longer);

    ruleset.intent.remove(&net("10.3.7.0/24"));
    let text = edit(&ruleset, &mut installed, net("10.3.7.0/24"));
    assert!(text.ends_with("delete map v4-24\n"), "{text}");
    assert_eq!(installed.sizes().collect::<Vec<_>>(), [("v4-16".to_owned(), 3)]);
    let mut whole = Installed::default();
    whole.apply(&ruleset.destinations());
    assert_eq!(installed, whole);
}

#[test]
fn uncovered_addresses_leave_by_devices_of_the_site_only_unless_the_setting_says_otherwise() {
    let mut ruleset = ruleset(&["172.31.0.0/16", "10.60.6.0/24"], &[], &["172.31.16.0/20"]);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    ruleset.addresses = [(2, address("172.31.16.7")), (3, address("203.0.113.7"))].into();
    assert_eq!(ruleset.site_devices(false), [2].into());
    assert_eq!(ruleset.site_devices(true), [].into());
    assert_eq!(destination(&ruleset, "172.31.99.1"), Some(Destination::Uncovered));
    ruleset.own_prefixes = OwnPrefixes::Block;
    assert_eq!(ruleset.site_devices(false), [].into());
    assert_eq!(destination(&ruleset, "172.31.99.1"), Some(Destination::Uncovered));
    assert_eq!(destination(&ruleset, "172.31.16.1"), bound(&[LAN], false));
    ruleset.own_prefixes = OwnPrefixes::Allow;
    assert_eq!(destination(&ruleset, "172.31.99.1"), Some(Destination::Local));
}

#[test]
fn an_address_that_no_network_of_the_host_covers_is_found() {
    let rest = |own: &[&str], foreign: &[&str], subnets: &[&str]| {
        let found = ruleset(own, foreign, subnets).uncovered(9);
        found.iter().map(|(net, ip)| format!("{net} {ip}")).collect::<Vec<_>>()
    };
    assert_eq!(rest(&["10.0.0.0/16"], &[], &["10.0.0.0/16"]), [""; 0]);
    assert_eq!(rest(&["10.0.0.0/16"], &[], &["10.0.0.0/8"]), [""; 0]);
    assert_eq!(rest(&["10.0.0.0/16"], &[], &["10.0.0.0/17", "10.0.128.0/17"]), [""; 0]);
    assert_eq!(rest(&["10.0.0.0/16"], &["10.0.128.0/17"], &["10.0.0.0/17"]), [""; 0]);
    assert_eq!(rest(&["10.0.0.0/16"], &[], &["10.0.0.0/20"]), ["10.0.0.0/16 10.0.16.0"]);
    assert_eq!(rest(&["10.0.0.0/16"], &[], &["10.0.9.0/24"]), ["10.0.0.0/16 10.0.0.0"]);
    assert_eq!(rest(&["fd00::/32"], &[], &["fd00::/33"]), ["fd00::/32 fd00:0:8000::"]);
}

#[test]
fn a_network_or_route_of_the_host_is_reached_by_its_own_devices_only() {
    let mut ruleset = ruleset(&["10.5.0.0/16"], &["10.0.0.0/11"], &["10.5.0.0/16"]);
    let mut local = ruleset.intent.local().clone();
    local.routes = nets(&["10.9.0.0/16", "10.10.0.0/16"]);
    local.connected.insert(net("10.8.0.0/24"));
    let networks = |devices: &[(&str, &[u32])]| HostNetworks {
        local: local.clone(),
        devices: devices
            .iter()
            .map(|(text, devices)| (net(text), devices.iter().copied().collect()))
            .collect(),
        ..HostNetworks::default()
    };
    ruleset.set_networks(networks(&[
        ("10.5.0.0/16", &[3]),
        ("10.8.0.0/24", &[4]),
        ("10.9.0.0/16", &[4, 5]),
        ("10.10.0.0/16", &[0]),
    ]));
    for (address, expected) in [
        ("10.5.0.9", bound(&[3], false)),
        ("10.8.0.9", bound(&[4], true)),
        ("10.9.0.9", bound(&[4, 5], true)),
        // By several next hops, or refused.
        ("10.10.0.9", Some(Destination::Local)),
        ("10.11.0.9", Some(Destination::Foreign)),
    ] {
        assert_eq!(destination(&ruleset, address), expected, "{address}");
    }
    let mut installed = Installed::default();
    let text = changes(&ruleset.instance, &installed, &ruleset.destinations());
    for line in ["subnet-4-5 oif { 4, 5 } accept", "site-3 counter name uncovered drop"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    installed.apply(&ruleset.destinations());
    // The route is now by another device: the chain of the old ones goes.
    let affected = ruleset.set_networks(networks(&[
        ("10.5.0.0/16", &[3]),
        ("10.8.0.0/24", &[4]),
        ("10.9.0.0/16", &[6]),
        ("10.10.0.0/16", &[0]),
    ]));
    assert_eq!(affected, nets(&["10.9.0.0/16"]));
    let edits = installed.changes(affected.iter().map(|net| (*net, ruleset.at(net))));
    let text = changes(&ruleset.instance, &installed, &edits).replace("inet cframe-cframe0 ", "");
    let expected = "add chain subnet-6\n\
                    add rule subnet-6 oif { 6 } accept\n\
                    add rule subnet-6 counter name leaks drop\n\
                    delete element v4-16 { 10.9.0.0 : goto subnet-4-5 }\n\
                    add element v4-16 { 10.9.0.0 : goto subnet-6 }\n\
                    flush chain subnet-4-5\n\
                    delete chain subnet-4-5\n";
    assert_eq!(text, expected);
    installed.apply(&edits);
    let mut whole = Installed::default();
    whole.apply(&ruleset.destinations());
    assert_eq!(installed, whole);
}
