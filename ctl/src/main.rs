//! `cfctl`: see the library.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use cfctl::{Terminals, args::Cli, console::Console, style};
use cframe_console::{
    args,
    log::{self, LogFormat},
    output,
};

fn main() -> ExitCode {
    let cli: Cli = args::parse();
    start_log(cli.globals.verbose);
    let terminals = Terminals {
        input: io::stdin().is_terminal(),
        output: io::stdout().is_terminal(),
        error: io::stderr().is_terminal(),
    };
    let style = style(&cli.globals, terminals, output::no_color());
    let mut console = Console {
        out: &mut io::stdout().lock(),
        err: &mut io::stderr(),
        input: &mut io::stdin().lock(),
        style,
    };
    cfctl::run(cli, &mut console).into()
}

fn start_log(verbose: u8) {
    let directives = match verbose {
        0 => return,
        1 => "cfctl=debug,cframe_protocol=debug,cframe_pki=debug",
        _ => "trace",
    };
    let started =
        log::filter(directives).and_then(|filter| log::start(filter, LogFormat::Text, true));
    if let Err(error) = started {
        eprintln!("warning: {error:#}");
    }
}
