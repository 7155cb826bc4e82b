//! The controller's program; all of it is in the library.

fn main() -> std::process::ExitCode {
    cframe_controller::cli::main()
}
