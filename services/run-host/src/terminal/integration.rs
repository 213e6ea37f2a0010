//! What a shell needs to know of its host: the files it reads when it starts, and the one it takes commands from.
//!
//! The user's own start-up files are read first, and their prompt stays: it only begins with a mark. Everything is in
//! the language that all POSIX shells share, but for what only bash can do. What must hold: nothing of this reaches
//! another process: no variable is exported, and marks go to the terminal itself, wherever output was sent.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::dialogue::LINE;

/// Which language a shell speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bash,
    Posix,
}

impl Kind {
    pub(super) fn of(shell: &str) -> Self {
        let name = Path::new(shell).file_name().map(|name| name.to_string_lossy());
        if name.is_some_and(|name| name.contains("bash")) { Self::Bash } else { Self::Posix }
    }
}

/// The files of one session.
#[derive(Debug)]
pub(super) struct Integration {
    /// What only this session's shell and its host know.
    pub(super) secret: String,
    start: PathBuf,
    next: PathBuf,
}

impl Integration {
    /// Writes what the shell reads when it starts into `folder`, which only its owner may enter.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write(folder: &Path, kind: Kind) -> io::Result<Self> {
        let secret = secret()?;
        let (start, next) = (folder.join("shell.rc"), folder.join("next"));
        let text = match kind {
            Kind::Bash => format!("{BASH_FIRST}{}{BASH_LAST}", functions(&secret, &next)?),
            Kind::Posix => format!("{}{}{POSIX_LAST}", posix_first(), functions(&secret, &next)?),
        };
        write_private(&start, &text)?;
        Ok(Self { secret, start, next })
    }

    /// The arguments and the environment that make a shell read it.
    pub(super) fn of_start(&self, kind: Kind) -> (Vec<PathBuf>, Option<(&'static str, PathBuf)>) {
        match kind {
            Kind::Bash => (vec!["--rcfile".into(), self.start.clone(), "-i".into()], None),
            Kind::Posix => (vec!["-i".into()], Some(("ENV", self.start.clone()))),
        }
    }

    /// Puts a command where the shell takes it from.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn put(&self, number: u64, text: &str) -> io::Result<()> {
        let new = self.next.with_extension("new");
        write_private(&new, &format!("__midrun_k={number}\n__midrun_c={}\n", quoted(text)))?;
        fs::rename(&new, &self.next)
    }

    /// Nothing is to be taken any more.
    pub(super) fn clear(&self) {
        // It is not there, or it cannot be removed; a command's number is taken only once.
        let _ = fs::remove_file(&self.next);
    }
}

/// 128 random bits, in hex.
fn secret() -> io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    }))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// `text` as one word of the shell's language.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What every shell gets. `__midrun_n` is the number of the last command that was taken; `__midrun_k` that of the one
/// being run, 0 for none.
///
/// The alias keeps the command at the top level, where it would be if it had been typed: its positional parameters,
/// its errors and the `$?` before it are the shell's own. Marks are written by one `printf` to the terminal itself.
/// What is traced by `set -x` goes nowhere.
fn functions(secret: &str, next: &Path) -> io::Result<String> {
    let next = next.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", next.display())))?;
    Ok(format!(
        r#"__midrun_n=0 __midrun_k=0 __midrun_c= __midrun_s=0
__midrun_a=$(printf '\033]7771;{secret};P;') __midrun_b=$(printf '\007')
__midrun_take() {{
  __midrun_s=$? __midrun_k=0 __midrun_c=
  if test -f {next}; then . {next}; fi
  if test "$__midrun_k" -gt "$__midrun_n"; then
    __midrun_n=$__midrun_k
    __midrun_remember
    command printf '\033]7771;{secret};S;%s\007' "$__midrun_k" >/dev/tty
  else
    __midrun_k=0 __midrun_c=
  fi
  return "$__midrun_s"
}}
__midrun_done() {{
  __midrun_s=$?
  if test "$__midrun_k" -gt 0; then
    command printf '\033]7771;{secret};D;%s;%s\007' "$__midrun_k" "$__midrun_s" >/dev/tty
  fi
  __midrun_k=0
  __midrun_prompt
  return "$__midrun_s"
}}
__midrun_prompt() {{
  case $PS1 in
    *"$__midrun_p"*) ;;
    *) PS1=$__midrun_p$PS1 ;;
  esac
}}
alias {LINE}='{{ __midrun_take; }} 2>/dev/null; eval "$__midrun_c"; {{ __midrun_done; }} 2>/dev/null'
"#,
        next = quoted(next),
    ))
}

/// Instead of the file that bash would read.
const BASH_FIRST: &str = "if [ -f ~/.bashrc ]; then . ~/.bashrc; fi\n";

/// The prompt's mark takes no room, comes back when the prompt is set anew, and the history has the command.
const BASH_LAST: &str = r#"__midrun_p='\[${__midrun_a:+$__midrun_a$__midrun_n;$?$__midrun_b}\]'
__midrun_remember() {
  if shopt -qo history; then history -s -- "$__midrun_c"; fi
}
if [ "${#PROMPT_COMMAND[@]}" -gt 1 ]; then
  PROMPT_COMMAND+=('{ __midrun_prompt; } 2>/dev/null')
else
  PROMPT_COMMAND="${PROMPT_COMMAND:+$PROMPT_COMMAND
}{ __midrun_prompt; } 2>/dev/null"
fi
"#;

/// Such a shell reads only one file, which would otherwise be the user's.
fn posix_first() -> String {
    match std::env::var("ENV") {
        Ok(own) if !own.is_empty() => {
            let own = quoted(&own);
            format!("ENV={own}; export ENV\nif test -f \"$ENV\"; then . \"$ENV\"; fi\n")
        }
        _ => "unset ENV\n".to_owned(),
    }
}

const POSIX_LAST: &str = r"__midrun_p='${__midrun_a:+$__midrun_a$__midrun_n;$?$__midrun_b}'
__midrun_remember() { :; }
__midrun_prompt
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_whatever_is_in_it() {
        for text in ["", "a b", "it's", "'", "$(rm -rf /)\n`x`\\", "é\u{1b}"] {
            let shell = format!("printf %s {}", quoted(text));
            let output = std::process::Command::new("sh").args(["-c", &shell]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn shells_are_told_by_their_name() {
        assert_eq!(Kind::of("/usr/bin/bash"), Kind::Bash);
        assert_eq!(Kind::of("rbash"), Kind::Bash);
        for posix in ["/bin/sh", "dash", "/opt/bash/bin/ksh"] {
            assert_eq!(Kind::of(posix), Kind::Posix);
        }
    }
}
