//! `cframe-edge`: see [`cframe_edge::cli`].

fn main() -> std::process::ExitCode {
    cframe_edge::cli::main()
}
