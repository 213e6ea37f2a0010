//! Where a command writes: what was asked for, what is said besides, and whether colours are welcome.

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

/// The two outputs of a command.
pub(crate) struct Screen<'a> {
    /// What was asked for.
    pub(crate) out: &'a mut dyn Write,
    /// What is said besides.
    pub(crate) err: &'a mut dyn Write,
    /// Whether colours are welcome in `out`.
    pub(crate) colours: bool,
}

impl Screen<'_> {
    /// One JSON object on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }

    /// A line of what was asked for.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// A line besides. That nobody reads it changes nothing.
    pub(crate) fn say(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }
}

/// Whether colours are welcome on this terminal: `NO_COLOR` and `CI` say no, and so does a pipe.
pub(crate) fn colours_welcome(terminal: bool, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> bool {
    let said = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    terminal && !said("NO_COLOR") && !said("CI")
}

/// This process's own outputs.
#[derive(Debug)]
pub(crate) struct Own {
    out: io::Stdout,
    err: io::Stderr,
}

impl Own {
    /// They are not locked: others may write to them too.
    pub(crate) fn outputs() -> Self {
        Self { out: io::stdout(), err: io::stderr() }
    }

    /// A screen on them.
    pub(crate) fn screen(&mut self) -> Screen<'_> {
        let colours = colours_welcome(self.out.is_terminal(), |name| std::env::var_os(name));
        Screen { out: &mut self.out, err: &mut self.err, colours }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_people() {
        let none = |_: &str| None;
        let set = |wanted: &'static str| move |name: &str| (name == wanted).then(|| "1".into());
        assert!(colours_welcome(true, none));
        assert!(!colours_welcome(false, none));
        assert!(!colours_welcome(true, set("NO_COLOR")));
        assert!(!colours_welcome(true, set("CI")));
        assert!(
            colours_welcome(true, |name| (name == "NO_COLOR").then(Default::default)),
            "empty is not set"
        );
    }
}
