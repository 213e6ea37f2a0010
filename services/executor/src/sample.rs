//! Text from a checkpoint, character by character.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Deserialize;

use crate::checkpoint::{self, CheckpointError};
use crate::random::{Random, Stream};
use crate::tokenizer::{END, UnknownCharacter};

/// What is asked of a checkpoint.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The checkpoint's own folder.
    pub checkpoint_dir: PathBuf,
    /// The text to go on from. The model completes text and knows of no roles.
    pub prompt: String,
    /// How freely to choose: 0 always takes the likeliest character, 1 follows the model. Default 1.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Choose among the likeliest characters that together have this probability. Default 1: among all.
    #[serde(default = "one")]
    pub top_p: f64,
    /// At most so many characters. Default 256.
    #[serde(default = "enough")]
    pub max_tokens: u32,
    /// Makes a free choice repeatable. Default: another one each time.
    #[serde(default)]
    pub seed: Option<u64>,
}

fn one() -> f64 {
    1.0
}

fn enough() -> u32 {
    256
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    End,
    /// `maxTokens` was reached.
    Length,
    /// Whoever took the characters wanted no more.
    Unwanted,
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The prompt has a character that the model does not know.
    #[error(transparent)]
    Prompt(#[from] UnknownCharacter),
    /// A setting is out of its range.
    #[error("{key} is {value}: it must be {range}")]
    Setting {
        /// The request's key.
        key: &'static str,
        /// What it says.
        value: f64,
        /// What it may say.
        range: &'static str,
    },
    /// The arithmetic failed, which is a fault of the executor.
    #[error("the arithmetic failed: {0}")]
    Arithmetic(#[from] candle_core::Error),
}

/// Completes the prompt and hands each character to `take` as soon as it is chosen.
///
/// Of a prompt that is longer than the model's context, the end is used.
///
/// # Errors
/// See [`SampleError`].
pub fn sample(
    request: &Request,
    mut take: impl FnMut(char) -> ControlFlow<()>,
) -> Result<Finish, SampleError> {
    request.check()?;
    let checkpoint::Sampled { model, tokenizer } = checkpoint::load_for_sampling(&request.checkpoint_dir)?;
    let mut random = Random::new(request.seed.unwrap_or_else(any_seed), Stream::Sample);
    let mut ids = [vec![END], tokenizer.encode(&request.prompt)?].concat();
    let context = model.shape().context;
    for _ in 0..request.max_tokens {
        let seen = ids[ids.len().saturating_sub(context)..].to_vec();
        let length = seen.len();
        let logits = model.forward(seen, length, length - 1)?.flatten_all()?.to_vec1::<f32>()?;
        let id = choose(&logits, request.temperature, request.top_p, random.unit());
        let Some(character) = tokenizer.decode(id) else { return Ok(Finish::End) };
        if take(character).is_break() {
            return Ok(Finish::Unwanted);
        }
        ids.push(id);
    }
    Ok(Finish::Length)
}

impl Request {
    fn check(&self) -> Result<(), SampleError> {
        let wrong = |key, value, range| Err(SampleError::Setting { key, value, range });
        if !(0.0..=100.0).contains(&self.temperature) {
            return wrong("temperature", self.temperature, "0 to 100");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("topP", self.top_p, "above 0, and at most 1");
        }
        Ok(())
    }
}

/// A seed that is not the last one: the standard library draws the keys of its hash tables from the system.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

/// The id that a uniform `draw` from `0..1` falls on.
fn choose(logits: &[f32], temperature: f64, top_p: f64, draw: f64) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let likeliest = order[0];
    if temperature == 0.0 {
        return likeliest as u32;
    }
    let weight = |index: &usize| (f64::from(logits[*index] - logits[likeliest]) / temperature).exp();
    let total: f64 = order.iter().map(weight).sum();
    let mut kept = 0.0;
    let mut count = 0;
    while count < order.len() && kept < top_p * total {
        kept += weight(&order[count]);
        count += 1;
    }
    let mut rest = draw * kept;
    for index in &order[..count] {
        rest -= weight(index);
        if rest < 0.0 {
            return *index as u32;
        }
    }
    order[count - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.5, 0.3, 0.2 for the ids 1, 0, 2.
    fn logits() -> [f32; 3] {
        [0.3_f32.ln(), 0.5_f32.ln(), 0.2_f32.ln()]
    }

    #[test]
    fn a_temperature_of_zero_takes_the_likeliest() {
        for draw in [0.0, 0.5, 0.999] {
            assert_eq!(choose(&logits(), 0.0, 1.0, draw), 1);
        }
    }

    #[test]
    fn a_draw_falls_by_probability() {
        let chosen = |draw| choose(&logits(), 1.0, 1.0, draw);
        assert_eq!([0.0, 0.49, 0.51, 0.79, 0.81, 0.999].map(chosen), [1, 1, 0, 0, 2, 2]);
    }

    #[test]
    fn top_p_leaves_out_the_unlikely_ones() {
        assert_eq!(choose(&logits(), 1.0, 0.4, 0.999), 1);
        assert_eq!(choose(&logits(), 1.0, 0.75, 0.999), 0);
        assert_eq!(
            choose(&logits(), 1.0, 0.75, 0.62),
            1,
            "of 0.5 and 0.3, 0.62 of the sum falls on the first"
        );
        assert_eq!(choose(&logits(), 1.0, 1.0, 0.999), 2);
    }

    #[test]
    fn a_low_temperature_sharpens_and_a_high_one_flattens() {
        assert_eq!(choose(&logits(), 0.1, 1.0, 0.95), 1);
        assert_eq!(choose(&logits(), 100.0, 1.0, 0.4), 0, "at 0.34, 0.33 and 0.33");
    }

    #[test]
    fn settings_out_of_range_are_refused_before_anything_is_read() {
        let request = |text: &str| serde_json::from_str::<Request>(text).unwrap();
        let refused = |text| sample(&request(text), |_| ControlFlow::Continue(())).unwrap_err().to_string();
        let text = refused(r#"{"checkpointDir":"nowhere","prompt":"","temperature":-1}"#);
        assert_eq!(text, "temperature is -1: it must be 0 to 100");
        let text = refused(r#"{"checkpointDir":"nowhere","prompt":"","topP":0}"#);
        assert_eq!(text, "topP is 0: it must be above 0, and at most 1");
        assert!(refused(r#"{"checkpointDir":"nowhere","prompt":""}"#).starts_with("checkpoint nowhere"));
    }
}
