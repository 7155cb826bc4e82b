//! Rules of iptables-legacy, which nftables does not trace: the one whose counter grows with the probes.

use std::collections::BTreeMap;

use tokio::process::Command;

use super::cause::LegacyRule;

/// In the order in which hooks run them.
const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// Packets that each dropping or translating rule and policy has met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters(BTreeMap<(usize, usize), (u64, Rule)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    rule: LegacyRule,
    translates: bool,
}

/// Reads them with `PROGRAM-save -c`; empty if there are none or they cannot be read.
pub(super) async fn read(program: &str, v6: bool) -> Counters {
    let program =
        if v6 { program.replacen("iptables", "ip6tables", 1) } else { program.to_owned() };
    let output =
        Command::new(format!("{program}-save")).arg("-c").kill_on_drop(true).output().await;
    match output {
        Ok(output) if output.status.success() => parse(&String::from_utf8_lossy(&output.stdout)),
        Ok(_) | Err(_) => Counters::default(),
    }
}

impl Counters {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first rule that has met at least `count` packets since `before`.
    pub(super) fn grown(&self, before: &Self, count: u64, translates: bool) -> Option<&LegacyRule> {
        let grown = self.0.iter().find(|(key, (packets, rule))| {
            let earlier = before.0.get(key).filter(|(_, earlier)| earlier == rule);
            rule.translates == translates
                && packets.saturating_sub(earlier.map_or(0, |(packets, _)| *packets)) >= count
        });
        grown.map(|(_, (_, rule))| &rule.rule)
    }
}

fn parse(text: &str) -> Counters {
    let mut counters = BTreeMap::new();
    let mut table = "";
    for (number, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
        }
        let order = TABLES.iter().position(|name| *name == table).unwrap_or(TABLES.len());
        if let Some((packets, rule)) = policy(line, table).or_else(|| rule(line, table)) {
            counters.insert((order, number), (packets, rule));
        }
    }
    Counters(counters)
}

/// `:FORWARD DROP [12:345]`
fn policy(line: &str, table: &str) -> Option<(u64, Rule)> {
    let mut words = line.strip_prefix(':')?.split(' ');
    let (chain, policy) = (words.next()?, words.next()?);
    let packets = count(words.next()?)?;
    let rule = LegacyRule { table: table.to_owned(), chain: chain.to_owned(), text: None };
    (policy == "DROP").then_some((packets, Rule { rule, translates: false }))
}

/// `[12:345] -A FORWARD -s 10.0.0.0/8 -j DROP`
fn rule(line: &str, table: &str) -> Option<(u64, Rule)> {
    let (counter, text) = line.split_once(' ')?;
    let packets = count(counter)?;
    let chain = text.strip_prefix("-A ")?.split(' ').next()?;
    let target = text.split_once("-j ")?.1.split(' ').next()?;
    let translates = matches!(target, "MASQUERADE" | "SNAT" | "NETMAP");
    let drops = matches!(target, "DROP" | "REJECT");
    let rule = LegacyRule {
        table: table.to_owned(),
        chain: chain.to_owned(),
        text: Some(text.to_owned()),
    };
    (drops || translates).then_some((packets, Rule { rule, translates }))
}

fn count(text: &str) -> Option<u64> {
    text.strip_prefix('[')?.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(drops: u64, policy: u64, nat: u64) -> Counters {
        parse(&format!(
            "# Generated\n*filter\n:INPUT ACCEPT [7:8]\n:FORWARD DROP [{policy}:99]\n\
             [5:6] -A FORWARD -i eth0 -j ACCEPT\n[{drops}:9] -A DOCKER -j REJECT --reject-with x\nCOMMIT\n\
             *nat\n:POSTROUTING ACCEPT [0:0]\n[{nat}:1] -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE\nCOMMIT\n"
        ))
    }

    #[test]
    fn the_rule_whose_counter_grows_with_the_probes_is_found() {
        let before = saved(3, 3, 0);
        let rule = |after: Counters, nat| after.grown(&before, 10, nat).cloned();
        let found = rule(saved(13, 4, 1), false).unwrap();
        assert_eq!((found.table.as_str(), found.chain.as_str()), ("filter", "DOCKER"));
        let found = rule(saved(3, 13, 0), false).unwrap();
        assert_eq!((found.chain.as_str(), found.text), ("FORWARD", None));
        assert_eq!(rule(saved(3, 12, 0), false), None);
        assert_eq!(rule(saved(3, 3, 10), true).unwrap().table, "nat");
        assert_eq!(rule(saved(3, 3, 10), false), None);
        assert!(parse("nonsense\n*x\n:\n[1").is_empty());
    }
}
