use proptest::{collection::vec, prelude::*};

use super::*;

/// A kernel's table: one route per key, except where another program has added more.
#[derive(Clone, Debug, Default)]
struct Kernel(Vec<Route>);

impl Kernel {
    fn execute(&mut self, plan: &Plan) {
        let mut index = 0;
        self.0.retain(|_| {
            index += 1;
            !plan.stale.contains(&(index - 1))
        });
        for route in &plan.missing {
            match self.0.iter_mut().find(|found| found.key == route.key) {
                Some(found) => *found = *route,
                None => self.0.push(*route),
            }
        }
    }

    fn by_place(&self) -> BTreeMap<RouteKey, Target> {
        self.0.iter().map(|route| (route.key, route.target)).collect()
    }
}

fn rank() -> Rank {
    Rank { passing: false, added: false }
}

fn nets() -> impl Strategy<Value = IpNet> {
    // A small space, so that prefixes overlap, contain and equal each other.
    let v4 = (0u8..4, 0u8..4, 8u8..=32).prop_map(|(a, b, len)| format!("10.{a}.{b}.0/{len}"));
    let v6 = (0u8..4, 16u8..=64).prop_map(|(a, len)| format!("fd00:{a}::/{len}"));
    prop_oneof![v4, v6].prop_map(|text| text.parse::<IpNet>().unwrap().trunc())
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Unreachable),
        Just(Target::Throw),
        Just(Target::Foreign),
        (1u32..4).prop_map(|index| Target::Device { index, source: None }),
    ]
}

fn routes() -> impl Strategy<Value = Route> {
    let metrics = prop_oneof![Just(50u32), Just(100), Just(4096), Just(1)];
    (nets(), metrics, targets())
        .prop_map(|(net, metric, target)| Route { key: RouteKey { net, metric }, target })
}

fn intents() -> impl Strategy<Value = Intent> {
    let device = prop::option::of(1u32..4);
    (vec(nets(), 0..8), vec(nets(), 0..4), vec(nets(), 0..6), device, any::<bool>()).prop_map(
        |(foreign, own, connected, device, cut)| {
            let mut intent = Intent::default();
            foreign.into_iter().for_each(|net| intent.add(net, false));
            own.into_iter().for_each(|net| intent.add(net, true));
            let addresses = connected.iter().map(|net| (net.addr(), rank())).collect();
            let routes = connected.iter().skip(1).step_by(2).copied().collect();
            let subnets = connected.iter().step_by(2).copied().collect();
            intent.set_local(Local {
                connected: connected.into_iter().collect(),
                subnets,
                routes,
                addresses,
            });
            intent.set_device(device);
            intent.set_cut(cut);
            intent
        },
    )
}

proptest! {
    #[test]
    fn one_pass_corrects_any_table(
        intent in intents(),
        table in vec(routes(), 0..30),
    ) {
        let unique: BTreeMap<RouteKey, Route> = table.iter().map(|route| (route.key, *route)).collect();
        let mut kernel = Kernel(unique.into_values().collect());
        kernel.execute(&intent.plan(&kernel.0));
        prop_assert_eq!(kernel.by_place(), intent.wanted());
        prop_assert_eq!(intent.plan(&kernel.0), Plan::default(), "the second pass has nothing to do");
    }

    #[test]
    fn places_with_several_routes_are_correct_after_a_few_passes(
        intent in intents(),
        table in vec(routes(), 0..30),
    ) {
        let mut kernel = Kernel(table);
        for _ in 0..3 {
            kernel.execute(&intent.plan(&kernel.0));
        }
        prop_assert_eq!(kernel.by_place(), intent.wanted());
    }

    #[test]
    fn an_edit_touches_only_the_places_that_it_affects(
        before in intents(),
        net in nets(),
        add in any::<bool>(),
    ) {
        let mut after = before.clone();
        match add {
            true => after.add(net, false),
            false => after.remove(&net),
        }
        // A change of this site's prefixes can change every route's source address; any other change is local.
        prop_assume!(before.own() == after.own());
        let affected = after.affected([net]);
        let changed = |key: &RouteKey| before.at(key) != after.at(key);
        let nets: Vec<IpNet> =
            before.foreign.iter().chain(&after.foreign).chain(&before.local.connected).copied().collect();
        for key in keys(nets).iter().filter(|key| changed(key)) {
            prop_assert!(affected.contains(key), "{:?}", key);
        }
    }

    #[test]
    fn every_prefix_always_has_an_unreachable_route_behind_it(intent in intents()) {
        for net in intent.foreign() {
            let key = RouteKey { net: *net, metric: metric::UNREACHABLE };
            prop_assert_eq!(intent.at(&key), Some(Target::Unreachable));
        }
    }
}

fn intent(foreign: &[&str], own: &[&str], connected: &[&str], addresses: &[&str]) -> Intent {
    let mut intent = Intent::default();
    intent.set_device(Some(7));
    foreign.iter().for_each(|net| intent.add(net.parse().unwrap(), false));
    own.iter().for_each(|net| intent.add(net.parse().unwrap(), true));
    intent.set_local(Local {
        connected: connected.iter().map(|net| net.parse().unwrap()).collect(),
        subnets: connected.iter().map(|net| net.parse().unwrap()).collect(),
        addresses: addresses.iter().map(|ip| (ip.parse().unwrap(), rank())).collect(),
        ..Local::default()
    });
    intent
}

#[test]
fn a_connected_subnet_inside_a_foreign_prefix_gets_a_throw_route() {
    let connected = ["172.17.0.0/16", "192.168.0.0/24", "10.0.0.0/8"];
    let intent = intent(&["172.16.0.0/12"], &[], &connected, &[]);
    let throws: Vec<String> = intent
        .wanted()
        .iter()
        .filter(|(_, target)| **target == Target::Throw)
        .map(|(key, _)| key.net.to_string())
        .collect();
    assert_eq!(throws, ["172.17.0.0/16"]);
}

#[test]
fn a_connected_subnet_takes_precedence_over_an_equal_foreign_prefix() {
    let intent = intent(&["10.1.0.0/16"], &[], &["10.1.0.0/16"], &[]);
    let best = intent.wanted().into_iter().next().unwrap();
    assert_eq!((best.0.metric, best.1), (metric::THROW, Target::Throw));
}

#[test]
fn a_prefix_inside_a_local_subnet_is_local_and_one_inside_another_tunnels_route_is_not() {
    let mut intent = intent(&["10.1.2.0/24"], &[], &["10.1.0.0/16"], &[]);
    let throw = RouteKey { net: "10.1.2.0/24".parse().unwrap(), metric: metric::THROW };
    assert_eq!(intent.at(&throw), Some(Target::Throw));
    let mut local = intent.local().clone();
    local.subnets.clear();
    intent.set_local(local);
    assert_eq!(intent.at(&throw), None);
}

#[test]
fn the_source_is_an_address_inside_this_site() {
    let intent = intent(
        &["10.2.0.0/16", "fd00:2::/32"],
        &["10.1.0.0/16"],
        &[],
        &["203.0.113.7", "10.1.0.5", "fd00:9::1"],
    );
    let device =
        |net: &str| intent.at(&RouteKey { net: net.parse().unwrap(), metric: metric::DEVICE });
    let source = Some("10.1.0.5".parse().unwrap());
    assert_eq!(device("10.2.0.0/16"), Some(Target::Device { index: 7, source }));
    assert_eq!(device("fd00:2::/32"), Some(Target::Device { index: 7, source: None }));
}

#[test]
fn without_a_device_or_when_cut_off_nothing_is_routed_and_nothing_leaks() {
    let mut cut = intent(&["10.2.0.0/16"], &[], &[], &[]);
    cut.set_cut(true);
    let mut bare = intent(&["10.2.0.0/16"], &[], &[], &[]);
    bare.set_device(None);
    for intent in [cut, bare] {
        let targets: Vec<Target> = intent.wanted().into_values().collect();
        assert_eq!(targets, [Target::Unreachable]);
    }
}

#[test]
fn a_more_specific_route_over_a_router_takes_precedence_and_a_wider_one_does_not() {
    let mut intent = intent(&["10.0.0.0/11", "10.9.5.0/24"], &[], &[], &[]);
    let routes = ["10.9.0.0/16", "10.0.0.0/11", "10.0.0.0/8", "0.0.0.0/0"];
    let routes = routes.iter().map(|net| net.parse().unwrap()).collect();
    let affected = intent.set_local(Local { routes, ..Local::default() }).unwrap();
    let throws: Vec<IpNet> = intent
        .wanted()
        .iter()
        .filter(|(_, t)| **t == Target::Throw)
        .map(|(key, _)| key.net)
        .collect();
    assert_eq!(throws, ["10.9.0.0/16".parse::<IpNet>().unwrap()]);
    assert!(affected.iter().any(|key| key.net == throws[0]));
    // A prefix that is still more specific than the route goes into the tunnel.
    assert!(!intent.is_tunnelled("10.9.1.1".parse().unwrap()));
    for to in ["10.9.5.1", "10.8.0.1"] {
        assert!(intent.is_tunnelled(to.parse().unwrap()), "{to}");
    }
}

#[test]
fn the_addresses_of_a_clouds_services_are_never_routed_into_the_tunnel() {
    let intent = intent(&["100.64.0.0/10", "fd00::/8"], &[], &[], &[]);
    for to in ["100.100.100.200", "100.100.2.138", "fd00:ec2::254"] {
        assert!(!intent.is_tunnelled(to.parse().unwrap()), "{to}");
    }
    assert!(intent.is_tunnelled("100.100.100.201".parse().unwrap()));
}

#[test]
fn a_source_stays_until_it_is_gone_or_a_better_one_appears() {
    let mut intent = intent(&["10.2.0.0/16"], &["10.1.0.0/16"], &[], &["10.1.0.5"]);
    let set = |intent: &mut Intent, addresses: &[(&str, bool, bool)]| {
        let addresses = addresses
            .iter()
            .map(|(ip, passing, added)| {
                (ip.parse().unwrap(), Rank { passing: *passing, added: *added })
            })
            .collect();
        let all = intent.set_local(Local { addresses, ..Local::default() }).is_none();
        (all, intent.source(false).unwrap().to_string())
    };
    let (first, vip, better) =
        (("10.1.0.5", false, false), ("10.1.0.1", false, true), ("10.1.0.2", false, false));
    assert_eq!(set(&mut intent, &[first, vip]), (false, "10.1.0.5".to_owned()));
    assert_eq!(set(&mut intent, &[better, first]), (false, "10.1.0.5".to_owned()));
    assert_eq!(set(&mut intent, &[vip]), (true, "10.1.0.1".to_owned()));
    assert_eq!(set(&mut intent, &[first, vip]), (true, "10.1.0.5".to_owned()));
    let deprecated = ("10.1.0.5", true, false);
    assert_eq!(set(&mut intent, &[vip, deprecated]), (true, "10.1.0.1".to_owned()));
}

proptest! {
    #[test]
    fn a_change_of_local_networks_touches_only_the_places_that_it_affects(
        before in intents(),
        other in intents(),
    ) {
        let mut after = before.clone();
        if let Some(affected) = after.set_local(other.local().clone()) {
            let nets = before.wanted().into_keys().chain(after.wanted().into_keys());
            for key in nets.filter(|key| before.at(key) != after.at(key)) {
                prop_assert!(affected.contains(&key), "{:?}", key);
            }
        }
    }
}
