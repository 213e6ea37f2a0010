//! Starting a process: what it inherits, which group and session it is in, what ends it.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

use crate::terminal::WindowSize;
use crate::{Child, spawner, terminal};

/// Which process group and session a child is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Group {
    /// Its parent's: it gets the terminal's Ctrl-C.
    #[default]
    Inherited,
    /// A process group of its own in its parent's session.
    Own,
    /// A session of its own, away from every terminal.
    OwnSession,
}

/// A process to be started.
///
/// The child starts with an empty signal mask, default signal actions, and no descriptors besides 0, 1, 2 and
/// those passed on by [`Launch::pass_fd`], whatever this process has open. Without a word on them, the standard
/// streams are the parent's.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    group: Group,
    parent_death_signal: i32,
    passed: Vec<(OwnedFd, RawFd)>,
    terminal: Option<WindowSize>,
    huge_pages: Option<bool>,
}

impl Launch {
    /// `program`, found by `PATH` when it has no slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: Command::new(program),
            group: Group::default(),
            parent_death_signal: 0,
            passed: Vec::new(),
            terminal: None,
            huge_pages: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets variables.
    #[must_use]
    pub fn envs(mut self, pairs: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        self.command.envs(pairs);
        self
    }

    /// Hides an inherited variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets the process group.
    #[must_use]
    pub const fn group(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    /// Makes the child die of `signal` when the thread that spawns it ends, however it ends. Use the
    /// [`crate::Spawner`], or the main thread, unless the spawning thread's end is what is meant.
    #[must_use]
    pub const fn dies_with_parent(mut self, signal: i32) -> Self {
        self.parent_death_signal = signal;
        self
    }

    /// Gives the child `fd` under the number `at`, which must be above 2.
    ///
    /// # Panics
    /// When `at` is one of the standard streams or far too great.
    #[must_use]
    pub fn pass_fd(mut self, fd: OwnedFd, at: RawFd) -> Self {
        assert!((3..PASSED_FROM).contains(&at), "pass_fd gives the numbers from 3 to {}", PASSED_FROM - 1);
        self.passed.push((fd, at));
        self
    }

    /// Whether the child and what it starts may use transparent huge pages; otherwise as this process.
    #[must_use]
    pub const fn huge_pages(mut self, allowed: bool) -> Self {
        self.huge_pages = Some(allowed);
        self
    }

    /// Sets standard input.
    #[must_use]
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stdin(stdio);
        self
    }

    /// Sets standard output.
    #[must_use]
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stdout(stdio);
        self
    }

    /// Sets standard error.
    #[must_use]
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stderr(stdio);
        self
    }

    /// All three standard streams are `/dev/null`.
    #[must_use]
    pub fn silent(self) -> Self {
        self.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
    }

    /// Gives the child a new terminal as its standard streams and controlling terminal, in a session of its own.
    /// Our end is [`Child::take_terminal`].
    #[must_use]
    pub const fn terminal(mut self, size: WindowSize) -> Self {
        self.terminal = Some(size);
        self.group = Group::OwnSession;
        self
    }

    /// A process that outlives this one: a session of its own, no standard streams, no parent-death signal.
    #[must_use]
    pub fn detached(self) -> Self {
        self.group(Group::OwnSession).dies_with_parent(0).silent()
    }

    /// Starts it from the current thread.
    ///
    /// # Errors
    /// The system's: no such program, no such folder, no processes or descriptors left.
    pub fn spawn(mut self) -> io::Result<Child> {
        spawner::reap_dropped();
        let terminal = self.terminal.map(open_terminal).transpose()?;
        if let Some((_, theirs)) = &terminal {
            self.command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs.try_clone()?);
        }
        let passed =
            self.passed.iter().map(|(fd, at)| Ok((lift(fd)?, *at))).collect::<io::Result<Vec<_>>>()?;
        let _reserved = self.passed.iter().map(|(_, at)| reserve(*at)).collect::<io::Result<Vec<_>>>()?;
        let hook = ChildSide {
            parent: libc::pid_t::try_from(std::process::id()).expect("a pid is an int"),
            group: self.group,
            parent_death_signal: self.parent_death_signal,
            has_terminal: terminal.is_some(),
            huge_pages: self.huge_pages,
            passed: passed.iter().map(|(fd, at)| (fd.as_raw_fd(), *at)).collect(),
        };
        // SAFETY: the hook only makes system calls on values that were ready before the fork: no allocation, no
        // lock, nothing that another thread of the parent could hold.
        #[allow(
            unsafe_code,
            reason = "prctl, setsid and descriptors have to be arranged between fork and exec"
        )]
        unsafe {
            self.command.pre_exec(move || hook.prepare().map_err(io::Error::from));
        }
        let child = self.command.spawn()?;
        Child::of(child, terminal.map(|(ours, _)| ours))
    }
}

/// What is done in the child between fork and exec.
struct ChildSide {
    parent: libc::pid_t,
    group: Group,
    parent_death_signal: i32,
    has_terminal: bool,
    huge_pages: Option<bool>,
    passed: Vec<(RawFd, RawFd)>,
}

impl ChildSide {
    fn prepare(&self) -> Result<(), Errno> {
        // SAFETY: async-signal-safe system calls on integers, and on locals that outlive them.
        #[allow(unsafe_code, reason = "see Launch::spawn")]
        unsafe {
            match self.group {
                Group::Inherited => {}
                Group::Own => drop(Errno::result(libc::setpgid(0, 0))?),
                Group::OwnSession => drop(Errno::result(libc::setsid())?),
            }
            if self.has_terminal {
                Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            }
            if let Some(allowed) = self.huge_pages {
                const NONE: libc::c_ulong = 0;
                let forgone = libc::c_ulong::from(!allowed);
                Errno::result(libc::prctl(libc::PR_SET_THP_DISABLE, forgone, NONE, NONE, NONE))?;
            }
            // An ignored signal stays ignored across exec, and a mask stays set: neither is the child's affair.
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut none);
            Errno::result(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
            // Descriptors that a library opened without close-on-exec. An old kernel lacks this call; then
            // only such descriptors leak.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            for &(from, at) in &self.passed {
                Errno::result(libc::dup2(from, at))?;
            }
            if self.parent_death_signal != 0 {
                Errno::result(libc::prctl(
                    libc::PR_SET_PDEATHSIG,
                    self.parent_death_signal as libc::c_ulong,
                ))?;
                // The parent may have died before the call took effect; then nobody would tell the child.
                if libc::getppid() != self.parent {
                    return Err(Errno::ESRCH);
                }
            }
        }
        Ok(())
    }
}

/// Where descriptors wait to be passed on: above every number that a child can ask for.
const PASSED_FROM: RawFd = 100;

/// `fd` again under a number that no target number can overwrite.
fn lift(fd: &OwnedFd) -> io::Result<OwnedFd> {
    duplicate_from(fd, PASSED_FROM)
}

/// Takes the number `at` in this process if it is free. Otherwise the pipe on which std's spawn hears of a failed
/// exec could land there, and passing a descriptor at that number would overwrite it.
fn reserve(at: RawFd) -> io::Result<OwnedFd> {
    let nothing = OwnedFd::from(OpenOptions::new().read(true).open("/dev/null")?);
    duplicate_from(&nothing, at)
}

fn duplicate_from(fd: &OwnedFd, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a descriptor that we borrow; it answers a new one that nobody else owns.
    #[allow(unsafe_code, reason = "nix's dup cannot take ownership of a chosen number")]
    unsafe {
        let new = Errno::result(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest))?;
        Ok(OwnedFd::from_raw_fd(new))
    }
}

/// A new terminal: our end and the child's, both close-on-exec (openpty(3) cannot do that).
fn open_terminal(size: WindowSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(ptsname_r(&ours)?)?;
    terminal::resize(&theirs, size)?;
    Ok((ours.into(), theirs.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::signal;

    fn sh(script: &str) -> Launch {
        Launch::new("sh").args(["-c", script])
    }

    fn output_of(launch: Launch) -> String {
        let mut child = launch.stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        child.stdout().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait_blocking().unwrap().success());
        text
    }

    /// pgrp and session of a process that prints its own.
    fn group_and_session(group: Group) -> (u32, u32, u32) {
        let mut child =
            sh("read x").group(group).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let row = crate::table::process(child.pid()).unwrap();
        drop(child.stdin());
        child.wait_blocking().unwrap();
        (child.pid(), row.group, row.session)
    }

    #[test]
    fn groups_and_sessions_are_as_asked() {
        let own = crate::table::process(std::process::id()).unwrap();
        let (pid, group, session) = group_and_session(Group::Inherited);
        assert_ne!(group, pid);
        assert_eq!((group, session), (own.group, own.session));
        let (pid, group, session) = group_and_session(Group::Own);
        assert_eq!((group, session), (pid, own.session));
        let (pid, group, session) = group_and_session(Group::OwnSession);
        assert_eq!((group, session), (pid, pid));
    }

    #[test]
    fn a_descriptor_arrives_under_its_number_and_works_both_ways() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut child = sh("read x <&3; echo got $x >&3").pass_fd(theirs.into(), 3).spawn().unwrap();
        ours.write_all(b"word\n").unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "got word\n");
        child.wait_blocking().unwrap();
    }

    #[test]
    fn descriptors_can_trade_numbers() {
        let (mut a, for_three) = UnixStream::pair().unwrap();
        let (mut b, for_four) = UnixStream::pair().unwrap();
        let mut child = sh("echo three >&3; echo four >&4")
            .pass_fd(for_three.into(), 3)
            .pass_fd(for_four.into(), 4)
            .spawn()
            .unwrap();
        let (mut three, mut four) = (String::new(), String::new());
        a.read_to_string(&mut three).unwrap();
        b.read_to_string(&mut four).unwrap();
        assert_eq!((three.as_str(), four.as_str()), ("three\n", "four\n"));
        child.wait_blocking().unwrap();
    }

    #[test]
    fn nothing_else_is_inherited() {
        let leaky = OpenOptions::new().read(true).open("/dev/null").unwrap();
        nix::fcntl::fcntl(&leaky, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let open =
            output_of(Launch::new("ls").arg("/proc/self/fd").pass_fd(theirs.into(), 5).stdin(Stdio::null()));
        // 3 is the folder that `ls` itself reads.
        assert_eq!(open.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "5"]);
    }

    #[test]
    fn a_failed_exec_is_an_error_even_with_a_passed_descriptor() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let error = Launch::new("/no/such/program").pass_fd(theirs.into(), 3).spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let mut nothing = Vec::new();
        ours.read_to_end(&mut nothing).unwrap();
        assert!(nothing.is_empty(), "std's report of the failure went into the passed descriptor");
    }

    #[test]
    fn ignored_and_blocked_signals_are_not_inherited() {
        use nix::sys::signal::{SigSet, SigmaskHow, Signal};
        // In this thread only; the child is forked from it.
        let mut before = SigSet::empty();
        let blocked: SigSet = [Signal::SIGTERM, Signal::SIGUSR2].into_iter().collect();
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut before)).unwrap();
        let status = output_of(Launch::new("cat").arg("/proc/self/status"));
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).unwrap();
        for name in ["SigBlk", "SigIgn"] {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
            let mask = u64::from_str_radix(line.trim(), 16).unwrap();
            assert_eq!(mask & 0x7fff_ffff, 0, "{name}");
        }
    }

    #[test]
    fn huge_pages_are_as_asked() {
        let allowed = |launch: Launch| {
            let status = output_of(launch.arg("/proc/self/status"));
            status.lines().find_map(|line| line.strip_prefix("THP_enabled:")).unwrap().trim() == "1"
        };
        assert!(!allowed(Launch::new("cat").huge_pages(false)));
        assert!(allowed(Launch::new("cat").huge_pages(true)));
        let again = ["-c", "exec \"$@\"", "sh", "cat"];
        assert!(!allowed(Launch::new("sh").args(again).huge_pages(false)), "it is inherited");
    }

    #[test]
    fn a_terminal_is_a_terminal_of_the_size_asked_for() {
        let mut child = sh("test -t 0 && test -t 1 && test -t 2 && stty size < /dev/tty")
            .terminal(WindowSize { rows: 40, columns: 132 })
            .spawn()
            .unwrap();
        let mut ours = std::fs::File::from(child.take_terminal().unwrap());
        let mut text = Vec::new();
        let mut chunk = [0; 256];
        // Linux answers EIO, not an end of file, when the last holder of the other end is gone.
        while let Ok(count @ 1..) = ours.read(&mut chunk) {
            text.extend_from_slice(&chunk[..count]);
        }
        assert_eq!(String::from_utf8(text).unwrap(), "40 132\r\n");
        assert!(child.wait_blocking().unwrap().success());
    }

    #[test]
    fn a_child_dies_with_the_thread_that_spawned_it() {
        let mut child = std::thread::spawn(|| {
            Launch::new("sleep").arg("60").dies_with_parent(signal::SIGKILL).spawn().unwrap()
        })
        .join()
        .unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(child.wait_blocking().unwrap().signal(), Some(signal::SIGKILL));
    }

    #[test]
    fn a_detached_child_has_nothing_of_ours() {
        let mut child = Launch::new("sleep").arg("60").detached().spawn().unwrap();
        let row = crate::table::process(child.pid()).unwrap();
        assert_eq!(row.session, child.pid());
        let stdout = std::fs::read_link(format!("/proc/{}/fd/1", child.pid())).unwrap();
        assert_eq!(stdout, Path::new("/dev/null"));
        child.kill_blocking().unwrap();
    }
}
