//! Who writes a run's log: decided once, by whoever comes first.
//!
//! A server that finds a run without a log cannot tell a host that is still starting from one that never was. The
//! claim decides it: a host that has it may write, and a server that has it knows that no host ever will.

use std::fs;
use std::io;
use std::path::Path;

/// The file in the run's folder.
const CLAIM: &str = "claim.json";

/// Makes `who` the one who may write the log in the run's folder `dir`, for ever. Whoever reads the claim reads all of
/// `who` or finds none.
///
/// # Errors
/// `AlreadyExists` when somebody else came first; otherwise the system's.
pub fn claim(dir: &Path, who: &[u8]) -> io::Result<()> {
    let draft = dir.join(format!(".{CLAIM}.{}", std::process::id()));
    fs::write(&draft, who)?;
    let claimed = fs::hard_link(&draft, dir.join(CLAIM));
    fs::remove_file(&draft)?;
    claimed
}

/// Who has the run in the folder `dir`, if anybody has.
///
/// # Errors
/// The system's.
pub fn claimed_by(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(dir.join(CLAIM)) {
        Ok(who) => Ok(Some(who)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(claimed_by(dir.path()).unwrap(), None);
        claim(dir.path(), b"host").unwrap();
        assert_eq!(claim(dir.path(), b"server").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(claimed_by(dir.path()).unwrap().as_deref(), Some(&b"host"[..]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }
}
