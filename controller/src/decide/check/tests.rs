use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::Prefixes;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn space(prefixes: &[(&str, &str, Option<&str>)]) -> Namespace {
    let mut space = Namespace::empty();
    for (prefix, edge, route) in prefixes {
        let source = Source { edge: label(edge), route: route.map(label) };
        space.prefixes.insert(net(prefix), source);
    }
    space
}

#[test]
fn host_bits_are_refused_with_the_canonical_form() {
    let error = prefix(net("10.1.2.3/16")).unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
    assert_eq!(error.message, "10.1.2.3/16 has host bits set; write 10.1.0.0/16");
    assert!(prefix(net("fd00:60::1/64")).unwrap_err().message.contains("fd00:60::/64"));
}

#[test]
fn addresses_of_clouds_services_are_refused_and_named_within_larger_prefixes() {
    for refused in [
        "100.100.100.200/32",
        "100.100.2.136/30",
        "100.100.2.138/32",
        "168.63.129.16/32",
        "169.254.169.254/32",
        "fd00:ec2::254/128",
        "fd00:ec2::/64",
        "fd20:ce::254/128",
        "192.0.0.192/32",
        "fd00:c1::a9fe:a9fe/128",
    ] {
        let error = prefix(net(refused)).expect_err(refused);
        assert_eq!(error.code, ErrorCode::Invalid, "{refused}");
    }
    for (prefix, named) in [
        ("100.64.0.0/10", "100.100.100.200/32"),
        ("100.100.0.0/16", "100.100.2.136/30"),
        ("168.63.0.0/16", "168.63.129.16/32"),
        ("fd00::/16", "fd00:ec2::/32"),
        ("32.0.0.0/3", "internet"),
        ("2000::/3", "internet"),
        ("64.0.0.0/9", "internet"),
        ("100.100.50.0/24", "Alibaba"),
    ] {
        super::prefix(net(prefix)).unwrap();
        let warnings = reserved::warnings(net(prefix)).join("; ");
        assert!(warnings.contains(named), "{prefix}: {warnings}");
    }
    for quiet in [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "203.0.113.0/24",
        "fd12::/16",
        "2001:db8::/32",
    ] {
        assert_eq!(reserved::warnings(net(quiet)), [""; 0], "{quiet}");
    }
}

#[test]
fn reserved_addresses_are_refused() {
    for refused in [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/1",
        "127.0.0.0/8",
        "127.1.0.0/16",
        "169.254.0.0/16",
        "169.254.169.254/32",
        "168.0.0.0/6",
        "224.0.0.0/4",
        "239.1.0.0/16",
        "255.255.255.255/32",
        "::1/128",
        "::/8",
        "fe80::/10",
        "fe80::/64",
        "ff00::/8",
        "ff02::1/128",
        "::ffff:0:0/96",
        "128.0.0.0/1",
    ] {
        let error = prefix(net(refused)).expect_err(refused);
        assert_eq!(error.code, ErrorCode::Invalid, "{refused}");
        assert!(error.message.contains(&net(refused).to_string()), "{}", error.message);
    }
    // Halves of everything hide what everything does.
    for half in ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"] {
        let error = prefix(net(half)).expect_err(half);
        assert!(error.message.contains("internet") || half.starts_with('8'), "{}", error.message);
    }
    for fine in [
        "10.0.0.0/8",
        "172.18.0.0/16",
        "203.0.113.7/32",
        "fd00:60::/64",
        "2001:db8::/32",
        "100.64.0.0/10",
    ] {
        prefix(net(fine)).unwrap();
    }
}

#[test]
fn an_overlap_names_both_sides() {
    let space =
        space(&[("10.0.0.0/16", "aws-hk", None), ("10.244.0.0/16", "aws-hk", Some("pods"))]);
    let error = route_prefix(&space, &label("idc"), net("10.244.7.0/24")).unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    for part in ["10.244.7.0/24", "idc", "10.244.0.0/16", "pods", "aws-hk"] {
        assert!(error.message.contains(part), "{part} in {}", error.message);
    }
    let wider = edge_prefixes(&space, &label("idc"), &[net("10.0.0.0/8")]).unwrap_err();
    assert!(wider.message.contains("10.0.0.0/16"), "{}", wider.message);
}

#[test]
fn an_edges_own_prefixes_may_nest_and_not_repeat() {
    let space = space(&[("10.0.0.0/8", "a", None), ("10.244.0.0/16", "a", Some("pods"))]);
    let warnings = route_prefix(&space, &label("a"), net("10.9.0.0/16")).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let error = route_prefix(&space, &label("a"), net("10.244.0.0/16")).unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    let error = edge_prefixes(&space, &label("a"), &[net("10.244.0.0/16")]).unwrap_err();
    assert!(error.message.contains("route pods"), "{}", error.message);
    // What `edge set` replaces is not in its own way.
    assert!(
        edge_prefixes(&space, &label("a"), &[net("10.0.0.0/8"), net("192.168.0.0/24")]).is_ok()
    );
    assert!(edge_prefixes(&space, &label("a"), &[net("10.0.0.0/8"), net("10.0.0.0/8")]).is_err());
}

#[test]
fn a_close_name_is_suggested_and_a_far_one_is_not() {
    let names = ["aws-hk", "aliyun-sz", "idc"].map(label);
    let hint = |wrong: &str| not_found("edge", wrong, "", &names).hint;
    assert_eq!(hint("aws-kh").unwrap(), "did you mean aws-hk?");
    assert_eq!(hint("aliyunsz").unwrap(), "did you mean aliyun-sz?");
    assert_eq!(hint("icd").unwrap(), "did you mean idc?");
    assert_eq!(hint("berlin"), None);
}

#[test]
fn the_mtu_is_between_1280_and_1500() {
    for (mtu, fine) in [(1279, false), (1280, true), (1400, true), (1500, true), (1501, false)] {
        assert_eq!(tun_mtu(mtu).is_ok(), fine, "{mtu}");
    }
}

#[test]
fn a_description_is_one_short_line() {
    assert!(description("Hong Kong, rack 3 – süd").is_ok());
    assert!(description("a\nb").is_err());
    assert!(description(&"x".repeat(513)).is_err());
}

fn any_net() -> impl Strategy<Value = IpNet> {
    // Few addresses, so that many overlap.
    let v4 = (0u32..64, 20u8..=32).prop_map(|(low, len)| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | low << 6);
        IpNet::new(address.into(), len).unwrap().trunc()
    });
    let v6 = (0u128..64, 100u8..=128).prop_map(|(low, len)| {
        let address = std::net::Ipv6Addr::from_bits(0xfd00 << 112 | low << 8);
        IpNet::new(address.into(), len).unwrap().trunc()
    });
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn overlaps_are_those_that_a_comparison_with_every_prefix_finds(
        nets in prop::collection::btree_map(any_net(), 0u8..3, 0..40),
        probe in any_net(),
    ) {
        let mut prefixes = Prefixes::default();
        for (net, edge) in &nets {
            prefixes.insert(*net, Source { edge: label(&format!("e{edge}")), route: None });
        }
        let found: BTreeMap<IpNet, String> = prefixes
            .overlapping(probe)
            .map(|(net, source)| (net, source.edge.to_string()))
            .collect();
        let naive: BTreeMap<IpNet, String> = nets
            .iter()
            .filter(|(net, _)| net.contains(&probe) || probe.contains(*net))
            .map(|(net, edge)| (*net, format!("e{edge}")))
            .collect();
        prop_assert_eq!(found, naive);
        let address = probe.addr();
        let longest = nets.keys().filter(|net| net.contains(&address)).max_by_key(|net| net.prefix_len());
        prop_assert_eq!(prefixes.matching(address).map(|(net, _)| net), longest.copied());
    }

    #[test]
    fn accepted_prefixes_of_two_edges_never_share_an_address(
        wanted in prop::collection::vec((any_net(), 0u8..4), 0..60),
    ) {
        let mut space = space(&[]);
        let mut accepted: Vec<(IpNet, u8)> = Vec::new();
        for (index, (net, edge)) in wanted.into_iter().enumerate() {
            let name = label(&format!("e{edge}"));
            let clash = accepted.iter().any(|(other, owner)| {
                let share = other.contains(&net) || net.contains(other);
                share && (*owner != edge || *other == net)
            });
            let result = route_prefix(&space, &name, net);
            prop_assert_eq!(result.is_err(), clash, "{} for {}", net, name);
            if result.is_ok() {
                let route = Some(label(&format!("r{index}")));
                space.prefixes.insert(net, Source { edge: name, route });
                accepted.push((net, edge));
            }
        }
    }
}
