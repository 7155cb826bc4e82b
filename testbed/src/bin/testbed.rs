use std::process::ExitCode;

fn main() -> ExitCode {
    cframe_testbed::cli::main()
}
