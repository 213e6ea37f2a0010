//! Who has a port: for messages that say what to do about it.

use std::path::Path;

/// The column of a listening socket's state in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// ` by process PID (NAME)`, or nothing when it cannot be found out, such as for another user's process.
pub(crate) fn words(port: u16) -> String {
    holder(port).map_or_else(String::new, |pid| match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!(" by process {pid} ({})", name.trim()),
        Err(_) => format!(" by process {pid}"),
    })
}

fn holder(port: u16) -> Option<u32> {
    let sockets = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(Path::new("/proc/net").join(table)));
    let inode = sockets.iter().flatten().find_map(|table| listening_inode(table, port))?;
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|target| target.as_os_str() == wanted.as_str())
    })
}

/// The inode of the socket that listens on `port`, in the text of `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = columns.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local, 16) == Ok(port) && *columns.get(3)? == LISTENING;
        is_it.then(|| columns.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(holder(port), Some(std::process::id()));
        drop(listener);
        // A process that another test is starting has a copy for a moment.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !words(port).is_empty() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(words(port), "");
    }
}
