//! The trainer that is killed, and the program that plays the GPU for its jobs.

use std::path::Path;

use serde_json::json;

/// An executor that trains nothing: it tells a step each 20 ms and a checkpoint each fifth, until it is asked to end.
pub(crate) const EXECUTOR: &str = r#"
trap 'exit 0' TERM
exec 9<> <(:)
echo '{"type":"training.started"}'
for ((step = 1; ; step++)); do
  echo '{"type":"training.log","step":'$step',"loss":1}'
  if ((step % 5 == 0)); then echo '{"type":"checkpoint.saved","step":'$step'}'; fi
  read -r -t 0.02 -u 9
done
"#;

/// The entry: `createTrainer` with a real job. `edit` makes its config another one.
pub(crate) fn entry(edit: u64) -> String {
    let rate = 0.001 + edit as f64 * 1e-6;
    format!(
        "import {{ createTrainer }} from \"midrun\";\n\
         import {{ callbacks }} from \"./callbacks\";\n\
         export const trainer = createTrainer({{\n\
         \x20 name: \"counter\", model: \"none\", maxSteps: 1_000_000, learningRate: {rate:.6},\n\
         \x20 dataset: {{ type: \"inline\", data: \"1\" }}, callbacks,\n\
         }});\n"
    )
}

/// The callbacks: each step is printed, and then noted in the file of the run in `notes`, so that what stands there
/// must stand in the log too.
pub(crate) fn callbacks(edit: u64, notes: &Path) -> String {
    let notes = json!(notes.to_str().expect("the folder's name is text"));
    format!(
        "import {{ appendFileSync }} from \"node:fs\";\n\
         const note = {notes} + \"/\" + process.env.MIDRUN_RUN_ID;\n\
         export const callbacks = {{\n\
         \x20 onLog: ({{ step }}: {{ step: number }}) => {{\n\
         \x20   console.log(\"STEP \" + step + \" v{edit}\");\n\
         \x20   appendFileSync(note, step + \"\\n\");\n\
         \x20 }},\n\
         \x20 onCheckpoint: () => undefined,\n\
         }};\n"
    )
}
