//! Which process a pid means: a pid with its start time and the boot it belongs to.

use std::io;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::table;

/// A process, told apart from every other one that had or will have its pid.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl Identity {
    /// Who `pid` is now. A zombie still has an identity.
    ///
    /// # Errors
    /// `NotFound` when there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let process = table::process(pid)?;
        Ok(Self { pid, start_time: process.start_time, boot_id: boot_id()?.to_owned() })
    }

    /// This process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether this process still exists, possibly as a zombie.
    pub fn is_there(&self) -> bool {
        self.process().is_some()
    }

    /// Whether this process still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        self.process().is_some_and(|process| process.is_alive())
    }

    fn process(&self) -> Option<table::Process> {
        let same_boot = boot_id().is_ok_and(|now| now == self.boot_id);
        let process = same_boot.then(|| table::process(self.pid).ok()).flatten()?;
        (process.start_time == self.start_time).then_some(process)
    }
}

/// The id of this boot of the machine.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Ok(known);
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT.get_or_init(|| text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_identity_holds_and_a_changed_one_does_not() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        assert!(!Identity { start_time: own.start_time + 1, ..own.clone() }.is_there(), "another start time");
        assert!(!Identity { boot_id: "other".into(), ..own.clone() }.is_there(), "another boot");
        assert!(!Identity { pid: 1, ..own }.is_there(), "another pid");
    }

    #[test]
    fn a_zombie_is_there_but_not_alive() {
        let mut child = crate::Launch::new("true").spawn().unwrap();
        let identity = child.identity().clone();
        child.pidfd().wait_blocking(None).unwrap();
        assert!(identity.is_there());
        assert!(!identity.is_alive());
        child.wait_blocking().unwrap();
        assert!(!identity.is_there());
    }
}
