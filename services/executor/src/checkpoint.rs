//! Checkpoints: folders `checkpoints/step-N` under the job's folder.
//!
//! | file | holds |
//! |---|---|
//! | `model.safetensors` | the weights |
//! | `optimizer.safetensors` | the moving averages of AdamW |
//! | `state.json` | the step, the config, the tokenizer, the place in the data, the losses not reported yet |
//!
//! A folder with this name is complete: it is written under another name, synced, and then renamed. What it holds
//! is enough to sample from it without the dataset, and to go on training as if the run had never stopped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dataset::{Corpus, digest};
use crate::model::{Gpt, Shape};
use crate::tokenizer::Tokenizer;
use crate::trainer::{Meter, Saved, Trainer};

const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// The layout that this module writes; another one is not read.
const FORMAT: u32 = 1;

/// Why a checkpoint could not be written, read or gone on from.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be written or read.
    #[error("checkpoint {}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The folder's content makes no sense.
    #[error("checkpoint {}: {problem}", path.display())]
    Broken {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The job asks for another step than the folder holds.
    #[error("the checkpoint in {} is of step {found}, not of step {expected}", path.display())]
    OtherStep {
        /// The folder.
        path: PathBuf,
        /// What the job asked for.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The config changed in a place that the weights or the data's order depend on.
    #[error(
        "cannot go on from the checkpoint, because {} differ from its config: start without resumeFrom, or change them \
         back (only {} may change)",
        keys.join(", "), crate::RESUMABLE_KEYS.join(", ")
    )]
    OtherConfig {
        /// The keys.
        keys: Vec<String>,
    },
    /// The dataset is another one.
    #[error(
        "cannot go on from the checkpoint, because the examples of datasetSource are not the ones it learned"
    )]
    OtherDataset,
}

/// One file of a checkpoint, as events name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// The file's name.
    pub name: &'static str,
    /// The file's path from the job's folder.
    pub path: String,
    /// The file's size.
    pub bytes: usize,
    /// SHA-256 of the file, lower-case hex: equal for equal weights.
    pub sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    format: u32,
    step: u64,
    config: Map<String, Value>,
    shape: Shape,
    tokenizer: Tokenizer,
    data: Place,
    meter: Meter,
}

/// Where a run stands in its dataset. Everything random follows from the seed and the number of examples taken.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    sha256: String,
    seed: u64,
    taken: u64,
}

/// Writes the checkpoint of `trainer`'s step under `job`, the job's folder, in place of one of the same step.
///
/// # Errors
/// When a file cannot be written. There is no checkpoint of that name then, or the old one.
pub(crate) fn save(job: &Path, trainer: &Trainer) -> Result<Vec<Artifact>, CheckpointError> {
    let name = format!("checkpoints/step-{}", trainer.step());
    let (folder, partial) = (job.join(&name), job.join(format!("{name}.partial")));
    let config = trainer.config();
    let state = State {
        format: FORMAT,
        step: trainer.step(),
        config: config.resolved(),
        shape: trainer.model().shape(),
        tokenizer: trainer.corpus().tokenizer.clone(),
        data: Place {
            sha256: trainer.corpus().digest.clone(),
            seed: config.seed,
            taken: trainer.step() * config.batch_size as u64,
        },
        meter: trainer.meter,
    };
    let broken = |problem: String| CheckpointError::Broken { path: folder.clone(), problem };
    let weights = trainer.model().weights().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
    let optimizer = trainer.optimizer().state().map_err(|error| broken(error.to_string()))?;
    let files = [
        (WEIGHTS, tensors(weights).map_err(broken)?),
        (OPTIMIZER, tensors(optimizer).map_err(broken)?),
        (STATE, serde_json::to_vec_pretty(&state).expect("a state has only text keys and finite numbers")),
    ];
    // One that was gone on from, and stopped before the next step, is there. Between its removal and the renaming of the
    // new one there would be none.
    if !holds(&folder, &files) {
        write(&partial, &folder, &files)?;
    }
    let artifact = |(file, content): &(&'static str, Vec<u8>)| Artifact {
        name: file,
        path: format!("{name}/{file}"),
        bytes: content.len(),
        sha256: digest([content.as_slice()]),
    };
    Ok(files.iter().map(artifact).collect())
}

fn tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Vec<u8>, String> {
    safetensors::serialize(tensors, None).map_err(|error| error.to_string())
}

/// Whether `folder` has these files as they should be.
fn holds(folder: &Path, files: &[(&'static str, Vec<u8>)]) -> bool {
    files.iter().all(|(name, content)| fs::read(folder.join(name)).is_ok_and(|there| there == *content))
}

fn write(partial: &Path, folder: &Path, files: &[(&'static str, Vec<u8>)]) -> Result<(), CheckpointError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| CheckpointError::Io { path, error }
    };
    // Left by a run that was killed while it wrote.
    remove(partial).map_err(failed(partial))?;
    fs::create_dir_all(partial).map_err(failed(partial))?;
    for (name, content) in files {
        let path = partial.join(name);
        let mut file = File::create_new(&path).map_err(failed(&path))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed(&path))?;
    }
    remove(folder).map_err(failed(folder))?;
    fs::rename(partial, folder).map_err(failed(folder))?;
    let parent = folder.parent().unwrap_or(folder);
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed(parent))
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A checkpoint to sample from.
pub(crate) struct Sampled {
    pub(crate) model: Gpt,
    pub(crate) tokenizer: Tokenizer,
}

/// Reads what sampling needs of the checkpoint in `folder`.
///
/// # Errors
/// When there is no checkpoint, or it is not complete.
pub(crate) fn load_for_sampling(folder: &Path) -> Result<Sampled, CheckpointError> {
    let state = read_state(folder)?;
    let weights = read_tensors(&folder.join(WEIGHTS))?;
    let model = Gpt::load(state.shape, &weights).map_err(|error| broken(&folder.join(WEIGHTS), error))?;
    Ok(Sampled { model, tokenizer: state.tokenizer })
}

/// Reads the checkpoint of `step` in `folder`, to go on from it with `config` and `corpus`.
///
/// # Errors
/// When it is not there, not complete, of another step, or of a run that `config` cannot go on from.
pub(crate) fn load(
    folder: &Path,
    step: u64,
    config: &crate::config::JobConfig,
    corpus: &Corpus,
) -> Result<Saved, CheckpointError> {
    let state = read_state(folder)?;
    if state.step != step {
        return Err(CheckpointError::OtherStep {
            path: folder.to_owned(),
            expected: step,
            found: state.step,
        });
    }
    let keys = config.keys_that_forbid_resuming(&state.config);
    if !keys.is_empty() {
        return Err(CheckpointError::OtherConfig { keys });
    }
    if state.data.sha256 != corpus.digest {
        return Err(CheckpointError::OtherDataset);
    }
    Ok(Saved {
        step: state.step,
        meter: state.meter,
        shape: state.shape,
        weights: read_tensors(&folder.join(WEIGHTS))?,
        optimizer: read_tensors(&folder.join(OPTIMIZER))?,
    })
}

fn read_state(folder: &Path) -> Result<State, CheckpointError> {
    let path = folder.join(STATE);
    let bytes = fs::read(&path).map_err(|error| CheckpointError::Io { path: path.clone(), error })?;
    let state: State = serde_json::from_slice(&bytes).map_err(|error| broken(&path, error))?;
    if state.format != FORMAT {
        return Err(broken(&path, format!("its format is {}, this executor reads {FORMAT}", state.format)));
    }
    Ok(state)
}

fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>, CheckpointError> {
    let bytes = fs::read(path).map_err(|error| CheckpointError::Io { path: path.to_owned(), error })?;
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| broken(path, error))
}

fn broken(path: &Path, problem: impl ToString) -> CheckpointError {
    CheckpointError::Broken { path: path.to_owned(), problem: problem.to_string() }
}
