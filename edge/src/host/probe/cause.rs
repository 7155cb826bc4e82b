//! What keeps a probe from arriving, in words, and the command that ends it. Pure.

use ipnet::IpNet;

use super::trace::{Place, Trace};

/// More prefixes than these are not listed in a rule.
const MAX_LISTED: usize = 8;
/// Tables of iptables. Its chains for hooks have upper-case names.
const IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];
/// The chain that docker leaves to the operator: what is in `FORWARD`, docker moves behind its own rules.
const DOCKER_USER: &str = "DOCKER-USER";

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// From the site into the mesh.
    Out,
    /// From the mesh into the site.
    In,
    /// From a peer to the mesh's own UDP port.
    PortIn,
    /// From the mesh's own UDP port to a peer.
    PortOut,
}

/// What a fix depends on.
#[derive(Clone, Debug)]
pub(super) struct Context<'a> {
    pub(super) path: Path,
    pub(super) v6: bool,
    pub(super) tun: &'a str,
    /// The site's device, or the uplink.
    pub(super) device: &'a str,
    /// Prefixes of other sites, of the family.
    pub(super) foreign: &'a [IpNet],
    /// The mesh's UDP port.
    pub(super) port: u16,
    /// The mark of this process's packets.
    pub(super) mark: u32,
    pub(super) tools: &'a Tools,
}

/// Programs of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tools {
    /// The one that writes to nftables, for example `iptables`.
    pub(super) iptables_nft: Option<String>,
    /// The one that does not, for example `iptables-legacy`.
    pub(super) iptables_legacy: Option<String>,
    /// firewalld runs.
    pub(super) firewalld: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cause {
    /// The end of a sentence that starts with what was seen.
    pub(super) text: String,
    pub(super) fix: Option<String>,
}

/// The rule that drops.
pub(super) fn of_drop(trace: &Trace, place: &Place, context: &Context<'_>) -> Cause {
    let hook = hook(trace);
    let text = format!("{} drops them", describe(place));
    Cause { text, fix: Some(accept(trace, place, hook, context)) }
}

/// The rule that gives packets another source.
pub(super) fn of_source_nat(place: &Place, context: &Context<'_>) -> Cause {
    let tun = context.tun;
    let fix = match iptables(place, context) {
        Some(program) => format!("{program} -t nat -I {} -o {tun} -j RETURN", place.base),
        None => insert(place, &format!("oifname {tun}")),
    };
    Cause { text: format!("{} does that", describe(place)), fix: Some(fix) }
}

/// The rule that gives packets for the mesh another destination.
pub(super) fn of_destination_nat(place: &Place, context: &Context<'_>) -> Cause {
    let fix = match iptables(place, context) {
        Some(program) => {
            let matches = iptables_match("prerouting", context);
            format!("{program} -t nat -I {} {matches} -j ACCEPT", place.base)
        }
        None => insert(place, &nft_match("prerouting", context)),
    };
    Cause { text: format!("{} gives them another destination", describe(place)), fix: Some(fix) }
}

/// A rule of iptables-legacy, which a trace does not show.
pub(super) fn of_legacy(rule: &LegacyRule, hook: &str, context: &Context<'_>) -> Cause {
    let program = context.tools.iptables_legacy.as_deref().unwrap_or("iptables-legacy");
    let program = family_program(program, context.v6);
    let LegacyRule { table, chain, text } = rule;
    let (what, fix) = match table.as_str() {
        "nat" => {
            ("does that", format!("{program} -t nat -I POSTROUTING -o {} -j RETURN", context.tun))
        }
        _ => {
            let base = hook.to_ascii_uppercase();
            let table = if table == "filter" { String::new() } else { format!("-t {table} ") };
            let matches = iptables_match(hook, context);
            ("drops them", format!("{program} {table}-I {base} {matches} -j ACCEPT"))
        }
    };
    let text = match text {
        Some(rule) => {
            format!("the rule {rule:?} in table {table}, chain {chain} of iptables-legacy {what}")
        }
        None => format!("the policy of table {table}, chain {chain} of iptables-legacy {what}"),
    };
    Cause { text, fix: Some(fix) }
}

/// What is known if no rule was found.
pub(super) fn of_place(trace: Option<&Trace>) -> Cause {
    let text = match trace.and_then(|trace| trace.reached.last()).map(String::as_str) {
        None => "they were lost before the firewall's first hook",
        Some(first) if first.starts_with("ingress-") => {
            "they were lost between their arrival and the hook prerouting"
        }
        Some("input-last") => "they were delivered to this host itself",
        Some("prerouting-last") => {
            "they were lost where the kernel chooses their way, after prerouting"
        }
        Some("forward-last") => "they were lost between the hooks forward and postrouting",
        Some(hook) => {
            let hook = hook.split('-').next().unwrap_or_default();
            let text = format!(
                "they were lost in the hook {hook}, and no rule that nftables can trace did it"
            );
            return Cause { text, fix: None };
        }
    };
    Cause { text: text.to_owned(), fix: None }
}

/// A rule or policy of iptables-legacy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LegacyRule {
    pub(super) table: String,
    pub(super) chain: String,
    /// `None`: the policy.
    pub(super) text: Option<String>,
}

/// The hook in which a packet was last.
pub(super) fn hook(trace: &Trace) -> &str {
    match trace.reached.last().and_then(|chain| chain.split_once('-')) {
        Some((hook, _)) => hook,
        None => "forward",
    }
}

fn accept(trace: &Trace, place: &Place, hook: &str, context: &Context<'_>) -> String {
    if let Some(program) = iptables(place, context) {
        let docker = format!("{} {} {DOCKER_USER}", place.family, place.table);
        let (table, chain) = match place.table.as_str() {
            "filter" if place.base == "FORWARD" && trace.chains.contains(&docker) => {
                (String::new(), DOCKER_USER)
            }
            "filter" => (String::new(), place.base.as_str()),
            table => (format!("-t {table} "), place.base.as_str()),
        };
        let matches = iptables_match(hook, context);
        return format!("{program} {table}-I {chain} {matches} -j ACCEPT");
    }
    if place.table == "firewalld" && context.tools.firewalld {
        return firewalld(context);
    }
    // A packet that leaves has no device by which it came.
    let hook = if place.family == "netdev" && hook != "ingress" { "egress" } else { hook };
    insert(place, &nft_match(hook, context))
}

fn insert(place: &Place, matches: &str) -> String {
    let Place { family, table, base, .. } = place;
    format!("nft insert rule {family} {table} {base} {matches} accept")
}

fn firewalld(context: &Context<'_>) -> String {
    let Context { tun, port, .. } = context;
    match context.path {
        Path::PortIn | Path::PortOut => {
            format!("firewall-cmd --permanent --add-port={port}/udp && firewall-cmd --reload")
        }
        Path::Out | Path::In => format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={tun} && \
             firewall-cmd --permanent --new-policy={tun} && \
             firewall-cmd --permanent --policy={tun} --add-ingress-zone=ANY --add-egress-zone=trusted \
             --set-target=ACCEPT && firewall-cmd --reload"
        ),
    }
}

/// The program of iptables for a table that it has made.
fn iptables(place: &Place, context: &Context<'_>) -> Option<String> {
    let made = matches!(place.family.as_str(), "ip" | "ip6")
        && IPTABLES.contains(&place.table.as_str())
        && place.base.chars().all(|char| char.is_ascii_uppercase());
    let program = context.tools.iptables_nft.as_deref().filter(|_| made)?;
    Some(family_program(program, place.family == "ip6"))
}

fn family_program(program: &str, v6: bool) -> String {
    if v6 { program.replacen("iptables", "ip6tables", 1) } else { program.to_owned() }
}

fn iptables_match(hook: &str, context: &Context<'_>) -> String {
    let Context { tun, device, port, mark, .. } = context;
    let foreign = listed(context.foreign);
    let option = |name: &str| match &foreign {
        Some(list) => format!(" {name} {}", list.join(",")),
        None => String::new(),
    };
    match (context.path, hook) {
        (Path::Out, "prerouting") => format!("-i {device}{}", option("-d")),
        (Path::Out, _) => format!("-o {tun}"),
        (Path::In, "postrouting") => format!("-o {device}{}", option("-s")),
        (Path::In, _) => format!("-i {tun}"),
        (Path::PortIn, _) => format!("-p udp --dport {port}"),
        // Those for the controllers, too, which come from other ports.
        (Path::PortOut, _) => format!("-m mark --mark {mark:#x}/{mark:#x}"),
    }
}

fn nft_match(hook: &str, context: &Context<'_>) -> String {
    let Context { tun, device, port, mark, .. } = context;
    match (context.path, hook) {
        (Path::Out, "ingress" | "prerouting") => {
            let family = if context.v6 { "ip6" } else { "ip" };
            let to = listed(context.foreign)
                .map(|list| format!(" {family} daddr '{{ {} }}'", list.join(", ")));
            format!("iifname {device}{}", to.unwrap_or_default())
        }
        (Path::In, "egress") => {
            let family = if context.v6 { "ip6" } else { "ip" };
            let from = listed(context.foreign)
                .map(|list| format!("{family} saddr '{{ {} }}'", list.join(", ")));
            from.unwrap_or_else(|| format!("meta protocol {family}"))
        }
        (Path::Out, _) => format!("oifname {tun}"),
        (Path::In, _) => format!("iifname {tun}"),
        (Path::PortIn, _) => format!("udp dport {port}"),
        (Path::PortOut, _) => format!("meta mark and {mark:#x} == {mark:#x}"),
    }
}

fn listed(nets: &[IpNet]) -> Option<Vec<String>> {
    let few = !nets.is_empty() && nets.len() <= MAX_LISTED;
    few.then(|| nets.iter().map(ToString::to_string).collect())
}

fn describe(place: &Place) -> String {
    let Place { family, table, chain, rule, .. } = place;
    match rule {
        Some(rule) => {
            let rule = without_counter(rule);
            format!("the rule {rule:?} in table {family} {table}, chain {chain}")
        }
        None => format!("the policy of table {family} {table}, chain {chain}"),
    }
}

/// A rule without `counter packets N bytes M`: a text that changes with each packet is a new one each time.
fn without_counter(rule: &str) -> String {
    let mut words = rule.split(' ').peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "counter" && words.peek() == Some(&"packets") {
            words.nth(3);
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(family: &str, table: &str, base: &str, rule: Option<&str>) -> Place {
        Place {
            family: family.to_owned(),
            table: table.to_owned(),
            base: base.to_owned(),
            chain: base.to_owned(),
            rule: rule.map(str::to_owned),
        }
    }

    fn trace(hook: &str) -> Trace {
        Trace { reached: vec![format!("{hook}-first")], ..Trace::default() }
    }

    fn tools() -> Tools {
        Tools {
            iptables_nft: Some("iptables".to_owned()),
            iptables_legacy: Some("iptables-legacy".to_owned()),
            firewalld: false,
        }
    }

    fn fix(path: Path, hook: &str, place: &Place) -> String {
        let (tools, foreign) = (tools(), ["10.2.0.0/16".parse().unwrap()]);
        let context = Context {
            path,
            v6: place.family == "ip6",
            tun: "cframe0",
            device: "lan0",
            foreign: &foreign,
            port: 58_423,
            mark: 0x1040,
            tools: &tools,
        };
        of_drop(&trace(hook), place, &context).fix.unwrap()
    }

    #[test]
    fn the_fix_uses_the_tool_that_made_the_rule_and_the_table_and_hook_of_it() {
        let forward = place("ip", "filter", "FORWARD", None);
        let raw = place("ip", "raw", "PREROUTING", None);
        let mangle = place("ip", "mangle", "POSTROUTING", None);
        let six = place("ip6", "filter", "FORWARD", None);
        let native = place("inet", "filter", "forward", None);
        let input = place("ip", "filter", "INPUT", None);
        let output = place("ip", "filter", "OUTPUT", None);
        for (path, hook, place, wanted) in [
            (Path::Out, "forward", &forward, "iptables -I FORWARD -o cframe0 -j ACCEPT"),
            (Path::In, "forward", &forward, "iptables -I FORWARD -i cframe0 -j ACCEPT"),
            (Path::In, "forward", &six, "ip6tables -I FORWARD -i cframe0 -j ACCEPT"),
            (Path::In, "prerouting", &raw, "iptables -t raw -I PREROUTING -i cframe0 -j ACCEPT"),
            (
                Path::Out,
                "prerouting",
                &raw,
                "iptables -t raw -I PREROUTING -i lan0 -d 10.2.0.0/16 -j ACCEPT",
            ),
            (
                Path::In,
                "postrouting",
                &mangle,
                "iptables -t mangle -I POSTROUTING -o lan0 -s 10.2.0.0/16 -j ACCEPT",
            ),
            (
                Path::In,
                "forward",
                &native,
                "nft insert rule inet filter forward iifname cframe0 accept",
            ),
            (
                Path::Out,
                "prerouting",
                &native,
                "nft insert rule inet filter forward iifname lan0 ip daddr '{ 10.2.0.0/16 }' accept",
            ),
            (Path::PortIn, "input", &input, "iptables -I INPUT -p udp --dport 58423 -j ACCEPT"),
            (
                Path::PortOut,
                "output",
                &output,
                "iptables -I OUTPUT -m mark --mark 0x1040/0x1040 -j ACCEPT",
            ),
        ] {
            assert_eq!(fix(path, hook, place), wanted);
        }
    }

    #[test]
    fn a_rule_is_shown_without_its_counter() {
        let rule = "ip saddr 10.1.0.0/16 counter packets 12 bytes 3 drop";
        assert_eq!(without_counter(rule), "ip saddr 10.1.0.0/16 drop");
        assert_eq!(without_counter("counter packets 1 bytes 2"), "");
        assert_eq!(without_counter("counter drop"), "counter drop");
    }

    #[test]
    fn on_a_docker_host_the_fix_is_in_the_chain_that_docker_leaves_to_the_operator() {
        let mut trace = trace("forward");
        trace.chains.push("ip filter DOCKER-USER".to_owned());
        let (tools, place) = (tools(), place("ip", "filter", "FORWARD", None));
        let context = Context {
            path: Path::In,
            v6: false,
            tun: "cframe0",
            device: "br0",
            foreign: &[],
            port: 1,
            mark: 0x1040,
            tools: &tools,
        };
        let fix = of_drop(&trace, &place, &context).fix.unwrap();
        assert_eq!(fix, "iptables -I DOCKER-USER -i cframe0 -j ACCEPT");
        let nat =
            of_source_nat(&self::place("ip", "nat", "POSTROUTING", Some("masquerade")), &context);
        assert_eq!(nat.fix.unwrap(), "iptables -t nat -I POSTROUTING -o cframe0 -j RETURN");
        let native = of_source_nat(&self::place("ip", "nat", "post", Some("masquerade")), &context);
        assert_eq!(native.fix.unwrap(), "nft insert rule ip nat post oifname cframe0 accept");
        let rule =
            LegacyRule { table: "raw".to_owned(), chain: "PREROUTING".to_owned(), text: None };
        let fix = of_legacy(&rule, "prerouting", &context).fix.unwrap();
        assert_eq!(fix, "iptables-legacy -t raw -I PREROUTING -i cframe0 -j ACCEPT");
    }
}
