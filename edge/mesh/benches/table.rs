//! Time per operation of the prefix table: `cargo bench -p cframe-mesh --bench table`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cframe_mesh::table::PrefixTable;
use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

criterion_group!(benches, tables);
criterion_main!(benches);

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    for size in [10, 1_000, 100_000] {
        for v6 in [false, true] {
            let family = if v6 { "IPv6" } else { "IPv4" };
            let mut random = Random(42);
            let mut table = PrefixTable::new();
            let mut prefixes: Vec<IpNet> = Vec::new();
            while table.len() < size {
                let prefix = if v6 { random.v6() } else { random.v4() };
                table.insert(prefix, prefixes.len() as u32);
                prefixes.push(prefix);
            }
            // A thousand destinations, and the worst case: none is used twice soon.
            let mut next = 0;
            for destinations in [1024, 65_536] {
                let addresses: Vec<IpAddr> = (0..destinations)
                    .map(|_| prefixes[random.next() as usize % prefixes.len()].network())
                    .collect();
                group.bench_function(format!("lookup of {destinations} in {size} {family}"), |b| {
                    b.iter(|| {
                        next = (next + 1) % destinations;
                        table.lookup(addresses[next])
                    });
                });
            }
            group.bench_function(format!("remove and insert in {size} {family}"), |b| {
                b.iter(|| {
                    next = (next + 1) % prefixes.len();
                    let value = table.remove(&prefixes[next]);
                    table.insert(prefixes[next], value.unwrap_or_default())
                });
            });
        }
    }
    group.finish();
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A prefix of 16 to 28 bits, as VPCs, subnets and pod networks have.
    fn v4(&mut self) -> IpNet {
        let len = 16 + (self.next() % 13) as u8;
        Ipv4Net::new_assert(Ipv4Addr::from(self.next() as u32), len).trunc().into()
    }

    fn v6(&mut self) -> IpNet {
        let address = 0xfd << 120 | u128::from(self.next()) << 60 | u128::from(self.next());
        Ipv6Net::new_assert(Ipv6Addr::from(address), 48 + (self.next() % 17) as u8).trunc().into()
    }
}
