use std::{collections::HashMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, prelude::*};

use super::PrefixTable;

#[derive(Debug, Clone)]
enum Edit {
    Insert(IpNet, u32),
    Remove(IpNet),
}

/// Addresses with few bits set, so that prefixes contain, precede and equal each other.
fn address() -> impl Strategy<Value = IpAddr> {
    let few = prop_oneof![Just(0_u32), Just(1), Just(3), Just(u32::MAX), any::<u32>()];
    (any::<bool>(), few, 0..32_u32, 0..8_u32).prop_map(|(v6, bits, left, more)| {
        let bits = bits.wrapping_shl(left) ^ more;
        if v6 {
            IpAddr::V6((u128::from(bits).rotate_right(3 * left) ^ u128::from(more)).into())
        } else {
            IpAddr::V4(bits.into())
        }
    })
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128_u8).prop_map(|(address, len)| match address {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, len % 33).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, len).into(),
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => (prefix(), any::<u32>()).prop_map(|(prefix, value)| Edit::Insert(prefix, value)),
        1 => prefix().prop_map(Edit::Remove),
    ]
}

fn slow_lookup(model: &HashMap<IpNet, u32>, address: IpAddr) -> Option<u32> {
    let containing = model.iter().filter(|(prefix, _)| prefix.contains(&address));
    containing.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, value)| *value)
}

proptest! {
    #[test]
    fn the_table_gives_the_same_results_as_a_linear_scan(
        edits in vec(edit(), 0..120),
        removed in vec(any::<prop::sample::Index>(), 0..60),
        addresses in vec(address(), 30),
    ) {
        let mut table = PrefixTable::new();
        let mut model: HashMap<IpNet, u32> = HashMap::new();
        let mut edits = edits;
        // Removals of prefixes that were inserted.
        let present: Vec<Edit> = match &edits[..] {
            [] => Vec::new(),
            edits => removed.iter().map(|index| match index.get(edits) {
                Edit::Insert(prefix, _) | Edit::Remove(prefix) => Edit::Remove(*prefix),
            }).collect(),
        };
        edits.extend(present);
        for edit in edits {
            match edit {
                Edit::Insert(prefix, value) => {
                    prop_assert_eq!(table.insert(prefix, value), model.insert(prefix.trunc(), value));
                }
                Edit::Remove(prefix) => {
                    prop_assert_eq!(table.get(&prefix), model.get(&prefix.trunc()).copied());
                    prop_assert_eq!(table.remove(&prefix), model.remove(&prefix.trunc()));
                }
            }
            prop_assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
        }
        prop_assert_eq!(table.iter().count(), model.len());
        prop_assert_eq!(table.iter().collect::<HashMap<_, _>>(), model.clone());
        let edges = model.keys().flat_map(|prefix| [prefix.network(), prefix.broadcast()]);
        for address in addresses.into_iter().chain(edges) {
            prop_assert_eq!(table.lookup(address), slow_lookup(&model, address), "{}", address);
        }
        for prefix in model.keys() {
            prop_assert!(table.remove(prefix).is_some());
        }
        prop_assert_eq!(table.iter().next(), None);
    }
}

#[test]
fn the_longest_prefix_wins_until_it_is_removed() {
    let mut table = PrefixTable::new();
    let prefixes = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32"];
    for (value, prefix) in prefixes.iter().enumerate() {
        table.insert(prefix.parse().unwrap(), value);
    }
    let address = "10.1.2.3".parse().unwrap();
    for (value, prefix) in prefixes.iter().enumerate().rev() {
        assert_eq!(table.lookup(address), Some(value));
        assert_eq!(table.remove(&prefix.parse().unwrap()), Some(value));
    }
    assert_eq!(table.lookup(address), None);
}

#[test]
fn ipv4_and_ipv6_are_separate() {
    let mut table = PrefixTable::new();
    table.insert("0.0.0.0/0".parse().unwrap(), 4);
    assert_eq!(table.lookup("::ffff:10.0.0.1".parse().unwrap()), None);
    table.insert("::/0".parse().unwrap(), 6);
    assert_eq!(table.lookup("10.0.0.1".parse().unwrap()), Some(4));
    assert_eq!(table.lookup("fd00::1".parse().unwrap()), Some(6));
    assert_eq!(format!("{table:?}"), "{0.0.0.0/0: 4, ::/0: 6}");
}
