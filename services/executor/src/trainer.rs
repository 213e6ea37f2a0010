//! The arithmetic of a run: steps, evaluation, and what a checkpoint has to hold.
//!
//! This is the pure core: it knows no clock, no file and no process. A step's result depends on the config, the
//! dataset and the number of the step alone, so two runs of one config end in the same bits, and so does a run that
//! was stopped and resumed.

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::config::JobConfig;
use crate::dataset::{Batch, Corpus, Order};
use crate::model::{Gpt, Shape};
use crate::ops::{self, IGNORED};
use crate::optimizer::{AdamW, Update};

/// Held-out examples that go through the model at once.
const EVALUATED_AT_ONCE: usize = 256;

/// The losses since the last one that was reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meter {
    sum: f64,
    count: u64,
}

impl Meter {
    fn add(&mut self, loss: f32) {
        self.sum += f64::from(loss);
        self.count += 1;
    }

    /// The mean since the last call; none without a step in between.
    pub(crate) fn take(&mut self) -> Option<f64> {
        let meter = std::mem::take(self);
        (meter.count > 0).then(|| meter.sum / meter.count as f64)
    }
}

/// How the model does on the held-out examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Evaluation {
    /// The mean loss.
    pub(crate) loss: f64,
    /// The share of examples whose every character the model would have written by itself.
    pub(crate) accuracy: f64,
    /// How many examples were held out.
    pub(crate) held_out: usize,
}

/// The loss or the gradient is not a number any more.
pub(crate) struct Diverged;

/// A run between two steps.
pub(crate) struct Trainer {
    config: JobConfig,
    corpus: Corpus,
    order: Order,
    model: Gpt,
    optimizer: AdamW,
    step: u64,
    pub(crate) meter: Meter,
}

/// The part of a run that a checkpoint brings back.
pub(crate) struct Saved {
    pub(crate) step: u64,
    pub(crate) meter: Meter,
    pub(crate) shape: Shape,
    pub(crate) weights: HashMap<String, Tensor>,
    pub(crate) optimizer: HashMap<String, Tensor>,
}

impl Trainer {
    /// A run before its first step.
    pub(crate) fn new(config: JobConfig, corpus: Corpus) -> Result<Self> {
        let model = Gpt::new(shape(&config, &corpus), config.seed)?;
        let optimizer = AdamW::new(model.weights());
        let order = corpus.order();
        Ok(Self { config, corpus, order, model, optimizer, step: 0, meter: Meter::default() })
    }

    /// A run right after the step of a checkpoint.
    ///
    /// # Errors
    /// When the checkpoint's tensors do not fit its shape.
    pub(crate) fn resume(config: JobConfig, corpus: Corpus, saved: &Saved) -> Result<Self> {
        let model = Gpt::load(saved.shape, &saved.weights)?;
        let optimizer = AdamW::load(model.weights(), &saved.optimizer)?;
        let order = corpus.order();
        Ok(Self { config, corpus, order, model, optimizer, step: saved.step, meter: saved.meter })
    }

    pub(crate) fn config(&self) -> &JobConfig {
        &self.config
    }

    pub(crate) fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    pub(crate) fn model(&self) -> &Gpt {
        &self.model
    }

    pub(crate) fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The number of steps that are done.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// How often every trained example was seen.
    pub(crate) fn epoch(&self) -> f64 {
        (self.step * self.config.batch_size as u64) as f64 / self.corpus.trained() as f64
    }

    /// The learning rate of the step that was done last.
    pub(crate) fn learning_rate(&self) -> f64 {
        let config = &self.config;
        config.schedule.rate(config.learning_rate, self.step, config.warmup_steps, config.max_steps)
    }

    /// Does one step.
    ///
    /// # Errors
    /// `Ok(Err(Diverged))` when the loss or the gradient is not finite; the weights are as before then.
    pub(crate) fn advance(&mut self) -> Result<std::result::Result<(), Diverged>> {
        let start = self.step * self.config.batch_size as u64;
        let batch = self.corpus.batch(&mut self.order, start, self.config.batch_size);
        let logits = self.model.forward(batch.ids, batch.length, batch.first)?;
        let loss = ops::cross_entropy(&logits, batch.targets)?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            return Ok(Err(Diverged));
        }
        let gradients = loss.backward()?;
        self.step += 1;
        let update = Update {
            step: self.step,
            rate: self.learning_rate(),
            decay: self.config.weight_decay,
            max_norm: self.config.max_grad_norm,
        };
        let norm = self.optimizer.update(self.model.weights(), &gradients, update)?;
        if !norm.is_finite() {
            self.step -= 1;
            return Ok(Err(Diverged));
        }
        self.meter.add(value);
        Ok(Ok(()))
    }

    /// Looks at the held-out examples.
    pub(crate) fn evaluate(&self) -> Result<Evaluation> {
        let mut seen = Seen::default();
        for batch in self.corpus.held_out_batches(EVALUATED_AT_ONCE) {
            self.look(batch, &mut seen)?;
        }
        let held_out = self.corpus.held_out();
        Ok(Evaluation {
            loss: seen.loss / seen.characters.max(1) as f64,
            accuracy: seen.right as f64 / held_out as f64,
            held_out,
        })
    }

    fn look(&self, batch: Batch, seen: &mut Seen) -> Result<()> {
        let per_sequence = batch.length - batch.first;
        let logits = self.model.forward(batch.ids, batch.length, batch.first)?;
        let characters = batch.targets.iter().filter(|target| **target != IGNORED).count();
        let guesses = logits.argmax(1)?.to_vec1::<u32>()?;
        let sequences = guesses.chunks_exact(per_sequence).zip(batch.targets.chunks_exact(per_sequence));
        // Where every character is right when the ones before it are given, writing them one by one is right too.
        let right = |(guesses, targets): &(&[u32], &[u32])| {
            guesses.iter().zip(*targets).all(|(guess, target)| *target == IGNORED || guess == target)
        };
        seen.right += sequences.filter(right).count();
        let loss = ops::cross_entropy(&logits, batch.targets)?.to_scalar::<f32>()?;
        seen.loss += f64::from(loss) * characters as f64;
        seen.characters += characters;
        Ok(())
    }
}

#[derive(Default)]
struct Seen {
    right: usize,
    loss: f64,
    characters: usize,
}

fn shape(config: &JobConfig, corpus: &Corpus) -> Shape {
    Shape {
        width: config.model.width,
        layers: config.model.layers,
        context: config.max_length.unwrap_or(corpus.longest),
        vocabulary: corpus.tokenizer.size(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use serde_json::{Value, json};

    use super::*;

    fn config(change: Value) -> JobConfig {
        let sums: Vec<String> =
            (0..10).flat_map(|a| (0..10).map(move |b| format!("{a}+{b}={}", a + b))).collect();
        let mut config = json!({
            "model": "tiny-gpt:16x2", "maxSteps": 40, "batchSize": 16, "learningRate": 0.01, "warmupSteps": 5, "seed": 3,
            "datasetSource": {"type": "inline", "data": sums.join("\n"), "answerAfter": "="},
        });
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        JobConfig::parse(config.as_object().unwrap()).unwrap()
    }

    fn corpus(config: &JobConfig) -> Corpus {
        Corpus::load(&config.dataset, None, None, config.seed).unwrap()
    }

    fn trainer(change: Value) -> Trainer {
        let config = config(change);
        let corpus = corpus(&config);
        Trainer::new(config, corpus).unwrap()
    }

    fn advance(trainer: &mut Trainer, steps: usize) {
        for _ in 0..steps {
            assert!(trainer.advance().unwrap().is_ok());
        }
    }

    fn weights(trainer: &Trainer) -> Vec<u32> {
        let values = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        trainer.model.weights().iter().flat_map(|(_, var)| values(var)).map(f32::to_bits).collect()
    }

    #[test]
    fn the_loss_falls_and_what_was_never_seen_is_answered() {
        let mut trainer = trainer(json!({"model": "tiny-gpt:32x1", "maxSteps": 600, "learningRate": 0.003}));
        let before = trainer.evaluate().unwrap();
        advance(&mut trainer, 600);
        let after = trainer.evaluate().unwrap();
        assert!(after.loss < 0.5 * before.loss, "{before:?} {after:?}");
        assert!(before.accuracy < 0.2 && after.accuracy > 0.5, "{before:?} {after:?}");
        assert_eq!(after.held_out, 10);
    }

    #[test]
    fn two_runs_of_one_config_end_in_the_same_bits() {
        let run = |change| {
            let mut trainer = trainer(change);
            advance(&mut trainer, 20);
            weights(&trainer)
        };
        assert_eq!(run(json!({})), run(json!({"loggingSteps": 3, "saveSteps": 7})));
        assert_ne!(run(json!({})), run(json!({"seed": 4})));
    }

    #[test]
    fn evaluating_changes_nothing() {
        let (mut looked, mut other) = (trainer(json!({})), trainer(json!({})));
        for _ in 0..10 {
            looked.evaluate().unwrap();
            advance(&mut looked, 1);
        }
        advance(&mut other, 10);
        assert_eq!(weights(&looked), weights(&other));
    }

    #[test]
    fn a_resumed_run_ends_in_the_bits_of_the_uninterrupted_one() {
        let mut whole = trainer(json!({}));
        advance(&mut whole, 13);
        let saved = Saved {
            step: whole.step,
            meter: whole.meter,
            shape: whole.model.shape(),
            weights: whole
                .model
                .weights()
                .iter()
                .map(|(name, var)| (name.clone(), var.copy().unwrap()))
                .collect(),
            optimizer: whole.optimizer.state().unwrap(),
        };
        advance(&mut whole, 17);
        let config = config(json!({}));
        let corpus = corpus(&config);
        let mut resumed = Trainer::resume(config, corpus, &saved).unwrap();
        assert_eq!(resumed.step(), 13);
        advance(&mut resumed, 17);
        assert_eq!(weights(&resumed), weights(&whole));
        assert_eq!(resumed.meter, whole.meter);
    }

    #[test]
    fn a_step_that_is_not_finite_is_not_done() {
        let mut trainer = trainer(json!({}));
        advance(&mut trainer, 1);
        let (_, head) = trainer.model.weights().last().unwrap().clone();
        head.set(&Tensor::full(f32::NAN, head.shape(), &Device::Cpu).unwrap()).unwrap();
        let before = weights(&trainer);
        assert!(trainer.advance().unwrap().is_err());
        assert_eq!((trainer.step(), weights(&trainer)), (1, before));
    }

    #[test]
    fn the_schedule_and_the_epoch_follow_the_step() {
        let mut trainer = trainer(json!({"lrSchedulerType": "linear", "maxSteps": 45}));
        advance(&mut trainer, 5);
        assert!((trainer.learning_rate() - 0.01).abs() < 1e-12);
        advance(&mut trainer, 40);
        assert!((trainer.learning_rate() - 0.01 / 40.0).abs() < 1e-12);
        assert!((trainer.epoch() - 45.0 * 16.0 / 90.0).abs() < 1e-12);
    }
}
