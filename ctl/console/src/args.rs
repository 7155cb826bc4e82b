//! Parsing of the command line. Every flag can also be given by an environment variable.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command, Parser, builder::BoolishValueParser};

/// Parses this process's arguments. Prints help, versions and usage errors, and exits.
pub fn parse<C: Parser>() -> C {
    try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Parses arguments, the program's name first.
pub fn try_parse_from<C: Parser, T>(
    arguments: impl IntoIterator<Item = T>,
) -> Result<C, clap::Error>
where
    T: Into<OsString> + Clone,
{
    C::from_arg_matches(&command::<C>().try_get_matches_from(arguments)?)
}

/// A program's commands, in which every flag has its variable.
///
/// The variable is the program's name and the flag's in capitals, with `_` for `-`: `--data-dir` of
/// `cframe-edge` is `CFRAME_EDGE_DATA_DIR`. An empty variable is ignored. A positional argument
/// marked `#[arg(env)]` has a variable too, with the argument's name.
pub fn command<C: Parser>() -> Command {
    with_variables(C::command(), &|name| std::env::var_os(name))
}

fn with_variables(command: Command, lookup: &dyn Fn(&OsStr) -> Option<OsString>) -> Command {
    let prefix = screaming(command.get_name());
    let help = format!(
        "\
Environment:
  Every flag has a variable: {prefix}_ and its name, such as {prefix}_CONFIG for --config.
  An empty variable is ignored. A flag beats the environment, which beats the file, which beats the
  default.

Exit codes:
  0 done          3 not found      6 unreachable
  1 error         4 conflict       7 unhealthy
  2 usage         5 not allowed"
    );
    let examples = command.get_after_long_help().map(|text| format!("\n\n{text}"));
    let command = command.after_long_help(help + &examples.unwrap_or_default());
    each_arg(command, &|arg| with_variable(arg, &prefix, lookup))
}

fn each_arg(command: Command, change: &dyn Fn(Arg) -> Arg) -> Command {
    command.mut_args(change).mut_subcommands(|command| each_arg(command, change))
}

/// The variable is not in the flag's own help; the help of the program states the rule once.
fn with_variable(arg: Arg, prefix: &str, lookup: &dyn Fn(&OsStr) -> Option<OsString>) -> Arg {
    let name = match (arg.get_long(), arg.get_env()) {
        (Some(long), _) => screaming(long),
        (None, Some(_)) => screaming(arg.get_id().as_str()),
        (None, None) => return arg,
    };
    let variable = OsString::from(format!("{prefix}_{name}"));
    if lookup(&variable).is_some_and(|value| value.is_empty()) {
        return arg.env(None::<&'static str>);
    }
    let switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let arg = arg.env(variable).hide_env(true);
    if switch { arg.value_parser(BoolishValueParser::new()) } else { arg }
}

fn screaming(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Subcommand};

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "cframe-edge")]
    struct Cli {
        #[arg(long, global = true)]
        data_dir: Option<String>,
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(Debug, Subcommand)]
    enum Verb {
        Join {
            #[arg(env)]
            token: Option<String>,
            #[arg(long)]
            replace: bool,
            #[arg(long, value_delimiter = ',')]
            controllers: Vec<String>,
        },
    }

    fn variables(value: Option<&str>) -> Vec<String> {
        let lookup = |_: &OsStr| value.map(OsString::from);
        let command = with_variables(Cli::command(), &lookup);
        let join = command.find_subcommand("join").unwrap();
        let args = command.get_arguments().chain(join.get_arguments());
        let names = args.filter_map(Arg::get_env).map(|name| name.to_str().unwrap().to_owned());
        names.collect()
    }

    #[test]
    fn a_variable_has_the_programs_name_and_the_flags() {
        let expected = ["DATA_DIR", "TOKEN", "REPLACE", "CONTROLLERS"];
        assert_eq!(variables(None), expected.map(|name| format!("CFRAME_EDGE_{name}")));
    }

    #[test]
    fn an_empty_variable_is_ignored_whatever_its_type() {
        assert_eq!(variables(Some("")), [""; 0]);
        assert_eq!(variables(Some("x")).len(), 4);
    }
}
