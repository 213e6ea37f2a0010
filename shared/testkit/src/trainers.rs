//! The trainers that tests run: one written by hand, which trains nothing and has full control of when what happens,
//! and one made by `createTrainer`, which trains a tiny model for real.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::stage::Flag;

/// Which abilities a hand-written trainer has, and under which names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brands {
    /// `midrun.trainer.*`.
    Midrun,
    /// `arkor.trainer.*`.
    Arkor,
    /// None: only `start`, `wait` and `cancel`.
    None,
}

/// When a hand-written trainer has a checkpoint.
#[derive(Debug, Clone)]
pub enum Checkpoints {
    /// Each so many steps.
    Every(u32),
    /// With the first step after the flag was raised.
    After(Flag),
}

/// A hand-written trainer that counts steps and calls `onTick` with each. It prints `REPLACED`, `EARLY-STOP-ASKED`,
/// `CHECKPOINT step` and `CANCELLED` when these things happen, and its callbacks print `TICK tag step`.
#[derive(Debug, Clone)]
pub struct Ticker {
    /// The trainer's name.
    pub name: String,
    /// Its abilities.
    pub brands: Brands,
    /// `learningRate` in its config.
    pub learning_rate: f64,
    /// Milliseconds a step.
    pub step_ms: u32,
    /// The step after which it ends by itself; 0 for never.
    pub steps: u32,
    /// When it can stop.
    pub checkpoints: Checkpoints,
    /// What a runner waits for while it imports the module; an inspection does not wait.
    pub armed_by: Option<Flag>,
    /// More code at the end of the module.
    pub module_code: String,
    /// More code in `start()`.
    pub start_code: String,
    /// More imports: names of modules beside the entry that export a number of the same name.
    pub numbers: Vec<String>,
}

impl Default for Ticker {
    fn default() -> Self {
        Self {
            name: "ticker".to_owned(),
            brands: Brands::Midrun,
            learning_rate: 0.001,
            step_ms: 5,
            steps: 0,
            checkpoints: Checkpoints::Every(10),
            armed_by: None,
            module_code: String::new(),
            start_code: String::new(),
            numbers: Vec::new(),
        }
    }
}

const TICKER: &str = r#"import { existsSync } from "node:fs";
import { onTick } from "./callbacks";

type Callbacks = { onTick: (step: number) => unknown };
let callbacks: Callbacks = { onTick };
let stopAsked = false;
let cancelled = false;
let settleStop = () => {};
const stopped = new Promise<void>((settle) => (settleStop = settle));
const pause = (ms: number) => new Promise((settle) => setTimeout(settle, ms));
const config = { model: "none", datasetSource: { type: "inline", data: "" }, learningRate: LEARNING_RATE };
const jobId = "job-" + process.pid;

export const trainer = {
  name: NAME,
  start: async () => {
    START_CODE
    return { jobId };
  },
  wait: async () => {
    for (let step = 1; !cancelled; step++) {
      await pause(STEP_MS);
      callbacks.onTick(step);
      if (stopAsked && (CHECKPOINT)) {
        console.log("CHECKPOINT " + step);
        break;
      }
      if (step === STEPS) break;
    }
    settleStop();
    return { job: { id: jobId, status: cancelled || stopAsked ? "cancelled" : "completed" }, artifacts: [] };
  },
  cancel: async () => {
    console.log("CANCELLED");
    cancelled = true;
  },
};
"#;

const BRANDS: &str = r#"
const brand = (name: string, value: unknown) =>
  Object.defineProperty(trainer, Symbol.for("FAMILY.trainer." + name), { value, configurable: true });
brand("inspect", () => ({ name: trainer.name, config, callbacks: { onTick } }));
brand("replaceCallbacks", (next: Callbacks) => {
  console.log("REPLACED");
  callbacks = next;
});
brand("requestEarlyStop", () => {
  console.log("EARLY-STOP-ASKED");
  stopAsked = true;
  return stopped;
});
"#;

const GATE: &str = r#"
if (process.env.MIDRUN_RUN_ID) while (!existsSync(FLAG)) await pause(2);
"#;

impl Ticker {
    /// The entry's source.
    pub fn entry(&self) -> String {
        let checkpoint = match &self.checkpoints {
            Checkpoints::Every(steps) => format!("step % {steps} === 0"),
            Checkpoints::After(flag) => format!("existsSync({})", flag.literal()),
        };
        let mut text = String::new();
        for name in &self.numbers {
            let _ = writeln!(text, "import {{ {name} }} from \"./{name}\";");
        }
        text += &TICKER
            .replace("LEARNING_RATE", &self.learning_rate.to_string())
            .replace("NAME", &json!(self.name).to_string())
            .replace("START_CODE", &self.start_code)
            .replace("STEP_MS", &self.step_ms.to_string())
            .replace("STEPS", &self.steps.to_string())
            .replace("CHECKPOINT)", &format!("{checkpoint})"));
        match self.brands {
            Brands::Midrun => text += &BRANDS.replace("FAMILY", "midrun"),
            Brands::Arkor => text += &BRANDS.replace("FAMILY", "arkor"),
            Brands::None => {}
        }
        if let Some(flag) = &self.armed_by {
            text += &GATE.replace("FLAG", &flag.literal());
        }
        if !self.numbers.is_empty() {
            let _ = writeln!(text, "export const total = {};", self.numbers.join(" + "));
        }
        text + &self.module_code
    }

    /// The source of `callbacks.ts`.
    pub fn callbacks(tag: &str) -> String {
        format!("export const onTick = (step: number): void => console.log(\"TICK {tag} \" + step);\n")
    }
}

/// A trainer made by `createTrainer`, for the builtin executor. Its callbacks print `STARTED job`, `LOG tag step`,
/// `CHECKPOINT tag step` and `COMPLETED tag`.
#[derive(Debug, Clone)]
pub struct SdkTrainer {
    /// The trainer's name.
    pub name: String,
    /// The job config, apart from the dataset; keys of the config that `createTrainer` knows.
    pub options: Value,
}

impl Default for SdkTrainer {
    /// A run that takes hours at a few milliseconds a step, with a checkpoint each 20 steps.
    fn default() -> Self {
        let options = json!({
            "model": "tiny-gpt:16x1", "maxSteps": 10_000_000, "learningRate": 0.001, "batchSize": 4,
            "saveSteps": 20, "evalSteps": 0, "loggingSteps": 1, "lrSchedulerType": "constant", "seed": 7,
        });
        Self { name: "tiny".to_owned(), options }
    }
}

const SDK: &str = r#"import { createTrainer } from "midrun";
import { callbacks } from "./callbacks";

export const trainer = createTrainer({ name: NAME, ...OPTIONS, dataset: { type: "inline", data: DATA }, callbacks });
"#;

const SDK_CALLBACKS: &str = r#"export const callbacks = {
  onStarted: ({ jobId }: { jobId: string }) => console.log("STARTED " + jobId),
  onLog: ({ step }: { step: number }) => console.log("LOG TAG " + step),
  onCheckpoint: ({ step }: { step: number }) => console.log("CHECKPOINT TAG " + step),
  onCompleted: () => console.log("COMPLETED TAG"),
};
"#;

impl SdkTrainer {
    /// The same with one option changed.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.options[key] = value.into();
        self
    }

    /// The entry's source.
    pub fn entry(&self) -> String {
        let sums = (0..10).flat_map(|a| (0..10).map(move |b| format!("{a}+{b}={}", a + b)));
        let data = sums.collect::<Vec<_>>().join("\n");
        SDK.replace("NAME", &json!(self.name).to_string())
            .replace("OPTIONS", &self.options.to_string())
            .replace("DATA", &json!(data).to_string())
    }

    /// The source of `callbacks.ts`.
    pub fn callbacks(tag: &str) -> String {
        SDK_CALLBACKS.replace("TAG", tag)
    }
}
