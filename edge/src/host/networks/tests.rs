use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn route(text: &str, kind: RouteKind, device: u32) -> MainRoute {
    MainRoute { net: net(text), metric: 0, kind, device, source: None }
}

fn link(index: u32, up: bool) -> Change {
    Change::Link(Link { index, name: format!("eth{index}"), up, mtu: 1500, loopback: false })
}

fn address(device: u32, ip: &str, added: bool) -> Change {
    let rank = Some(Rank { passing: false, added });
    Change::Address(HostAddress { device, ip: ip.parse().unwrap(), rank })
}

#[test]
fn only_routes_inside_a_prefix_count_also_when_the_prefix_comes_later() {
    let mut networks = Networks::default();
    let mut foreign = nets(&["10.0.0.0/11"]);
    for text in ["10.9.0.0/16", "10.0.0.0/11", "10.0.0.0/8", "0.0.0.0/0", "192.168.7.0/24"] {
        let change = Change::Route(route(text, RouteKind::Gateway, 2));
        let concerns = networks.apply(&change, &foreign).local;
        assert_eq!(concerns, text == "10.9.0.0/16", "{text}");
    }
    assert_eq!(networks.local(&foreign).routes, nets(&["10.9.0.0/16"]));
    foreign.insert(net("192.168.0.0/16"));
    assert!(networks.add_foreign(net("192.168.0.0/16")));
    assert_eq!(networks.local(&foreign).routes, nets(&["10.9.0.0/16", "192.168.7.0/24"]));
    foreign.remove(&net("10.0.0.0/11"));
    networks.remove_foreign(net("10.0.0.0/11"), &foreign);
    assert_eq!(networks.local(&foreign).routes, nets(&["192.168.7.0/24"]));
}

#[test]
fn routes_of_a_device_that_goes_down_are_gone_without_a_notification() {
    let mut networks = Networks::default();
    let foreign = nets(&["10.0.0.0/8"]);
    networks.apply(&link(2, true), &foreign);
    networks.apply(&Change::Route(route("10.9.0.0/16", RouteKind::Gateway, 2)), &foreign);
    networks.apply(&Change::Route(route("10.7.0.0/16", RouteKind::Subnet, 2)), &foreign);
    let local = networks.local(&foreign);
    assert_eq!((local.routes.len(), local.connected.len(), local.subnets.len()), (1, 1, 1));
    assert_eq!(networks.apply(&link(2, false), &foreign), Effect { local: true, unknown: false });
    assert_eq!(networks.local(&foreign), Local::default());
    // The route is another one with the same key.
    networks.apply(&Change::Route(route("10.9.0.0/16", RouteKind::Gateway, 3)), &foreign);
    networks.apply(&Change::Route(route("10.9.0.0/16", RouteKind::Gateway, 4)), &foreign);
    networks.apply(&Change::NoRoute(route("10.9.0.0/16", RouteKind::Gateway, 4)), &foreign);
    assert_eq!(networks.local(&foreign), Local::default());
}

#[test]
fn a_route_with_the_source_of_a_removed_address_may_be_gone() {
    let mut networks = Networks::default();
    let foreign = BTreeSet::new();
    networks.apply(&address(2, "192.0.2.7", false), &foreign);
    let source = Some("192.0.2.7".parse().unwrap());
    let with_source = MainRoute { source, ..route("10.9.0.0/16", RouteKind::Gateway, 2) };
    networks.apply(&Change::Route(with_source), &foreign);
    let gone = HostAddress { device: 2, ip: "192.0.2.7".parse().unwrap(), rank: None };
    assert!(networks.apply(&Change::NoAddress(gone), &foreign).unknown);
}

#[test]
fn addresses_are_in_order_of_rank_and_age_also_after_a_dump() {
    let mut networks = Networks::default();
    let foreign = BTreeSet::new();
    let all = [
        address(3, "10.1.0.9", false),
        address(3, "10.1.0.2", false),
        address(3, "10.1.0.1", true),
    ];
    for change in &all {
        networks.apply(change, &foreign);
    }
    let order = |networks: &Networks| -> Vec<String> {
        networks.local(&foreign).addresses.iter().map(|(ip, _)| ip.to_string()).collect()
    };
    let expected = ["10.1.0.9", "10.1.0.2", "10.1.0.1"];
    assert_eq!(order(&networks), expected);
    networks.clear(&foreign, all.into_iter().rev().collect());
    assert_eq!(order(&networks), expected);
}

#[test]
fn a_default_route_is_advertised_unless_a_fixed_one_is_used() {
    let mut networks = Networks::default();
    let foreign = BTreeSet::new();
    let default = |kind, device, metric| MainRoute { metric, ..route("::/0", kind, device) };
    networks.apply(&Change::Route(default(RouteKind::Advertised, 2, 1024)), &foreign);
    assert_eq!(networks.advertised_defaults(), [2].into());
    networks.apply(&Change::Route(default(RouteKind::Gateway, 3, 100)), &foreign);
    assert_eq!(networks.advertised_defaults(), BTreeSet::new());
}

#[test]
fn the_devices_of_the_site_are_those_with_its_networks() {
    let mut networks = Networks::default();
    let foreign = BTreeSet::new();
    networks.apply(&link(2, true), &foreign);
    networks.apply(&link(3, true), &foreign);
    networks.apply(&Change::Route(route("0.0.0.0/0", RouteKind::Gateway, 2)), &foreign);
    networks.apply(&Change::Route(route("10.1.7.0/24", RouteKind::Subnet, 3)), &foreign);
    assert_eq!(networks.lan(&nets(&["10.1.0.0/16"])), [(3, net("10.1.7.0/24"))].into());
    assert_eq!(networks.lan(&nets(&["10.1.7.128/25"])), [(3, net("10.1.7.128/25"))].into());
    assert_eq!(networks.lan(&nets(&["10.2.0.0/16"])), BTreeSet::new());
    assert_eq!(networks.default_device(), Some(2));
}
