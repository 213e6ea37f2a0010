//! A disk that is full for one process: none of its files may grow, which fails like writing to a full disk and needs
//! neither a file system of one's own nor root.

use std::process::Command;

/// From now on `pid` writes no file.
pub(crate) fn fill(pid: u32) {
    limit(pid, "0:unlimited");
}

/// From now on it may write again.
pub(crate) fn make_room(pid: u32) {
    limit(pid, "unlimited:unlimited");
}

fn limit(pid: u32, size: &str) {
    // One that has just ended writes nothing anyway.
    let args = ["--pid", &pid.to_string(), &format!("--fsize={size}")].map(str::to_owned);
    let told = Command::new("prlimit").args(args).output().expect("prlimit is there");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success() || !crate::processes::alive(pid), "{said}");
}
