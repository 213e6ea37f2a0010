//! Measurements over the built binary, as a client sees it: the table that a change of the loop is judged by.
//!
//! `cargo run --release -p bench [-- --quick] [LINE…]`, and `cargo run -p bench -- kill [--six] [--seed N] [--count N]`. What is measured, and
//! how, is in the README beside this.

mod fan_out;
mod figures;
mod idle;
mod kill;
mod machine;
mod memory;
mod modules;
mod plan;
mod reference;
mod saves;
mod start;
mod stop;
mod table;

use std::process::ExitCode;

use crate::plan::{Line, Plan};
use crate::table::Row;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let plan = match Plan::of(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    println!("{}\n", machine::description());
    let mut rows: Vec<Row> = Vec::new();
    for line in &plan.lines {
        eprintln!("measuring: {}", line.name());
        rows.extend(match line {
            Line::Saves => saves::small(&plan).await,
            Line::Modules => saves::many_modules(&plan).await,
            Line::Six => saves::six(&plan).await,
            Line::Traced => saves::traced(&plan).await,
            Line::Start => start::measure(&plan).await,
            Line::Memory => memory::measure(&plan).await,
            Line::FanOut => fan_out::measure(&plan).await,
            Line::Idle => idle::measure(&plan).await,
            Line::Stop => stop::measure(&plan).await,
            Line::Kill => kill::measure(&plan).await,
        });
    }
    println!("{}", table::render(&rows));
    println!("load average now, 5 and 15 minutes ago: {}", machine::load());
    if rows.iter().all(Row::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
