use cframe_console::args::{command, try_parse_from};
use clap::error::ErrorKind;

use super::*;

fn parsed(line: &str) -> Cli {
    try_parse_from(words(line)).unwrap_or_else(|error| panic!("{line}\n{error}"))
}

fn refused(line: &str) -> clap::Error {
    try_parse_from::<Cli, _>(words(line)).expect_err(line)
}

/// The words of a line as a shell splits it, up to a comment, pipe or redirection.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        let word = words.last_mut().unwrap();
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '#' | '|' | '>') if word.is_empty() => break,
            (None, c) if c.is_whitespace() => words.push(String::new()),
            (None, c) => word.push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn each_command(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
    visit(command);
    for sub in command.get_subcommands() {
        each_command(sub, visit);
    }
}

#[test]
fn the_grammar_is_consistent() {
    command::<Cli>().debug_assert();
}

#[test]
fn lines_of_the_documentation_parse() {
    for line in [
        "cfctl namespace add prod",
        "cfctl edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58423",
        "cfctl edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --listener 203.0.113.7:58423",
        "cfctl token create --namespace prod --edge aws-hk --ttl 1h",
        "cfctl route add pods-hk --namespace prod --cidr 10.244.0.0/16 --edge aws-hk",
        "cfctl route add pods-hk --namespace prod --cidr 10.244.0.0/16 --via aws-hk",
        "cfctl ro create pods-hk -n prod --cidr 10.244.0.0/16 --nexthop aws-hk",
        "cfctl edge set aws-hk -n prod --endpoint 198.51.100.9:58423",
        "cfctl edge set aws-hk -n prod --no-endpoint",
        "cfctl edge set aws-hk -n prod --cidr 172.30.0.0/16,172.31.0.0/16",
        "cfctl cert enroll --csr FILE -n prod --edge aws-hk --out-dir DIR",
        "cfctl cert list",
        "cfctl cert show 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "cfctl cert renew -n prod --edge aws-hk",
        "cfctl controller list",
        "cfctl controller show ctl-2",
        "cfctl controller del ctl-2 --revoke-issuer",
        "cfctl cert revoke 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --reason stolen",
        "cfctl cert revoke --edge aws-hk -n prod",
        "cfctl token list",
        "cfctl token revoke 5f0c",
        "cfctl admin add alice --read-only --out alice.toml",
        "cfctl admin del alice",
        "cfctl admin ls",
        "cfctl status",
        "cfctl audit",
        "cfctl audit --follow --since 10m -o json",
        "cfctl completion bash",
        "cfctl version",
        "cfctl context import admin.toml",
        "cfctl edge list -o wide",
        "cfctl -o json edge list",
        "cfctl ns rm prod --cascade --yes",
        "cfctl ns delete prod",
    ] {
        parsed(line);
    }
}

#[test]
fn every_example_in_the_help_parses() {
    let mut examples = Vec::new();
    each_command(&command::<Cli>(), &mut |command| {
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let help = help.replace("\\\n", " ");
        let lines = help.lines().filter_map(|line| line.strip_prefix("  cfctl "));
        examples.extend(lines.map(|line| format!("cfctl {line}")));
    });
    assert!(examples.len() > 30, "{examples:#?}");
    examples.iter().for_each(|line| drop(parsed(line)));
}

#[test]
fn every_flag_has_its_variable_and_every_command_its_help() {
    each_command(&command::<Cli>(), &mut |command| {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            let Some(long) = arg.get_long() else { continue };
            let variable = format!("CFCTL_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        }
    });
}

#[test]
fn flags_stand_before_or_after_the_verb() {
    for line in ["cfctl -n prod edge list -o json", "cfctl edge list -n prod -o json"] {
        let globals = parsed(line).globals;
        assert_eq!(globals.namespace.unwrap(), "prod");
        assert_eq!(globals.output, Format::Json);
        assert_eq!(globals.timeout, Duration::from_secs(10));
    }
}

#[test]
fn a_wrong_value_is_explained() {
    for (line, expected) in [
        ("cfctl edge add a -n prod --cidr 10.2.3.4/16", "did you mean 10.2.0.0/16?"),
        ("cfctl edge add a -n prod --cidr 10.2.3.4", "write 10.2.3.4/32"),
        ("cfctl edge add A_b -n prod", "only lower-case letters"),
        ("cfctl edge add a -n prod --endpoint 203.0.113.7", "it has no port"),
        ("cfctl token create -n prod --edge a --ttl 2d", "24h at most"),
        ("cfctl status --timeout 10", "did you mean 10s?"),
        ("cfctl namespace add lab --tun-mtu 9000", "from 1280 to 1500"),
        ("cfctl cert show 12", "32 lower-case hex digits"),
    ] {
        let error = refused(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(expected), "{line}\n{error}");
    }
}

#[test]
fn contradictory_flags_are_usage_errors() {
    for (line, kind) in [
        ("cfctl edge set a -n prod", ErrorKind::MissingRequiredArgument),
        ("cfctl edge set a -n prod --no-endpoint --endpoint b:1", ErrorKind::ArgumentConflict),
        ("cfctl namespace set prod", ErrorKind::MissingRequiredArgument),
        ("cfctl cert revoke", ErrorKind::MissingRequiredArgument),
        (
            "cfctl cert revoke 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --edge a",
            ErrorKind::ArgumentConflict,
        ),
        ("cfctl route add pods -n prod --cidr 10.0.0.0/8", ErrorKind::MissingRequiredArgument),
        ("cfctl edge", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("cfctl edge frobnicate", ErrorKind::InvalidSubcommand),
    ] {
        let error = refused(line);
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}\n{error}");
    }
}

#[test]
fn no_endpoint_removes_all_and_without_a_flag_they_stay() {
    let endpoints = |line: &str| {
        let Command::Mesh(MeshCommand::Edge(EdgeVerb::Set(set))) = parsed(line).command else {
            panic!("{line}")
        };
        set.endpoints()
    };
    assert_eq!(endpoints("cfctl edge set a --no-endpoint"), Some(Vec::new()));
    assert_eq!(endpoints("cfctl edge set a --description x"), None);
    assert_eq!(endpoints("cfctl edge set a --endpoint b:1,c:2").unwrap().len(), 2);
}
