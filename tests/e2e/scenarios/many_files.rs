//! Many files at once are one change.

use testkit::{Dev, Sse, Stage, Ticker};

use super::frames::{decided, decision, swapped};
use super::records::{SWAP, signals};

const FILES: usize = 200;

fn names() -> Vec<String> {
    (0..FILES).map(|index| format!("n{index}")).collect()
}

/// Every module says a number that depends on the branch.
fn write_all(stage: &Stage, branch: usize) {
    for (index, name) in names().iter().enumerate() {
        stage
            .project
            .write(&format!("{name}.ts"), &format!("export const {name}: number = {};\n", index + branch));
    }
}

async fn rebuilds_until(events: &mut Sse, changed: &str) -> Vec<testkit::Event> {
    let already = events.count("rebuild");
    events
        .wait_for("rebuild of the edit after the checkout", |event| {
            event.name == "rebuild" && event.data["changed"] == serde_json::json!([changed])
        })
        .await;
    events.events().into_iter().filter(|event| event.name == "rebuild").skip(already).collect()
}

#[tokio::test]
async fn a_checkout_of_200_files_is_one_rebuild_and_one_swap() {
    let trainer = Ticker { numbers: names(), ..Ticker::default() };
    let stage = Stage::ticker(&trainer);
    write_all(&stage, 0);
    std::fs::write(stage.project.dir().join(".gitignore"), ".midrun/\n").expect("the project is ours");
    stage.project.git(&["init", "-q", "-b", "first"]);
    stage.project.git(&["add", "-A"]);
    stage.project.git(&["commit", "-q", "-m", "first"]);
    stage.project.git(&["checkout", "-q", "-b", "second"]);
    write_all(&stage, 1);
    stage.project.git(&["commit", "-q", "-a", "-m", "second"]);
    let (dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    for (round, branch) in ["first", "second", "first"].iter().enumerate() {
        let before = events.count("rebuild");
        stage.project.git(&["checkout", "-q", branch]);
        let frame = events.next_named("rebuild").await;
        assert_eq!(decision(&frame, &run), decided("hot-swap", "only code behind the callbacks changed"));
        swapped(&mut events, &run).await;
        stage.project.write("callbacks.ts", &Ticker::callbacks(&format!("after{round}")));
        let after = rebuilds_until(&mut events, "src/midrun/callbacks.ts").await;
        assert_eq!(
            (events.count("rebuild") - before, after.len()),
            (2, 1),
            "one for the checkout, one for the edit"
        );
        swapped(&mut events, &run).await;
        stage.project.git(&["checkout", "-q", "src/midrun/callbacks.ts"]);
        events.next_named("rebuild").await;
        swapped(&mut events, &run).await;
    }
    assert_eq!(events.count("error"), 0);
    assert_eq!(signals(&stage, &run), [SWAP; 9]);
    dev.finish().await;
}

#[tokio::test]
async fn files_that_nothing_imports_are_nobody_s_business() {
    let stage = Stage::ticker(&Ticker::default());
    std::fs::write(stage.project.dir().join(".gitignore"), "ignored/\n").expect("the project is ours");
    let (dev, mut events) = Dev::ready(&stage).await;
    for folder in ["node_modules/x", ".git/x", "ignored/x", "src/midrun/notes"] {
        let folder = stage.project.dir().join(folder);
        std::fs::create_dir_all(&folder).expect("the project is ours");
        for file in 0..20 {
            std::fs::write(folder.join(format!("f{file}.ts")), "export {};\n").expect("the project is ours");
        }
    }
    stage.project.write("callbacks.ts", &Ticker::callbacks("v2"));
    let frame = events.next_named("rebuild").await;
    assert_eq!(frame.data["changed"], serde_json::json!(["src/midrun/callbacks.ts"]));
    assert_eq!((events.count("rebuild"), events.count("error")), (1, 0));
    dev.finish().await;
}
