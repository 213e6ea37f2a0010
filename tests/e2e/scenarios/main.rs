//! The server as one process, and the commands that need none.

// Beside this, not below it: the other target has the same list.
#[path = "both.rs"]
mod both;

// Nobody talks to a server there.
mod commands;
// What `midrun dev` itself says where it cannot serve as it was asked to: it is one process by its nature.
mod dev_command;
