//! The same scenarios with a process for each service: what starts a server looks at the name of the test's binary.

// Beside this, not below it: the other target has the same list.
#[path = "both.rs"]
mod both;

// One service dies and the others go on: in one process they would all die.
mod healing;
// What is between two processes.
mod links;
