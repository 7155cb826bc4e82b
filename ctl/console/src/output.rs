//! Standard output, and colours.

use std::{
    env,
    io::{self, IsTerminal as _, Write},
};

use clap::Command;
use clap_complete::Shell;

/// Prints to standard output. A reader that has gone away is no error.
pub fn print(text: &str) -> io::Result<()> {
    write(&mut io::stdout().lock(), text).map(drop)
}

/// Writes and flushes. Returns false when the reader has gone away.
pub fn write(out: &mut (impl Write + ?Sized), text: &str) -> io::Result<bool> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// The script that completes a program's commands in a shell.
pub fn completion(mut command: Command, shell: Shell) -> String {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Whether `NO_COLOR` forbids colours (<https://no-color.org>).
pub fn no_color() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

pub(crate) fn color_on_stderr() -> bool {
    io::stderr().is_terminal() && !no_color()
}
