//! Ids. Each is a string on the wire; the types keep one kind from standing where another belongs.

use std::fmt;

use rand::Rng as _;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id! {
    /// One execution of a trainer. Sorts by time of creation; short, since it stands in socket paths.
    RunId
}
string_id! {
    /// A terminal session. Sorts by time of creation; short, since it stands in socket paths.
    TerminalId
}
string_id! {
    /// A command that a terminal session was given to run.
    CommandId
}
string_id! {
    /// One build of an entry. Sorts by time of creation.
    BuildId
}
string_id! {
    /// A job on the control plane. Its shape is the control plane's affair.
    JobId
}
string_id! {
    /// SHA-256 of an artifact's bytes, lower-case hex.
    ContentHash
}
string_id! {
    /// The absolute path of the source file that a bundle starts from.
    EntryPath
}

impl RunId {
    /// A new id.
    pub fn fresh() -> Self {
        Self(sortable('r'))
    }

    /// Whether `text` has the shape of an id made by [`RunId::fresh`], so that it is safe in a path.
    pub fn is_well_formed(text: &str) -> bool {
        is_sortable('r', text)
    }
}

impl TerminalId {
    /// A new id.
    pub fn fresh() -> Self {
        Self(sortable('t'))
    }

    /// Whether `text` has the shape of an id made by [`TerminalId::fresh`], so that it is safe in a path.
    pub fn is_well_formed(text: &str) -> bool {
        is_sortable('t', text)
    }
}

impl CommandId {
    /// A new id.
    pub fn fresh() -> Self {
        Self(sortable('c'))
    }

    /// Whether `text` has the shape of an id made by [`CommandId::fresh`].
    pub fn is_well_formed(text: &str) -> bool {
        is_sortable('c', text)
    }
}

impl BuildId {
    /// A new id.
    pub fn fresh() -> Self {
        Self(sortable('b'))
    }
}

impl ContentHash {
    /// The address of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&sha2::Sha256::digest(bytes)))
    }
}

/// Crockford's base 32: no letter that reads like a digit.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TIME_DIGITS: usize = 9;
const RANDOM_DIGITS: usize = 5;

/// `prefix`, 45 bits of milliseconds since 1970 (good until the year 3084), 25 random bits.
fn sortable(prefix: char) -> String {
    let millis = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let random: u32 = rand::rng().random();
    let mut id = String::with_capacity(1 + TIME_DIGITS + RANDOM_DIGITS);
    id.push(prefix);
    for place in (0..TIME_DIGITS).rev() {
        id.push(DIGITS[(millis >> (5 * place)) as usize & 31] as char);
    }
    for place in (0..RANDOM_DIGITS).rev() {
        id.push(DIGITS[(random >> (5 * place)) as usize & 31] as char);
    }
    id
}

/// Whether `text` has the shape of what [`sortable`] makes.
fn is_sortable(prefix: char, text: &str) -> bool {
    text.len() == 1 + TIME_DIGITS + RANDOM_DIGITS
        && text.starts_with(prefix)
        && text.bytes().all(|b| DIGITS.contains(&b))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_are_well_formed_and_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| RunId::fresh()).collect();
        assert!(ids.len() > 990, "25 random bits a millisecond");
        assert!(ids.iter().all(|id| RunId::is_well_formed(id.as_str())));
    }

    #[test]
    fn hostile_text_is_no_run_id() {
        for text in ["", "r", "../../etc/passwd", "r0000000000000/", "b00000000000000", "R00000000000000"] {
            assert!(!RunId::is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn content_hash_is_sha256_in_hex() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(ContentHash::of(b"").as_str(), empty);
    }
}
