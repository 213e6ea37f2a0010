//! Characters to ids and back.
//!
//! Id 0 ends a text; it also stands before the first character, and fills short sequences up. The other ids are the
//! characters of the dataset in code point order, so that the same characters always get the same ids.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The id that stands before and after a text.
pub(crate) const END: u32 = 0;

/// A character that the tokenizer's dataset never had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the model has never seen the character {character:?}; it knows {known:?}")]
pub struct UnknownCharacter {
    /// The character.
    pub character: char,
    /// Every character that would be understood.
    pub known: String,
}

/// The characters of one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokenizer {
    characters: String,
}

impl Tokenizer {
    /// The tokenizer for all the characters in `texts`.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let characters: BTreeSet<char> = texts.into_iter().flat_map(str::chars).collect();
        Self { characters: characters.into_iter().collect() }
    }

    /// How many ids there are, the end included.
    pub fn size(&self) -> usize {
        self.characters.chars().count() + 1
    }

    /// The ids of `text`, without an end.
    ///
    /// # Errors
    /// When `text` has a character that the dataset did not have.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, UnknownCharacter> {
        let known: Vec<char> = self.characters.chars().collect();
        let id = |character| match known.binary_search(&character) {
            Ok(index) => Ok(index as u32 + 1),
            Err(_) => Err(UnknownCharacter { character, known: self.characters.clone() }),
        };
        text.chars().map(id).collect()
    }

    /// The character of `id`; none for the end and for ids that are not in use.
    pub fn decode(&self, id: u32) -> Option<char> {
        let index = id.checked_sub(1)?;
        self.characters.chars().nth(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back() {
        let text = "27+15=42 · ünï\u{1F600}";
        let tokenizer = Tokenizer::of([text, "0123456789"]);
        let ids = tokenizer.encode(text).unwrap();
        let back: String = ids.iter().map(|id| tokenizer.decode(*id).unwrap()).collect();
        assert_eq!(back, text);
        assert!(ids.iter().all(|id| *id != END && (*id as usize) < tokenizer.size()));
    }

    #[test]
    fn the_end_has_no_character() {
        let tokenizer = Tokenizer::of(["ab"]);
        assert_eq!(tokenizer.decode(END), None);
        assert_eq!(tokenizer.decode(3), None);
        assert_eq!(tokenizer.size(), 3);
    }

    #[test]
    fn an_unknown_character_is_named_together_with_the_known_ones() {
        let error = Tokenizer::of(["1+2=3"]).encode("1*2").unwrap_err();
        assert_eq!(error.to_string(), r#"the model has never seen the character '*'; it knows "+123=""#);
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_the_texts() {
        assert_eq!(Tokenizer::of(["ba", "c"]), Tokenizer::of(["c", "ab"]));
    }
}
