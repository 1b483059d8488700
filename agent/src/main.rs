//! `keelson`: the node agent (`keelson node`) and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    keelson::cli::main()
}
