//! `systemctl` on hosts of the lab that are [`Machine`](cframe_testbed::Machine)s.

use std::process::ExitCode;

fn main() -> ExitCode {
    cframe_testbed::units::main()
}
