//! Where the examples come from, which of them are held out, and which are in the batch of a step.
//!
//! A dataset is named by its content. An `inline` source carries the examples in the config itself: the config's
//! hash then changes exactly when the examples do, no path of one machine gets into it, and a control plane
//! elsewhere can run the job. A few hundred kilobytes are fine that way. What is larger stays in a file
//! (`{"type":"blob","url":"file:///…"}`), and `sha256` ties the config to the file's content.
//!
//! An example that occurs twice is never in both halves of the split: held out means never trained on.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::Digest as _;

use crate::ops::IGNORED;
use crate::random::{Random, Stream};
use crate::tokenizer::{END, Tokenizer};

/// The largest dataset, in bytes.
const LARGEST: u64 = 64 << 20;

/// Most examples that are held out.
const MOST_HELD_OUT: usize = 1_000;

/// Why a dataset cannot be learned from.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file is not there or cannot be read.
    #[error("cannot read the dataset {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is not the one that the config means.
    #[error("the dataset {} has the SHA-256 {found}, the config says {expected}: the file has changed", path.display())]
    OtherContent {
        /// The file.
        path: PathBuf,
        /// The digest that the config names.
        expected: String,
        /// The digest of what is there.
        found: String,
    },
    /// A relative path, and nobody said relative to what.
    #[error(
        "the dataset's path {0:?} is relative, but the job does not say where its project is: use a file:/// URL, or \
         set MIDRUN_PROJECT_DIR for the executor"
    )]
    NoProjectFolder(String),
    /// One line makes no example.
    #[error("line {line} of the dataset: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Too few examples to hold one out.
    #[error("the dataset has {0} different examples; at least 2 are needed, so that one can be held out")]
    TooSmall(usize),
    /// An example is longer than the model's context.
    #[error(
        "an example needs {longest} positions (its characters and one for the end), but maxLength is {limit}"
    )]
    TooLong {
        /// What the longest example needs.
        longest: usize,
        /// What there is.
        limit: usize,
    },
}

/// `datasetSource`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    place: Place,
    format: Option<Format>,
    answer_after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Inline(String),
    File { url: String, sha256: Option<String> },
}

/// How the text is divided into examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Each line is an example.
    Lines,
    /// Each line is `{"prompt","completion"}` or `{"text"}`.
    Jsonl,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SourceKeys {
    r#type: String,
    data: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
    format: Option<Format>,
    answer_after: Option<String>,
}

/// One example: only the completion is learned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    #[serde(default)]
    prompt: String,
    #[serde(alias = "text")]
    completion: String,
}

impl Source {
    /// Reads `datasetSource` as it stands in a config.
    ///
    /// # Errors
    /// A sentence that says which key is wrong.
    pub fn parse(source: &Value) -> Result<Self, String> {
        let keys = SourceKeys::deserialize(source).map_err(|error| error.to_string())?;
        let place = match (keys.r#type.as_str(), keys.data, keys.url, keys.sha256) {
            ("inline", Some(data), None, None) => Place::Inline(data),
            ("inline", ..) => {
                return Err("type \"inline\" has `data`, and neither `url` nor `sha256`".to_owned());
            }
            ("blob", None, Some(url), sha256) => Place::File { url: checked(url)?, sha256 },
            ("blob", ..) => return Err("type \"blob\" has `url`, and no `data`".to_owned()),
            (other, ..) => {
                return Err(format!(
                    "type {other:?} is unknown: this executor reads \"inline\" and \"blob\""
                ));
            }
        };
        if keys.answer_after.as_ref().is_some_and(String::is_empty) {
            return Err("answerAfter is empty".to_owned());
        }
        Ok(Self { place, format: keys.format, answer_after: keys.answer_after })
    }

    /// A source without any examples.
    pub(crate) fn nothing() -> Self {
        Self { place: Place::Inline(String::new()), format: None, answer_after: None }
    }

    fn format(&self) -> Format {
        let by_name = match &self.place {
            Place::File { url, .. } if url.ends_with(".jsonl") => Format::Jsonl,
            _ => Format::Lines,
        };
        self.format.unwrap_or(by_name)
    }

    /// The dataset's text.
    fn text(&self, project: Option<&Path>) -> Result<String, DatasetError> {
        let (url, sha256) = match &self.place {
            Place::Inline(data) => return Ok(data.clone()),
            Place::File { url, sha256 } => (url, sha256),
        };
        let path = match (url.strip_prefix("file://"), project) {
            (Some(path), _) => PathBuf::from(percent_decoded(path)),
            (None, _) if Path::new(url).is_absolute() => PathBuf::from(url),
            (None, Some(project)) => project.join(url),
            (None, None) => return Err(DatasetError::NoProjectFolder(url.clone())),
        };
        let bytes = read(&path).map_err(|error| DatasetError::Unreadable { path: path.clone(), error })?;
        let found = digest([bytes.as_slice()]);
        if let Some(expected) = sha256.as_ref().filter(|expected| !expected.eq_ignore_ascii_case(&found)) {
            return Err(DatasetError::OtherContent { path, expected: expected.clone(), found });
        }
        String::from_utf8(bytes).map_err(|error| DatasetError::Unreadable {
            path,
            error: std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()),
        })
    }

    fn examples(&self, text: &str) -> Result<Vec<Example>, DatasetError> {
        let format = self.format();
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let example = |(index, line): (usize, &str)| {
            let example = match (format, &self.answer_after) {
                (Format::Jsonl, _) => serde_json::from_str(line).map_err(|error| error.to_string()),
                (Format::Lines, None) => Ok(Example { prompt: String::new(), completion: line.to_owned() }),
                (Format::Lines, Some(mark)) => match line.split_once(mark.as_str()) {
                    Some((prompt, completion)) => {
                        Ok(Example { prompt: format!("{prompt}{mark}"), completion: completion.to_owned() })
                    }
                    None => Err(format!("there is no {mark:?} in {line:?}, which answerAfter asks for")),
                },
            };
            example.map_err(|problem| DatasetError::Line { line: index + 1, problem })
        };
        lines.map(example).collect()
    }
}

fn checked(url: String) -> Result<String, String> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        None => Ok(url),
        Some("file") if url.starts_with("file:///") => Ok(url),
        Some("file") => Err(format!("{url:?} names another machine: a file URL starts with file:///")),
        Some(_) => Err(format!("{url:?}: this executor reads files only; download it first")),
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("it is larger than {} MiB", LARGEST >> 20),
        ));
    }
    Ok(bytes)
}

/// `%20` and the like of a URL's path, undone. What is no escape stays as it is.
fn percent_decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = path_escape(first, after);
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn path_escape(first: u8, after: &[u8]) -> Option<u8> {
    let digits = after.get(..2).filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit))?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// SHA-256 of `parts`, one after the other, in lower-case hex.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An example as ids, with the end before and after it.
struct Sequence {
    ids: Vec<u32>,
    /// The first position whose next id is learned.
    first: usize,
}

/// A dataset that is ready to be trained on.
pub(crate) struct Corpus {
    pub(crate) tokenizer: Tokenizer,
    /// SHA-256 over the examples: two corpora with the same digest and seed give the same batches.
    pub(crate) digest: String,
    train: Vec<Sequence>,
    held_out: Vec<Sequence>,
    /// Positions that the longest example needs.
    pub(crate) longest: usize,
    seed: u64,
}

/// What goes into the model at once: `ids` holds sequences of `length`; `targets` holds, for each of them, the
/// positions from `first` on.
pub(crate) struct Batch {
    pub(crate) ids: Vec<u32>,
    pub(crate) length: usize,
    pub(crate) first: usize,
    pub(crate) targets: Vec<u32>,
}

impl Corpus {
    /// Reads `source`, divides it by `seed`, and checks that every example fits into `limit` positions. A relative
    /// path is taken from `project`.
    pub(crate) fn load(
        source: &Source,
        project: Option<&Path>,
        limit: Option<usize>,
        seed: u64,
    ) -> Result<Self, DatasetError> {
        let examples = source.examples(&source.text(project)?)?;
        let texts = || examples.iter().flat_map(|example| [&example.prompt, &example.completion]);
        let tokenizer = Tokenizer::of(texts().map(String::as_str));
        let digest = digest(texts().flat_map(|text| [text.as_bytes(), b"\0"]));
        let different: BTreeSet<&Example> = examples.iter().collect();
        if different.len() < 2 {
            return Err(DatasetError::TooSmall(different.len()));
        }
        let different: Vec<&Example> = different.into_iter().collect();
        let order = Random::new(seed, Stream::Split).order(different.len());
        let count = (different.len() / 10).clamp(1, MOST_HELD_OUT);
        let held_out: BTreeSet<&Example> =
            order.into_iter().take(count).map(|index| different[index]).collect();
        let sequence = |example: &Example| Sequence::of(&tokenizer, example);
        let train: Vec<_> =
            examples.iter().filter(|example| !held_out.contains(example)).map(sequence).collect();
        let held_out: Vec<_> = held_out.into_iter().map(sequence).collect();
        let longest = train.iter().chain(&held_out).map(Sequence::positions).max().unwrap_or(1);
        match limit {
            Some(limit) if longest > limit => Err(DatasetError::TooLong { longest, limit }),
            _ => Ok(Self { tokenizer, digest, train, held_out, longest, seed }),
        }
    }

    /// How many examples are trained on.
    pub(crate) fn trained(&self) -> usize {
        self.train.len()
    }

    /// How many examples are held out.
    pub(crate) fn held_out(&self) -> usize {
        self.held_out.len()
    }

    /// The order in which a run takes the examples, from its first step on.
    pub(crate) fn order(&self) -> Order {
        Order { seed: self.seed, count: self.train.len(), epoch: None }
    }

    /// The `size` examples from the `start`-th of `order` on. Every epoch has every example once.
    pub(crate) fn batch(&self, order: &mut Order, start: u64, size: usize) -> Batch {
        let chosen: Vec<_> =
            (start..start + size as u64).map(|index| &self.train[order.example(index)]).collect();
        Batch::of(chosen.into_iter())
    }

    /// The held-out examples, at most `size` at once.
    pub(crate) fn held_out_batches(&self, size: usize) -> impl Iterator<Item = Batch> {
        self.held_out.chunks(size).map(|chunk| Batch::of(chunk.iter()))
    }
}

/// Which example comes when: a pure function of the seed, with the newest epoch kept.
pub(crate) struct Order {
    seed: u64,
    count: usize,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// Which of the trained examples is the `index`-th of the run.
    fn example(&mut self, index: u64) -> usize {
        let (epoch, place) = (index / self.count as u64, (index % self.count as u64) as usize);
        match &self.epoch {
            Some((current, order)) if *current == epoch => order[place],
            _ => {
                let order = Random::new(self.seed, Stream::Epoch(epoch)).order(self.count);
                let example = order[place];
                self.epoch = Some((epoch, order));
                example
            }
        }
    }
}

impl Sequence {
    fn of(tokenizer: &Tokenizer, example: &Example) -> Self {
        let encode = |text| tokenizer.encode(text).expect("the tokenizer was made from all the examples");
        let (prompt, completion) = (encode(&example.prompt), encode(&example.completion));
        let first = prompt.len();
        let ids = [vec![END], prompt, completion, vec![END]].concat();
        Self { ids, first }
    }

    fn positions(&self) -> usize {
        self.ids.len() - 1
    }

    /// The id to be learned at `position`.
    fn target(&self, position: usize) -> u32 {
        match self.ids.get(position + 1) {
            Some(id) if position >= self.first => *id,
            _ => IGNORED,
        }
    }
}

impl Batch {
    fn of<'a>(sequences: impl Iterator<Item = &'a Sequence> + Clone) -> Self {
        let length = sequences.clone().map(Sequence::positions).max().unwrap_or(1);
        let first = sequences.clone().map(|sequence| sequence.first).min().unwrap_or(0);
        let mut ids = Vec::new();
        let mut targets = Vec::new();
        for sequence in sequences {
            ids.extend((0..length).map(|position| sequence.ids.get(position).copied().unwrap_or(END)));
            targets.extend((first..length).map(|position| sequence.target(position)));
        }
        Self { ids, length, first, targets }
    }
}

#[cfg(test)]
mod tests;
