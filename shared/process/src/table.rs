//! The system's process table, as `/proc` shows it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// One row of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// The letter of `/proc/PID/stat`: `R`, `S`, `D`, `T`, `Z`, …
    pub state: char,
    /// Threads that have not ended.
    pub threads: u32,
}

impl Process {
    /// Whether it still runs. A zombie whose other threads go on does.
    pub const fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }
}

/// Every process that can be seen. One that ends while the table is read may or may not be in it.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn processes() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(process) = process(pid) {
            found.push(process);
        }
    }
    Ok(found)
}

/// The row of `pid`.
pub(crate) fn process(pid: u32) -> io::Result<Process> {
    // A process that goes away between open and read answers ESRCH.
    let stat = fs::read(format!("/proc/{pid}/stat")).map_err(missing)?;
    parse(pid, &stat).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has an unknown shape"))
    })
}

/// The system has two words for a process that is gone.
fn missing(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(nix::libc::ESRCH) => io::ErrorKind::NotFound.into(),
        _ => error,
    }
}

fn parse(pid: u32, stat: &[u8]) -> Option<Process> {
    let fields = fields(stat)?;
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Process {
        pid,
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
    })
}

/// The fields of proc(5) from the third one on. The name in field 2 is free text and may hold spaces and
/// parentheses: the last `)` ends it.
fn fields(stat: &[u8]) -> Option<Vec<&str>> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    Some(str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().collect())
}

/// Whether `pid` has a handler for `signal`: its bit in `SigCgt` of `/proc/PID/status`.
///
/// # Errors
/// `NotFound` when there is no such process; a zombie has no handlers and answers `false`.
pub fn signal_is_caught(pid: u32, signal: i32) -> io::Result<bool> {
    signal_is_in(pid, "SigCgt:", signal)
}

/// Whether `pid` ignores `signal`: its bit in `SigIgn` of `/proc/PID/status`.
///
/// # Errors
/// `NotFound` when there is no such process; a zombie ignores nothing and answers `false`.
pub fn signal_is_ignored(pid: u32, signal: i32) -> io::Result<bool> {
    signal_is_in(pid, "SigIgn:", signal)
}

fn signal_is_in(pid: u32, set: &str, signal: i32) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix(set))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    Ok((1..=64).contains(&signal) && mask & (1 << (signal - 1)) != 0)
}

/// Whether `pid` was started with `NAME=VALUE` in its environment. One that is in `exec` is waited for, until `limit`.
pub(crate) fn was_started_with(pid: u32, assignment: &[u8], limit: Instant) -> bool {
    settled_environment(pid, limit).is_ok_and(|environ| pairs(&environ).any(|pair| pair == assignment))
}

/// The values that `pid` was started with for each of `names`.
///
/// # Errors
/// `NotFound` when there is no such process, `PermissionDenied` when its environment is not for us to see.
pub fn variables<const N: usize>(pid: u32, names: [&str; N]) -> io::Result<[Option<OsString>; N]> {
    let environ = settled_environment(pid, Instant::now() + EXEC_LIMIT)?;
    Ok(names.map(|name| {
        let value = pairs(&environ).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        value.map(|value| OsString::from_vec(value.to_vec()))
    }))
}

fn pairs(environ: &[u8]) -> impl Iterator<Item = &[u8]> {
    environ.split(|&byte| byte == 0)
}

/// The arguments that `pid` was started with; none for a zombie or a thread of the kernel.
///
/// # Errors
/// `NotFound` when there is no such process.
pub fn arguments(pid: u32) -> io::Result<Vec<OsString>> {
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    Ok(line.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// The user whom `pid` belongs to.
///
/// # Errors
/// `NotFound` when there is no such process.
pub fn owner(pid: u32) -> io::Result<u32> {
    fs::metadata(format!("/proc/{pid}")).map(|of| of.uid())
}

/// An environment once it does not change any more. A process that is being replaced by `exec` shows none for a
/// moment; that moment is waited for, but not beyond `limit`.
fn settled_environment(pid: u32, limit: Instant) -> io::Result<Vec<u8>> {
    let mut doubts = 0;
    loop {
        let environ = environment(pid)?;
        if !environ.is_empty() {
            return Ok(environ);
        }
        let may_change = match exec(pid) {
            Exec::No => false,
            Exec::Surely => Instant::now() < limit,
            Exec::Maybe { looks } => {
                doubts += 1;
                doubts < looks
            }
        };
        if !may_change {
            return Ok(environ);
        }
        thread::sleep(EXEC_PAUSE);
    }
}

/// How long an `exec` may take, on a machine that stalls. It is the limit for all processes of one look together.
pub(crate) const EXEC_LIMIT: Duration = Duration::from_millis(500);
/// How often to look again when it may be one, and how often when everything says that the environment is simply empty.
const EXEC_LOOKS: usize = 100;
const EMPTY_LOOKS: usize = 4;
const EXEC_PAUSE: Duration = Duration::from_millis(1);

/// Whether a process is in `exec`.
enum Exec {
    No,
    /// It is to be looked at so often.
    Maybe {
        looks: usize,
    },
    Surely,
}

/// Whether this kernel tells where environments are; some sandboxes' do not.
static TELLS: LazyLock<bool> = LazyLock::new(|| {
    let stat = fs::read("/proc/self/stat").unwrap_or_default();
    fields(&stat).is_some_and(|fields| fields.get(50 - 3).is_some_and(|start| *start != "0"))
});

/// The environment in one system call: between two of them it may be gone, and what was read would look whole.
fn environment(pid: u32) -> io::Result<Vec<u8>> {
    let file = File::open(format!("/proc/{pid}/environ"))?;
    let mut environ = vec![0; 64 * 1024];
    loop {
        let count = file.read_at(&mut environ, 0).map_err(missing)?;
        if count < environ.len() {
            environ.truncate(count);
            return Ok(environ);
        }
        environ.resize(environ.len() * 2, 0);
    }
}

/// Whether `pid`, whose environment looks empty, is about to have one. The environment's start and end, fields 50
/// and 51, are 0 early in `exec`, and the same late in `exec` or when it is empty. One that waits for something is not in
/// `exec`; one that could run may be kept from it by others. One that is exiting has none any more, and the kernel's own
/// threads never have one.
fn exec(pid: u32) -> Exec {
    const EXITING_OR_KERNEL: u64 = 0x4 | 0x0020_0000;
    let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { return Exec::No };
    let Some(fields) = fields(&stat) else { return Exec::No };
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let may_be_kept_from_it = matches!(fields.first(), Some(&("R" | "D")));
    match (field(9), field(50), field(51)) {
        (Some(flags), _, _) if flags & EXITING_OR_KERNEL != 0 => Exec::No,
        (_, Some(start), Some(end)) if start == end && start != 0 => {
            Exec::Maybe { looks: if may_be_kept_from_it { EXEC_LOOKS } else { EMPTY_LOOKS } }
        }
        (_, Some(0), Some(0)) if *TELLS => Exec::Surely,
        _ => Exec::Maybe { looks: EXEC_LOOKS },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let stat = b"42 (a) R 1 2) (b) S 7 8 9 0 -1 1 2 3 4 5 6 7 8 9 20 0 3 0 777 1 2";
        let process = parse(42, stat).unwrap();
        assert_eq!((process.parent, process.group, process.session), (7, 8, 9));
        assert_eq!((process.state, process.threads, process.start_time), ('S', 3, 777));
    }

    #[test]
    fn own_row_is_in_the_table() {
        let own = std::process::id();
        let row = processes().unwrap().into_iter().find(|process| process.pid == own).unwrap();
        assert!(row.is_alive());
        assert_eq!(row.parent, std::os::unix::process::parent_id());
    }

    #[test]
    fn a_marker_is_seen_whatever_moment_is_looked_at() {
        // A program that replaces itself all the time, and says when it is done with that.
        let script = "[ $I -gt 300 ] && echo done && read x || I=$((I+1)) exec sh -c \"$SCRIPT\"";
        let mut looks = 0;
        while looks < 100 {
            let mut child = crate::Launch::new("sh")
                .args(["-c", script])
                .envs([("PROCESS_TEST_EXEC", "marked"), ("SCRIPT", script), ("I", "0")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdout = child.stdout().unwrap();
            let is_done = thread::spawn(move || stdout.read_exact(&mut [0; 4]).unwrap());
            while !is_done.is_finished() {
                let limit = Instant::now() + Duration::from_secs(20);
                let is_seen = was_started_with(child.pid(), b"PROCESS_TEST_EXEC=marked", limit);
                assert!(is_seen, "not seen at look {looks}");
                looks += 1;
            }
            is_done.join().unwrap();
            drop(child.stdin());
            child.wait_blocking().unwrap();
        }
    }

    #[test]
    fn what_a_process_was_started_with_is_told() {
        let mut child = crate::Launch::new("sleep")
            .arg("60")
            .env("PROCESS_TEST_VALUE", "a=b c")
            .dies_with_parent(crate::signal::SIGKILL)
            .spawn()
            .unwrap();
        let [value, none] = variables(child.pid(), ["PROCESS_TEST_VALUE", "PROCESS_TEST_VAL"]).unwrap();
        assert_eq!((value.unwrap().to_str(), none), (Some("a=b c"), None));
        assert_eq!(arguments(child.pid()).unwrap(), ["sleep", "60"]);
        assert_eq!(owner(child.pid()).unwrap(), owner(std::process::id()).unwrap());
        child.kill_blocking().unwrap();
        assert_eq!(variables(1 << 30, ["HOME"]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_missing_process_is_not_found() {
        // Above the kernel's greatest possible pid.
        assert_eq!(process(1 << 30).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(signal_is_caught(1 << 30, 15).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
