//! One job from its config to its last event: the trainer's arithmetic, and around it the events, the checkpoints
//! and the wish to stop.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value};

use crate::checkpoint::{self, Artifact, CheckpointError};
use crate::config::{ConfigError, JobConfig, RESUMABLE_KEYS};
use crate::dataset::{Corpus, DatasetError};
use crate::event::{self, Event, Log, Metrics, rounded};
use crate::job::Job;
use crate::stop::Stop;
use crate::trainer::{Diverged, Evaluation, Trainer};

/// Why a run came to no good end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The dataset is wrong.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A checkpoint could not be written, or not be gone on from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The loss or the gradient is not a number any more.
    #[error("the training diverged at step {step}: lower learningRate ({rate}), or raise warmupSteps")]
    Diverged {
        /// The step that could not be done.
        step: u64,
        /// The config's learning rate.
        rate: f64,
    },
    /// The arithmetic failed, which is a fault of the executor.
    #[error("the arithmetic failed: {0}")]
    Arithmetic(#[from] candle_core::Error),
    /// Nobody reads the events.
    #[error("nobody reads the events any more: {0}")]
    Unheard(#[source] io::Error),
}

/// How a run ended, if not in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Completed,
    /// It was asked to stop, and a checkpoint holds what was done.
    Stopped,
}

/// Runs `job` in `folder`, the job's own folder, and writes its events to `output`.
///
/// # Errors
/// See [`SessionError`]; no `training.failed` was written for it.
pub fn run(
    job: &Job,
    folder: &Path,
    project: Option<&Path>,
    stop: &Stop,
    output: &mut dyn Write,
) -> Result<Ending, SessionError> {
    let config = JobConfig::parse(&job.config)?;
    let corpus = Corpus::load(&config.dataset, project, config.max_length, config.seed)?;
    let trainer = match &job.resume_from {
        None => Trainer::new(config, corpus)?,
        Some(from) => {
            let saved = checkpoint::load(&from.dir, from.step, &config, &corpus)?;
            Trainer::resume(config, corpus, &saved)?
        }
    };
    let resumed_from = job.resume_from.as_ref().map(|from| from.step);
    let mut session = Session {
        steps: if trainer.config().dry_run { trainer.step() + 1 } else { trainer.config().max_steps },
        trainer,
        folder,
        output,
        newest: None,
        logged: None,
        since: Instant::now(),
        trained: 0,
    };
    session.started(resumed_from, &job.config)?;
    session.train(stop)
}

struct Session<'a> {
    trainer: Trainer,
    folder: &'a Path,
    output: &'a mut dyn Write,
    /// The step after which the run is complete.
    steps: u64,
    /// The newest checkpoint of this session.
    newest: Option<(u64, Vec<Artifact>)>,
    /// The last loss that was logged.
    logged: Option<f64>,
    /// When the last log was, and the steps since.
    since: Instant,
    trained: u64,
}

impl Session<'_> {
    fn train(&mut self, stop: &Stop) -> Result<Ending, SessionError> {
        while self.trainer.step() < self.steps {
            if stop.asked() {
                return self.stopped();
            }
            if let Err(Diverged) = self.trainer.advance()? {
                let rate = self.trainer.config().learning_rate;
                return Err(SessionError::Diverged { step: self.trainer.step() + 1, rate });
            }
            self.trained += 1;
            if self.trainer.step() < self.steps {
                self.after_step()?;
            }
        }
        self.completed()
    }

    /// What is due after a step that is not the last.
    fn after_step(&mut self) -> Result<(), SessionError> {
        let (step, config) = (self.trainer.step(), self.trainer.config());
        let due = |each: u64| each > 0 && step.is_multiple_of(each);
        // The first step is always logged: it says at once that the training goes.
        let (log, look, save) =
            (step == 1 || due(config.logging_steps), due(config.eval_steps), due(config.save_steps));
        let evaluation = if look { Some(self.trainer.evaluate()?) } else { None };
        if log || look {
            self.log(log, evaluation)?;
        }
        if save && !self.is_dry() {
            self.save()?;
        }
        Ok(())
    }

    fn started(&mut self, resumed_from: Option<u64>, given: &Map<String, Value>) -> Result<(), SessionError> {
        let (config, corpus) = (self.trainer.config(), self.trainer.corpus());
        let event = Event::Started {
            model: config.model.to_string(),
            parameters: self.trainer.model().parameters(),
            examples: corpus.trained(),
            held_out: corpus.held_out(),
            resumed_from,
            resumable_keys: RESUMABLE_KEYS,
            config: config.in_effect(given),
        };
        self.say(&event)
    }

    fn log(&mut self, with_loss: bool, evaluation: Option<Evaluation>) -> Result<(), SessionError> {
        let loss = if with_loss { self.trainer.meter.take().map(rounded) } else { None };
        self.logged = loss.or(self.logged);
        let samples = (self.trained * self.trainer.config().batch_size as u64) as f64;
        let samples_per_second = (samples / self.since.elapsed().as_secs_f64().max(1e-9)).round();
        (self.since, self.trained) = (Instant::now(), 0);
        let event = Event::Log(Log {
            step: self.trainer.step(),
            loss,
            eval_loss: evaluation.map(|evaluation| rounded(evaluation.loss)),
            eval_accuracy: evaluation.map(|evaluation| rounded(evaluation.accuracy)),
            learning_rate: self.trainer.learning_rate(),
            epoch: rounded(self.trainer.epoch()),
            samples_per_second,
        });
        self.say(&event)
    }

    fn save(&mut self) -> Result<Vec<Artifact>, SessionError> {
        let step = self.trainer.step();
        let artifacts = checkpoint::save(self.folder, &self.trainer)?;
        self.newest = Some((step, artifacts.clone()));
        self.say(&Event::CheckpointSaved { step, artifacts: artifacts.clone() })?;
        Ok(artifacts)
    }

    fn completed(&mut self) -> Result<Ending, SessionError> {
        let evaluation = self.trainer.evaluate()?;
        self.log(true, Some(evaluation))?;
        let dry_run = self.is_dry();
        let artifacts = if dry_run { Vec::new() } else { self.save()? };
        let metrics = Metrics {
            accuracy: rounded(evaluation.accuracy),
            held_out: evaluation.held_out,
            eval_loss: rounded(evaluation.loss),
            loss: self.logged,
            step: self.trainer.step(),
            dry_run,
        };
        self.say(&Event::Completed { artifacts, metrics })?;
        Ok(Ending::Completed)
    }

    fn stopped(&mut self) -> Result<Ending, SessionError> {
        let step = self.trainer.step();
        let saved = self.newest.as_ref().is_some_and(|(newest, _)| *newest == step);
        if step > 0 && !saved && !self.is_dry() {
            self.save()?;
        }
        let checkpoint = self.newest.as_ref().map(|(step, _)| *step);
        self.say(&Event::Stopped { step, checkpoint })?;
        Ok(Ending::Stopped)
    }

    fn say(&mut self, event: &Event) -> Result<(), SessionError> {
        event::write(self.output, event).map_err(SessionError::Unheard)
    }

    /// A dry run keeps nothing.
    fn is_dry(&self) -> bool {
        self.trainer.config().dry_run
    }
}
