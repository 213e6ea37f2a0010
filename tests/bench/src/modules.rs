//! A project of 200 modules whose bundle has 228 kB.

use std::fmt::Write as _;

use testkit::{Stage, Ticker};

pub(crate) const MODULES: usize = 200;
/// Statements in each, so that the bundle comes to 228 kB.
const STATEMENTS: usize = 30;

/// A small project: an entry and its callbacks.
pub(crate) fn small_project() -> Stage {
    Stage::ticker(&trainer())
}

/// The project.
pub(crate) fn large_project() -> Stage {
    let stage = Stage::ticker(&Ticker { numbers: (0..MODULES).map(name).collect(), ..trainer() });
    for index in 0..MODULES {
        write_leaf(&stage, index, index as u64);
    }
    stage
}

fn trainer() -> Ticker {
    Ticker { step_ms: 20, ..Ticker::default() }
}

fn name(index: usize) -> String {
    format!("leaf{index}")
}

/// Writes a leaf anew, with `value` in it.
pub(crate) fn write_leaf(stage: &Stage, index: usize, value: u64) {
    let mut text =
        format!("const start{index}: number = {value};\nfunction compute{index}(x: number): number {{\n");
    for statement in 0..STATEMENTS {
        let _ = writeln!(text, "  x = (x * 31 + {}) % 1000003;", 100_000 + statement);
    }
    let _ = write!(
        text,
        "  return x;\n}}\nexport const {}: number = compute{index}(start{index});\n",
        name(index)
    );
    stage.project.write(&format!("{}.ts", name(index)), &text);
}

/// The path of a leaf as frames name it.
pub(crate) fn leaf_path(index: usize) -> String {
    format!("src/midrun/{}.ts", name(index))
}
