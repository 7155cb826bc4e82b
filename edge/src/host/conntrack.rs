//! The kernel's table of connections: how full it is, and whether packets are dropped for it.

use std::fs;

use super::sysctl;

/// One column for each CPU's counters, hexadecimal.
const STATISTICS: &str = "/proc/net/stat/nf_conntrack";

/// Entries, the limit, and packets that were dropped since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub count: u64,
    pub max: u64,
    pub dropped: u64,
}

/// `None` if this host tracks no connections.
pub fn read() -> Option<Table> {
    let number = |key| u64::try_from(sysctl::number(key)?).ok();
    let (count, max) =
        (number("netfilter/nf_conntrack_count")?, number("netfilter/nf_conntrack_max")?);
    let statistics = fs::read_to_string(STATISTICS).unwrap_or_default();
    Some(Table { count, max, dropped: dropped(&statistics) })
}

fn dropped(statistics: &str) -> u64 {
    let mut lines = statistics.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|column| column == "drop");
    let value = |line: &str| {
        let cell = line.split_whitespace().nth(column?)?;
        u64::from_str_radix(cell, 16).ok()
    };
    lines.filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_all_cpus_are_added() {
        let text = "entries  clashres found new invalid ignore delete delete_list insert insert_failed drop early_drop\n\
                    00000010  00000000 00000000 00000000 00000005 00000000 00000000 00000000 00000000 00000001 0000000a 00000002\n\
                    00000010  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000\n";
        assert_eq!(dropped(text), 11);
        assert_eq!(dropped(""), 0);
    }
}
