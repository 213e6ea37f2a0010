//! What midrun promises when each service has a process of its own: the same scenarios as in one process, and what
//! becomes of the loop when a process dies.

mod broken;
mod frames;
mod healing;
mod links;
mod many_files;
mod output;
mod panics;
mod records;
mod restart;
mod swap;
mod ticks;
