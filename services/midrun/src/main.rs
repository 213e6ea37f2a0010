//! The midrun binary: command line, configuration, wiring. No logic of its own.

mod address;
mod cli;
mod client;
mod commands;
mod console;
mod control;
mod credentials;
mod dev;
mod ending;
mod hold;
#[cfg(test)]
mod metrics_page;
mod port_holder;
mod project;
mod sdk;
mod serve;
mod state;
mod state_folder;
mod troubles;
mod wiring;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let begun = std::time::Instant::now();
    // These two are other programs in the same file: nothing of the rest is wanted in them.
    match Cli::parse().command {
        Command::RunHost(args) => run_host::main(&args.dir),
        Command::Executor(args) => {
            let code = executor::main(args.sample.then(|| "--sample".to_owned()));
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Command::Dev(args) => {
            telemetry::start();
            let code = dev::command(&args, begun);
            telemetry::shutdown();
            code
        }
        Command::Serve(args) => {
            telemetry::start();
            let code = serve::command(&args, begun);
            telemetry::shutdown();
            code
        }
        command => {
            telemetry::start();
            commands::command(command)
        }
    }
}
