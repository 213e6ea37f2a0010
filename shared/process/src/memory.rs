//! The memory of a process that mostly waits: no huge pages, one heap for all threads, and what a burst of work needed is
//! given back when it is over.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Makes this process, and what it starts, use no transparent huge pages from now on; those it has stay. Answers
/// whether it was allowed to use them before.
///
/// # Errors
/// The system's; none is known on a kernel since 3.15.
pub fn forgo_huge_pages() -> io::Result<bool> {
    // SAFETY: both calls take integers only.
    #[allow(unsafe_code, reason = "nix can set this but not ask for it")]
    let forgone = unsafe {
        const NONE: libc::c_ulong = 0;
        let forgone = Errno::result(libc::prctl(libc::PR_GET_THP_DISABLE, NONE, NONE, NONE, NONE))?;
        Errno::result(libc::prctl(libc::PR_SET_THP_DISABLE, 1 as libc::c_ulong, NONE, NONE, NONE))?;
        forgone
    };
    Ok(forgone == 0)
}

/// Has all threads allocate from one heap, for a process whose threads rarely work at once: what one thread frees
/// another uses, where glibc would keep a heap for each. To be called before other threads are started; without effect
/// where the C library has one heap anyway.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes integers only.
        #[allow(unsafe_code, reason = "only the C library can set this")]
        let _was_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

/// Gives back to the system what the heap does not use. What is allocated next then fills the pages that are still
/// there before it takes new ones.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes an integer only, and may be called from any thread.
        #[allow(unsafe_code, reason = "only the C library knows what is free")]
        let _gave_some = unsafe { libc::malloc_trim(0) };
    }
}

/// Gives back to the system what the heap does not use, and lets go of the program's own code, which is read again from
/// the page cache as it is needed: about a microsecond for each 64 kB. For a process that has just become idle.
///
/// # Errors
/// When the process's mappings cannot be read, or the system refuses.
pub fn give_back_memory() -> io::Result<()> {
    give_back_heap();
    let program = fs::read_link("/proc/self/exe")?;
    let mappings = fs::read_to_string("/proc/self/maps")?;
    for (start, length) in mappings.lines().filter_map(|line| code_of(line, &program)) {
        let start: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is a mapping of the program's file that nobody can write to, so each of its pages is the
        // file's, and reads as before once it is mapped again.
        #[allow(unsafe_code, reason = "nix's madvise wants a pointer too")]
        Errno::result(unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) })?;
    }
    Ok(())
}

/// The start and length of the mapping that `line` of `/proc/PID/maps` tells of, if it is code of `program`.
fn code_of(line: &str, program: &Path) -> Option<(usize, usize)> {
    // START-END PERMISSIONS OFFSET DEVICE INODE PATH, the path after many spaces, and with spaces of its own.
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let path = fields.nth(3)?.trim_start();
    if permissions != "r-xp" || Path::new(path) != program {
        return None;
    }
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_program_s_own_code_is_let_go() {
        let program = Path::new("/opt/two words/midrun");
        let code =
            "00400000-00600000 r-xp 00001000 fe:00 123                            /opt/two words/midrun";
        assert_eq!(code_of(code, program), Some((0x0040_0000, 0x0020_0000)));
        for other in [
            "00600000-00700000 r--p 00201000 fe:00 123                            /opt/two words/midrun",
            "00700000-00800000 rw-p 00301000 fe:00 123                            /opt/two words/midrun",
            "7f0000000000-7f0000100000 r-xp 00026000 fe:00 9                      /usr/lib/libc.so.6",
            "7f0000100000-7f0000101000 r-xp 00000000 00:00 0                      [vdso]",
            "7f0000101000-7f0000102000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code_of(other, program), None, "{other}");
        }
    }

    #[test]
    fn a_process_that_gave_its_memory_back_goes_on() {
        let big = vec![1_u8; 1 << 20];
        give_back_memory().unwrap();
        assert_eq!(big.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 1 << 20);
    }
}
