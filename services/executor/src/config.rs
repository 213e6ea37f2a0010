//! The job config: what the keys mean, and what is wrong with them.
//!
//! Nothing is ignored. A key that is not in [`KEYS`] and a value that makes no sense are reported, all of them at
//! once, before anything is trained: a misspelt `learningrate` must not cost a run.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::dataset::Source;
use crate::schedule::Schedule;

/// Every key that this executor knows, in the order in which they are listed to a person.
pub const KEYS: &[&str] = &[
    "model",
    "datasetSource",
    "maxSteps",
    "learningRate",
    "batchSize",
    "saveSteps",
    "evalSteps",
    "loggingSteps",
    "warmupSteps",
    "weightDecay",
    "optim",
    "lrSchedulerType",
    "maxLength",
    "maxGradNorm",
    "seed",
    "dryRun",
];

/// The keys that may differ between a checkpoint's config and the config of the run that goes on from it. A change
/// of any other key asks for a run from the start, because the weights or the order of the data would not fit.
pub const RESUMABLE_KEYS: &[&str] = &[
    "maxSteps",
    "learningRate",
    "saveSteps",
    "evalSteps",
    "loggingSteps",
    "warmupSteps",
    "weightDecay",
    "lrSchedulerType",
    "maxGradNorm",
];

/// Keys of the contract that mean something to other executors only.
const ADAPTER_KEYS: &[&str] = &["loraR", "loraAlpha"];

/// Everything that is wrong with a config.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}", problems.join("; "))]
pub struct ConfigError {
    /// One sentence for each problem, each with the key's name.
    pub problems: Vec<String>,
}

/// The size of the model: `tiny-gpt` or `tiny-gpt:WIDTHxLAYERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSize {
    /// Values per position: a multiple of 16, at most 512.
    pub width: usize,
    /// Number of blocks: at most 12.
    pub layers: usize,
}

const FAMILY: &str = "tiny-gpt";

impl ModelSize {
    fn parse(name: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "model {name:?} is unknown: this executor trains {FAMILY:?} (the same as \"{FAMILY}:64x1\") or \
                 \"{FAMILY}:WIDTHxLAYERS\", with a width of 16 to 512 that is a multiple of 16 and 1 to 12 layers"
            )
        };
        let size = match name.split_once(':') {
            None if name == FAMILY => Self { width: 64, layers: 1 },
            Some((FAMILY, size)) => {
                let (width, layers) = size.split_once('x').ok_or_else(unknown)?;
                let number = |text: &str| text.parse::<usize>().map_err(|_| unknown());
                Self { width: number(width)?, layers: number(layers)? }
            }
            _ => return Err(unknown()),
        };
        let fits = size.width.is_multiple_of(16)
            && (16..=512).contains(&size.width)
            && (1..=12).contains(&size.layers);
        if fits { Ok(size) } else { Err(unknown()) }
    }
}

impl std::fmt::Display for ModelSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{FAMILY}:{}x{}", self.width, self.layers)
    }
}

/// A config without anything unknown or impossible in it, defaults filled in.
#[derive(Clone, Debug)]
pub struct JobConfig {
    /// `model`; default `tiny-gpt`.
    pub model: ModelSize,
    /// `datasetSource`; has no default.
    pub dataset: Source,
    /// `maxSteps`, default 1,000: the step after which the run is complete.
    pub max_steps: u64,
    /// `learningRate`, default 0.003: the peak of the schedule.
    pub learning_rate: f64,
    /// `batchSize`, default 64: examples per step.
    pub batch_size: usize,
    /// `saveSteps`, default 500: a checkpoint each so many steps; 0 saves at the end only.
    pub save_steps: u64,
    /// `evalSteps`, default 500: a look at the held-out examples each so many steps; 0 looks at the end only.
    pub eval_steps: u64,
    /// `loggingSteps`, default 10: a `training.log` each so many steps, at least 1.
    pub logging_steps: u64,
    /// `warmupSteps`, default 0: steps over which the learning rate rises to its peak.
    pub warmup_steps: u64,
    /// `weightDecay`, default 0.01.
    pub weight_decay: f64,
    /// `lrSchedulerType`, default `cosine`.
    pub schedule: Schedule,
    /// `maxLength`: most positions of one sequence, which is its characters and one for the end. Absent: as many
    /// as the longest example needs.
    pub max_length: Option<usize>,
    /// `maxGradNorm`, default 1: gradients longer than this are scaled down to it; 0 leaves them.
    pub max_grad_norm: f64,
    /// `seed`, default 0: decides the first weights, the held-out examples and the order of the others.
    pub seed: u64,
    /// `dryRun`: check everything, train one step, save nothing.
    pub dry_run: bool,
}

impl JobConfig {
    /// Reads a config as it stands on the wire. A `null` is the same as an absent key.
    ///
    /// # Errors
    /// With every unknown key and every value that cannot be used.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, ConfigError> {
        let mut reader = Reader { config, problems: Vec::new() };
        reader.refuse_unknown_keys();
        let model = reader.text("model", FAMILY);
        let model = reader.usable(ModelSize::parse(&model));
        let dataset = match config.get("datasetSource") {
            None | Some(Value::Null) => Err("datasetSource is missing: say what to learn from".to_owned()),
            Some(source) => Source::parse(source).map_err(|problem| format!("datasetSource: {problem}")),
        };
        let dataset = reader.usable(dataset);
        let optim = reader.text("optim", "adamw");
        let optim = match optim.as_str() {
            "adamw" | "adamw_torch" | "adamw_hf" => Ok(()),
            _ => Err(format!("optim {optim:?} is unknown: this executor has \"adamw\"")),
        };
        reader.usable(optim);
        let schedule = reader.text("lrSchedulerType", "cosine");
        let schedule = Schedule::deserialize(Value::from(schedule.as_str())).map_err(|_| {
            format!(
                "lrSchedulerType {schedule:?} is unknown: this executor has \"constant\", \"linear\" and \"cosine\""
            )
        });
        let schedule = reader.usable(schedule);
        let max_length = reader.whole("maxLength", 0, 0..=MOST_POSITIONS) as usize;
        let numbers = Self {
            model: model.unwrap_or(ModelSize { width: 64, layers: 1 }),
            dataset: dataset.unwrap_or_else(Source::nothing),
            max_steps: reader.whole("maxSteps", 1_000, 1..=MOST_STEPS),
            learning_rate: reader.real("learningRate", 0.003, 0.0..=10.0),
            batch_size: reader.whole("batchSize", 64, 1..=65_536) as usize,
            save_steps: reader.whole("saveSteps", 500, 0..=MOST_STEPS),
            eval_steps: reader.whole("evalSteps", 500, 0..=MOST_STEPS),
            logging_steps: reader.whole("loggingSteps", 10, 1..=MOST_STEPS),
            warmup_steps: reader.whole("warmupSteps", 0, 0..=MOST_STEPS),
            weight_decay: reader.real("weightDecay", 0.01, 0.0..=10.0),
            schedule: schedule.unwrap_or(Schedule::Constant),
            max_length: (max_length > 0).then_some(max_length),
            max_grad_norm: reader.real("maxGradNorm", 1.0, 0.0..=1e6),
            seed: reader.whole("seed", 0, 0..=MOST_STEPS),
            dry_run: reader.truth("dryRun"),
        };
        if reader.problems.is_empty() { Ok(numbers) } else { Err(ConfigError { problems: reader.problems }) }
    }

    /// The config with its defaults, as a checkpoint keeps it. The dataset is not in it: a checkpoint keeps the
    /// dataset's digest.
    pub(crate) fn resolved(&self) -> Map<String, Value> {
        let resolved = json!({
            "model": self.model.to_string(),
            "maxSteps": self.max_steps,
            "learningRate": self.learning_rate,
            "batchSize": self.batch_size,
            "saveSteps": self.save_steps,
            "evalSteps": self.eval_steps,
            "loggingSteps": self.logging_steps,
            "warmupSteps": self.warmup_steps,
            "weightDecay": self.weight_decay,
            "optim": "adamw",
            "lrSchedulerType": self.schedule,
            "maxLength": self.max_length,
            "maxGradNorm": self.max_grad_norm,
            "seed": self.seed,
        });
        match resolved {
            Value::Object(map) => map,
            _ => unreachable!("it was written as an object just above"),
        }
    }

    /// The config in effect, as others compare it with what they asked for: a text with several names (`adamw_torch`
    /// is `adamw`) stands as it was `given`.
    pub(crate) fn in_effect(&self, given: &Map<String, Value>) -> Map<String, Value> {
        let mut config = self.resolved();
        config.insert("dryRun".to_owned(), self.dry_run.into());
        let texts = given.iter().filter(|(key, value)| value.is_string() && config.contains_key(*key));
        let texts: Vec<_> = texts.map(|(key, text)| (key.clone(), text.clone())).collect();
        config.extend(texts);
        config
    }

    /// The keys in which `self` and a checkpoint's config differ though they may not.
    pub(crate) fn keys_that_forbid_resuming(&self, saved: &Map<String, Value>) -> Vec<String> {
        let resolved = self.resolved();
        let fixed = resolved.iter().filter(|(key, _)| !RESUMABLE_KEYS.contains(&key.as_str()));
        let other = fixed.filter(|(key, value)| saved.get(*key) != Some(*value)).map(|(key, _)| key.clone());
        // A dry run saves no checkpoint, so there is none to go on from by another.
        other.chain(self.dry_run.then(|| "dryRun".to_owned())).collect()
    }
}

/// Numbers above this are not exact in JavaScript, where the configs come from.
const MOST_STEPS: u64 = (1 << 53) - 1;

/// The longest sequence: attention's work grows with its square.
const MOST_POSITIONS: u64 = 4_096;

struct Reader<'a> {
    config: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn refuse_unknown_keys(&mut self) {
        let present = |key: &&String| !self.config[key.as_str()].is_null();
        let (adapter, other): (Vec<&String>, Vec<&String>) =
            self.config.keys().filter(present).partition(|key| ADAPTER_KEYS.contains(&key.as_str()));
        let unknown: Vec<_> = other.into_iter().filter(|key| !KEYS.contains(&key.as_str())).collect();
        let list = |keys: &[&String]| keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
        let mut problems = Vec::new();
        if !unknown.is_empty() {
            let keys = if unknown.len() == 1 { "key" } else { "keys" };
            problems.push(format!(
                "unknown config {keys} {}; this executor knows {}",
                list(&unknown),
                KEYS.join(", ")
            ));
        }
        if !adapter.is_empty() {
            problems.push(format!(
                "{}: this executor trains every weight and has no adapters; take it out of the config, or use an \
                 executor of your own (`command` in the settings)",
                list(&adapter)
            ));
        }
        self.problems.extend(problems);
    }

    fn value(&self, key: &str) -> Option<&Value> {
        debug_assert!(KEYS.contains(&key), "{key} is read but not listed");
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn usable<T>(&mut self, value: Result<T, String>) -> Option<T> {
        value.map_err(|problem| self.problems.push(problem)).ok()
    }

    fn text(&mut self, key: &str, default: &str) -> String {
        match self.value(key) {
            None => default.to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => {
                let problem = format!("{key} is {other}, not a text");
                self.problems.push(problem);
                default.to_owned()
            }
        }
    }

    fn truth(&mut self, key: &str) -> bool {
        match self.value(key) {
            None => false,
            Some(Value::Bool(truth)) => *truth,
            Some(other) => {
                let problem = format!("{key} is {other}, not true or false");
                self.problems.push(problem);
                false
            }
        }
    }

    fn whole(&mut self, key: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let Some(value) = self.value(key) else { return default };
        let whole = |number: f64| (number.fract() == 0.0 && number >= 0.0).then_some(number as u64);
        match value
            .as_u64()
            .or_else(|| value.as_f64().and_then(whole))
            .filter(|number| range.contains(number))
        {
            Some(number) => number,
            None => {
                let problem = match *range.end() {
                    MOST_STEPS => format!("{key} is {value}, not a whole number from {} up", range.start()),
                    end => format!("{key} is {value}, not a whole number from {} to {end}", range.start()),
                };
                self.problems.push(problem);
                default
            }
        }
    }

    fn real(&mut self, key: &str, default: f64, range: std::ops::RangeInclusive<f64>) -> f64 {
        let Some(value) = self.value(key) else { return default };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let problem =
                    format!("{key} is {value}, not a number from {} to {}", range.start(), range.end());
                self.problems.push(problem);
                default
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(config: Value) -> Result<JobConfig, ConfigError> {
        JobConfig::parse(config.as_object().unwrap())
    }

    fn problem(config: Value) -> String {
        parse(config).unwrap_err().to_string()
    }

    fn source() -> Value {
        json!({"type": "inline", "data": "1+1=2"})
    }

    #[test]
    fn defaults_are_filled_in_and_null_is_absent() {
        let config = parse(json!({"datasetSource": source(), "maxSteps": null, "seed": null})).unwrap();
        assert_eq!(config.model, ModelSize { width: 64, layers: 1 });
        assert_eq!((config.max_steps, config.batch_size, config.seed), (1_000, 64, 0));
        assert_eq!(config.schedule, Schedule::Cosine);
    }

    #[test]
    fn an_unknown_key_is_named_together_with_the_known_ones() {
        let text = problem(json!({"datasetSource": source(), "learningrate": 1, "colour": "red"}));
        assert!(
            text.starts_with("unknown config keys learningrate, colour; this executor knows model, "),
            "{text}"
        );
        assert!(text.contains("learningRate") && text.ends_with("dryRun"), "{text}");
    }

    #[test]
    fn adapters_are_refused_with_their_own_reason() {
        let text = problem(json!({"datasetSource": source(), "loraR": 8, "loraAlpha": 16}));
        assert!(text.starts_with("loraR, loraAlpha: this executor trains every weight"), "{text}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = json!({
            "model": "gpt-9", "maxSteps": 0, "learningRate": "fast", "batchSize": 1.5, "dryRun": "yes",
            "optim": "sgd", "lrSchedulerType": "polynomial", "weightDecay": -1,
        });
        let problems = parse(config).unwrap_err().problems;
        for key in [
            "model",
            "datasetSource",
            "maxSteps",
            "learningRate",
            "batchSize",
            "dryRun",
            "optim",
            "lrSchedulerType",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key}: {problems:?}");
        }
        assert_eq!(problems.len(), 9);
    }

    #[test]
    fn models() {
        let size = |name| ModelSize::parse(name).map(|size| (size.width, size.layers));
        assert_eq!(size("tiny-gpt"), Ok((64, 1)));
        assert_eq!(size("tiny-gpt:48x1"), Ok((48, 1)));
        assert_eq!(size("tiny-gpt:128x4"), Ok((128, 4)));
        for wrong in
            ["tiny-gpt:", "tiny-gpt:48", "tiny-gpt:50x1", "tiny-gpt:48x0", "tiny-gpt:1024x1", "gpt", ""]
        {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_whole_number_may_be_spelled_with_a_fraction_of_zero() {
        assert_eq!(parse(json!({"datasetSource": source(), "maxSteps": 2000.0})).unwrap().max_steps, 2_000);
    }

    #[test]
    fn only_resumable_keys_may_change_on_resuming() {
        let saved = parse(json!({"datasetSource": source()})).unwrap().resolved();
        let next = |change: Value| {
            let mut config = json!({"datasetSource": source()});
            config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            parse(config).unwrap().keys_that_forbid_resuming(&saved)
        };
        assert_eq!(
            next(json!({"learningRate": 0.1, "maxSteps": 7, "loggingSteps": 3})),
            Vec::<String>::new()
        );
        assert_eq!(next(json!({"model": "tiny-gpt:32x2", "seed": 1})), ["model", "seed"]);
        assert_eq!(next(json!({"batchSize": 8, "learningRate": 0.1})), ["batchSize"]);
        assert_eq!(next(json!({"dryRun": true})), ["dryRun"]);
    }

    #[test]
    fn every_key_is_either_resumable_or_compared() {
        let saved = parse(json!({"datasetSource": source()})).unwrap().resolved();
        for key in KEYS.iter().filter(|key| !RESUMABLE_KEYS.contains(key)) {
            // The dataset is compared by its digest, dryRun on its own.
            assert!(saved.contains_key(*key) || ["datasetSource", "dryRun"].contains(key), "{key}");
        }
    }

    #[test]
    fn the_config_in_effect_has_the_defaults_and_the_names_that_were_given() {
        let given = json!({
            "datasetSource": source(), "learningRate": 0.5, "maxSteps": 2000.0, "optim": "adamw_torch",
            "lrSchedulerType": "constant_with_warmup", "maxLength": null,
        });
        let given = given.as_object().unwrap();
        let config = Value::from(JobConfig::parse(given).unwrap().in_effect(given));
        for (key, value) in [
            ("learningRate", json!(0.5)),
            ("maxSteps", json!(2000)),
            ("optim", json!("adamw_torch")),
            ("lrSchedulerType", json!("constant_with_warmup")),
            ("model", json!("tiny-gpt:64x1")),
            ("maxLength", json!(null)),
            ("dryRun", json!(false)),
            ("datasetSource", Value::Null),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
        assert_eq!(config.as_object().unwrap().len(), KEYS.len() - 1, "all but the dataset");
    }

    #[test]
    fn resumable_keys_are_known_keys() {
        assert!(RESUMABLE_KEYS.iter().all(|key| KEYS.contains(key)));
    }
}
