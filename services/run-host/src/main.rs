//! `run-host --dir FOLDER`: the library behind `midrun run-host`, alone, for this crate's tests.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--dir", dir] => run_host::main(Path::new(dir)),
        _ => {
            eprintln!("usage: run-host --dir FOLDER");
            ExitCode::from(2)
        }
    }
}
