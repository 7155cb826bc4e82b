//! What keeps a probe from arriving, in words, and the command that ends it. Pure.

use ipnet::IpNet;

use super::trace::{Place, Trace};
use crate::host::command::plain;

/// More prefixes than these are not listed in a rule, after neighbouring ones are put together.
const MAX_LISTED: usize = 16;
/// Controllers show no longer command.
const MAX_LEN: usize = 512;
/// Instead of a command that would have to name more prefixes than fit, or let more pass than the mesh's packets.
const MANY: &str = "exempt packets between the site and the mesh before that rule: the mesh has too many prefixes for one command";
/// Instead of a command with such a name.
const BY_HAND: &str = "let them pass before that rule, by hand: a name in it has characters that a shell reads as commands";
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
    Cause { text, fix: accept(trace, place, hook, context) }
}

/// The rule that gives packets another source.
pub(super) fn of_source_nat(place: &Place, context: &Context<'_>) -> Cause {
    let tun = context.tun;
    let fix = match iptables(place, context) {
        Some(program) => Ok(format!("{program} -t nat -I {} -o {tun} -j RETURN", place.base)),
        None => insert(place, Ok(format!("oifname {}", nft_name(tun)))),
    };
    Cause { text: format!("{} does that", describe(place)), fix: Some(in_words(fix)) }
}

/// The rule that gives packets for the mesh another destination.
pub(super) fn of_destination_nat(place: &Place, context: &Context<'_>) -> Cause {
    let fix = match iptables(place, context) {
        Some(program) => iptables_match("prerouting", context)
            .map(|matches| format!("{program} -t nat -I {} {matches} -j ACCEPT", place.base)),
        None => insert(place, nft_match("prerouting", context)),
    };
    let text = format!("{} gives them another destination", describe(place));
    Cause { text, fix: Some(in_words(fix)) }
}

/// A rule of iptables-legacy, which a trace does not show.
pub(super) fn of_legacy(rule: &LegacyRule, hook: &str, context: &Context<'_>) -> Cause {
    let program = context.tools.iptables_legacy.as_deref().unwrap_or("iptables-legacy");
    let program = family_program(program, context.v6);
    let LegacyRule { table, chain, text } = rule;
    let (what, fix) = match table.as_str() {
        "nat" => {
            let fix = format!("{program} -t nat -I POSTROUTING -o {} -j RETURN", context.tun);
            ("does that", Ok(fix))
        }
        _ => {
            let base = hook.to_ascii_uppercase();
            let table = if table == "filter" { String::new() } else { format!("-t {table} ") };
            let fix = iptables_match(hook, context)
                .map(|matches| format!("{program} {table}-I {base} {matches} -j ACCEPT"));
            ("drops them", fix)
        }
    };
    let text = match text {
        Some(rule) => {
            format!("the rule {rule:?} in table {table}, chain {chain} of iptables-legacy {what}")
        }
        None => format!("the policy of table {table}, chain {chain} of iptables-legacy {what}"),
    };
    Cause { text, fix: Some(in_words(fix)) }
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

fn accept(trace: &Trace, place: &Place, hook: &str, context: &Context<'_>) -> Option<String> {
    if let Some(program) = iptables(place, context) {
        let docker = format!("{} {} {DOCKER_USER}", place.family, place.table);
        let (table, chain) = match place.table.as_str() {
            "filter" if place.base == "FORWARD" && trace.chains.contains(&docker) => {
                (String::new(), DOCKER_USER)
            }
            "filter" => (String::new(), place.base.as_str()),
            table => (format!("-t {table} "), place.base.as_str()),
        };
        let fix = iptables_match(hook, context)
            .map(|matches| format!("{program} {table}-I {chain} {matches} -j ACCEPT"));
        return Some(in_words(fix));
    }
    if place.table == "firewalld" && context.tools.firewalld {
        return firewalld(hook, context).map(in_words);
    }
    // A packet that leaves has no device by which it came.
    let hook = if place.family == "netdev" && hook != "ingress" { "egress" } else { hook };
    Some(in_words(insert(place, nft_match(hook, context))))
}

fn in_words(command: Result<String, &'static str>) -> String {
    let command = command.and_then(|text| if text.len() > MAX_LEN { Err(MANY) } else { Ok(text) });
    command.unwrap_or_else(str::to_owned)
}

fn insert(place: &Place, matches: Result<String, &'static str>) -> Result<String, &'static str> {
    let matches = matches?;
    let name = |name| plain(name).ok_or(BY_HAND);
    let (table, base) = (name(&place.table)?, name(&place.base)?);
    Ok(format!("nft insert rule {} {table} {base} {matches} accept", place.family))
}

/// Commands that can be pasted twice. `None` where firewalld has no setting that helps.
fn firewalld(hook: &str, context: &Context<'_>) -> Option<Result<String, &'static str>> {
    let Context { path, v6, tun, device, port, .. } = context;
    let (side, family) = match (path, hook) {
        (Path::PortIn, "input") => {
            // In the zone of the uplink, and of no other device.
            let zone = |device| {
                format!(
                    "firewall-cmd --permanent --zone=\"$(firewall-cmd --get-zone-of-interface={device} \
                     2>/dev/null || firewall-cmd --get-default-zone)\" --add-port={port}/udp && \
                     firewall-cmd --reload"
                )
            };
            return Some(plain(device).map(zone).ok_or(BY_HAND));
        }
        (Path::Out, "forward") => ("destination", if *v6 { "ipv6" } else { "ipv4" }),
        (Path::In, "forward") => ("source", if *v6 { "ipv6" } else { "ipv4" }),
        _ => return None,
    };
    // A zone for the device would open this host's own services to the mesh, or close them.
    let Some(foreign) = listed(context.foreign) else { return Some(Err(MANY)) };
    let rule = |net: &String| {
        format!(" --add-rich-rule='rule family={family} {side} address={net} accept'")
    };
    let rules: String = foreign.iter().map(rule).collect();
    let policy = format!("firewall-cmd --permanent --policy={tun}");
    Some(Ok(format!(
        "{policy} --get-target >/dev/null 2>&1 || firewall-cmd --permanent --new-policy={tun}; \
         {policy} --add-ingress-zone=ANY --add-egress-zone=ANY; {policy}{rules} && firewall-cmd --reload"
    )))
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

fn iptables_match(hook: &str, context: &Context<'_>) -> Result<String, &'static str> {
    let Context { tun, port, mark, .. } = context;
    let device = || plain(context.device).ok_or(BY_HAND);
    let foreign = || listed(context.foreign).map(|list| list.join(",")).ok_or(MANY);
    Ok(match (context.path, hook) {
        (Path::Out, "prerouting") => format!("-i {} -d {}", device()?, foreign()?),
        (Path::Out, _) => format!("-o {tun}"),
        (Path::In, "postrouting") => format!("-o {} -s {}", device()?, foreign()?),
        (Path::In, _) => format!("-i {tun}"),
        (Path::PortIn, _) => format!("-p udp --dport {port}"),
        // Those for the controllers, too, which come from other ports.
        (Path::PortOut, _) => format!("-m mark --mark {mark:#x}/{mark:#x}"),
    })
}

fn nft_match(hook: &str, context: &Context<'_>) -> Result<String, &'static str> {
    let Context { tun, port, mark, .. } = context;
    let family = if context.v6 { "ip6" } else { "ip" };
    let device = || plain(context.device).map(nft_name).ok_or(BY_HAND);
    let foreign = || listed(context.foreign).map(|list| list.join(", ")).ok_or(MANY);
    Ok(match (context.path, hook) {
        (Path::Out, "ingress" | "prerouting") => {
            format!("iifname {} {family} daddr '{{ {} }}'", device()?, foreign()?)
        }
        (Path::In, "egress") => format!("{family} saddr '{{ {} }}'", foreign()?),
        (Path::Out, _) => format!("oifname {}", nft_name(tun)),
        (Path::In, _) => format!("iifname {}", nft_name(tun)),
        (Path::PortIn, _) => format!("udp dport {port}"),
        (Path::PortOut, _) => format!("meta mark and {mark:#x} == {mark:#x}"),
    })
}

/// A device's name that `nft` does not take for a word of its language, such as `vlan`.
fn nft_name(name: &str) -> String {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic());
    let is_no_word = name.contains(|char: char| char.is_ascii_digit()) && !name.contains('@');
    if starts_well && is_no_word { name.to_owned() } else { format!("'\"{name}\"'") }
}

/// As few prefixes as cover the same addresses; `None` if there are too many for a command.
fn listed(nets: &[IpNet]) -> Option<Vec<String>> {
    let nets = IpNet::aggregate(&nets.to_vec());
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

    fn context<'a>(
        path: Path,
        device: &'a str,
        foreign: &'a [IpNet],
        tools: &'a Tools,
    ) -> Context<'a> {
        let (tun, port, mark) = ("cframe0", 58_423, 0x1040);
        Context { path, v6: false, tun, device, foreign, port, mark, tools }
    }

    fn fix(path: Path, hook: &str, place: &Place) -> String {
        let (tools, foreign) = (tools(), ["10.2.0.0/16".parse().unwrap()]);
        let v6 = place.family == "ip6";
        let context = Context { v6, ..context(path, "lan0", &foreign, &tools) };
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

    /// The fix for a rule in `PREROUTING` of iptables and in one of nft, of a device with this name.
    fn fixes_at(device: &str, foreign: &[IpNet], table: &str) -> [String; 2] {
        let tools = tools();
        let context = context(Path::Out, device, foreign, &tools);
        let iptables = of_destination_nat(&place("ip", "nat", "PREROUTING", None), &context);
        let nft = of_drop(&trace("prerouting"), &place("ip", table, "pre", None), &context);
        [iptables.fix.unwrap(), nft.fix.unwrap()]
    }

    #[test]
    fn a_fix_that_needs_prefixes_names_all_of_them_or_is_no_command() {
        let nets = |count: u8, step: u8| -> Vec<IpNet> {
            (0..count).map(|i| format!("10.2.{}.0/24", i * step).parse().unwrap()).collect()
        };
        for fix in fixes_at("lan0", &nets(64, 1), "own") {
            assert!(fix.contains("10.2.0.0/18") && !fix.contains(','), "{fix}");
        }
        for fix in fixes_at("lan0", &nets(64, 2), "own") {
            assert_eq!(fix, MANY);
        }
    }

    #[test]
    fn no_command_has_a_name_that_a_shell_would_take_apart() {
        let foreign = ["10.2.0.0/16".parse().unwrap()];
        for name in ["$(reboot)", "a;reboot", "-A"] {
            assert_eq!(fixes_at(name, &foreign, "own"), [BY_HAND, BY_HAND], "{name}");
        }
        assert_eq!(fixes_at("lan0", &foreign, "$(reboot)")[1], BY_HAND);
        let vlan = &fixes_at("vlan", &foreign, "own")[1];
        assert!(vlan.contains("iifname '\"vlan\"' ip daddr"), "{vlan}");
    }

    #[test]
    fn firewalld_opens_no_more_than_the_way_between_site_and_mesh_and_the_port_where_it_is_used() {
        let firewalld = Tools { firewalld: true, ..tools() };
        let foreign = ["10.2.0.0/16".parse().unwrap()];
        let fix = |path, hook| {
            let context = context(path, "eth0", &foreign, &firewalld);
            of_drop(&trace(hook), &place("inet", "firewalld", "filter", None), &context).fix
        };
        let forward = fix(Path::In, "forward").unwrap();
        assert!(forward.contains("'rule family=ipv4 source address=10.2.0.0/16 accept'"));
        assert!(forward.contains("--get-target >/dev/null 2>&1 || "), "it can be pasted twice");
        assert!(!forward.contains("trusted") && !forward.contains("interface"), "{forward}");
        let port = fix(Path::PortIn, "input").unwrap();
        assert!(port.contains("--get-zone-of-interface=eth0") && port.contains("58423/udp"));
        assert_eq!(fix(Path::PortOut, "output"), None);
        assert_eq!(fix(Path::Out, "prerouting"), None);
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
        let context = context(Path::In, "br0", &[], &tools);
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
