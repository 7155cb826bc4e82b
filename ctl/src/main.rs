//! `cfctl`: see the library.

use std::{
    env,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use cfctl::{Terminals, args, console::Console, manner};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match args::parse(env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and versions come this way too, and go to standard output with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log(cli.globals.verbose);
    let terminals = Terminals {
        input: io::stdin().is_terminal(),
        output: io::stdout().is_terminal(),
        error: io::stderr().is_terminal(),
    };
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let manner = manner(&cli.globals, terminals, no_color);
    let mut console = Console {
        out: &mut io::stdout().lock(),
        err: &mut io::stderr(),
        input: &mut io::stdin().lock(),
        manner,
    };
    cfctl::run(cli, &mut console).into()
}

fn log(verbose: u8) {
    let directives = match verbose {
        0 => return,
        1 => "cfctl=debug,cframe_protocol=debug,cframe_pki=debug",
        _ => "trace",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
