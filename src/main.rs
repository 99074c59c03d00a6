//! The entry: everything is in the library, so that tests reach it.

fn main() -> std::process::ExitCode {
    headwater::cli::main()
}
