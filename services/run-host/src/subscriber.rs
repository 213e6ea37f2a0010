//! Those who listen: the registry, and whoever else may read the socket.
//!
//! A subscriber is a cursor into the log file and a small buffer in front of its socket. One that does not read
//! costs that buffer and nothing more; it gets everything as soon as it reads again.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use process::peer_has_read_all;
use runlog::{Follower, Position};
use wire::host::{HostRequest, HostSays};

use crate::lines::{Line, Lines};

/// How much may wait in front of a socket before no more is added, bytes.
const FULL: usize = 256 * 1024;

/// How much log is searched for records at once, bytes.
const SEARCH: usize = 256 * 1024;

/// How often that is done before others have their turn.
const SEARCHES: usize = 4;

/// How long to wait before looking again whether the last "grew" was read.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    lines: Lines,
    out: Vec<u8>,
    subscription: Option<Subscription>,
    /// It will say no more.
    silent: bool,
    gone: bool,
}

#[derive(Debug)]
struct Subscription {
    follower: Follower,
    /// The newest record it was told of, or knows.
    told: u64,
    /// There is more log to be searched.
    behind: bool,
    /// It is to be told that the log grew, when it has read what is under way.
    look_again: Option<Instant>,
    pause: Duration,
}

impl Client {
    /// A new connection, non-blocking.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            lines: Lines::default(),
            out: Vec::new(),
            subscription: None,
            silent: false,
            gone: false,
        }
    }

    /// What to wait for. The end of the connection is always reported.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.silent && self.out.len() < FULL);
        flags.set(PollFlags::POLLOUT, !self.out.is_empty());
        (self.stream.as_fd(), flags)
    }

    /// When to call [`Client::serve`] again although nothing happened.
    pub(crate) fn look_again(&self) -> Option<Instant> {
        let subscription = self.subscription.as_ref()?;
        if subscription.behind && self.out.len() < FULL {
            return Some(Instant::now());
        }
        subscription.look_again
    }

    /// The connection is over.
    pub(crate) const fn leave(&mut self) {
        self.gone = true;
    }

    /// Whether the connection is over.
    pub(crate) const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Reads what it asks for. A line that is no request ends the connection: there is no id to answer to.
    pub(crate) fn requests(&mut self) -> Vec<HostRequest> {
        let mut found = Vec::new();
        let mut chunk = [0; 4096];
        let mut understood = true;
        let each = |line: Line<'_>| match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => {}
            Line::Whole(line) => match serde_json::from_slice(line) {
                Ok(request) => found.push(request),
                Err(_) => understood = false,
            },
            Line::TooLong => understood = false,
        };
        match self.stream.read(&mut chunk) {
            Ok(0) => self.silent = true,
            Ok(count) => self.lines.feed(&chunk[..count], each),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
        self.gone |= !understood;
        found
    }

    /// From now on it is told of what follows the record `after`.
    pub(crate) fn subscribe(&mut self, log: &Path, after: u64) {
        match Follower::open(log, after) {
            Ok(follower) => {
                self.subscription = Some(Subscription {
                    follower,
                    told: after,
                    behind: true,
                    look_again: None,
                    pause: SHORTEST_PAUSE,
                });
            }
            Err(_) => self.gone = true,
        }
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, answer: &HostSays) {
        serde_json::to_writer(&mut self.out, answer).expect("an answer has string keys and a Vec takes all");
        self.out.push(b'\n');
    }

    /// Whether it listens to the log.
    pub(crate) const fn is_subscribed(&self) -> bool {
        self.subscription.is_some() && !self.gone
    }

    /// Whether it listens and was given everything up to `log`.
    pub(crate) fn has_all(&self, log: Position) -> bool {
        self.out.is_empty()
            && self.subscription.as_ref().is_some_and(|subscription| {
                subscription.told >= log.seq && subscription.follower.seq() >= log.seq
            })
    }

    /// Gives it what it is to know of the log as far as `log`, as much as its socket takes.
    pub(crate) fn serve(&mut self, log: Position) {
        if self.gone {
            return;
        }
        self.find_records(log);
        self.write();
        if self.out.is_empty() {
            self.tell_growth(log);
        }
    }

    /// Searches a part of the log for records that are not output; lines are passed on as they stand.
    fn find_records(&mut self, log: Position) {
        let Some(subscription) = &mut self.subscription else { return };
        let out = &mut self.out;
        for _ in 0..SEARCHES {
            subscription.behind = subscription.follower.seq() < log.seq;
            if !subscription.behind || out.len() >= FULL {
                return;
            }
            let found = subscription.follower.lines(log.seq, SEARCH, |line| tell_record(out, line));
            // A log that cannot be read cannot be told of; its reader will ask again and find the same.
            self.gone |= found.is_err();
            if !found.is_ok_and(|more| more) {
                subscription.behind = false;
                return;
            }
        }
        subscription.behind = subscription.follower.seq() < log.seq;
    }

    /// Gives it, besides what stands in the log as far as `log`, what happened since: the disk refuses it.
    pub(crate) fn serve_unwritten<'a>(&mut self, log: Position, lines: impl Iterator<Item = &'a [u8]>) {
        let Some(subscription) = &mut self.subscription else { return };
        if self.gone || subscription.follower.seq() < log.seq {
            return;
        }
        for (line, seq) in lines.filter_map(|line| Some((line, runlog::seq_of(line)?))) {
            if seq > subscription.follower.known() && self.out.len() < FULL {
                subscription.follower.know(seq);
                tell_record(&mut self.out, line);
            }
        }
        self.write();
    }

    /// Says that the log grew, unless the last time it was said has not been read yet.
    fn tell_growth(&mut self, log: Position) {
        let Some(subscription) = &mut self.subscription else { return };
        if subscription.behind || subscription.told >= log.seq {
            subscription.look_again = None;
            return;
        }
        if !peer_has_read_all(&self.stream).unwrap_or(true) {
            subscription.look_again = Some(Instant::now() + subscription.pause);
            subscription.pause = (subscription.pause * 2).min(LONGEST_PAUSE);
            return;
        }
        subscription.told = log.seq;
        subscription.look_again = None;
        subscription.pause = SHORTEST_PAUSE;
        self.answer(&HostSays::Grew { seq: log.seq, bytes: log.bytes });
        self.write();
    }

    fn write(&mut self) {
        let mut taken = 0;
        while taken < self.out.len() {
            match self.stream.write(&self.out[taken..]) {
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.out.drain(..taken);
        if self.out.is_empty() {
            self.out.shrink_to(4096);
        }
    }
}

fn tell_record(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(br#"{"type":"record","record":"#);
    out.extend_from_slice(line.trim_ascii_end());
    out.extend_from_slice(b"}\n");
}
