//! Each service can be killed and started again at any moment, and the loop goes on by itself.

use serde_json::Value;
use testkit::{Dev, Event, LIMIT, Sse, Stage, Ticker, eventually};

use crate::both::records::{SWAP, records, signals};
use crate::both::ticks::tags_of_each_step_once;

const SERVICES: [&str; 6] = [
    "build-watcher",
    "manifest-inspector",
    "cancel-broker",
    "control-plane",
    "train-registry",
    "sse-gateway",
];

/// The order of the outages, and what happens in each; `MIDRUN_HEALING_SEED` is another one.
const SEED: u64 = 1;
/// How often each service is killed.
const ROUNDS: usize = 3;

/// Numbers that look random and are the same for the same seed (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("MIDRUN_HEALING_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(count).expect("a count fits")).expect("it is below a count")
    }

    fn shuffled<T: Copy, const N: usize>(&mut self, mut all: [T; N]) -> [T; N] {
        for end in (1..N).rev() {
            all.swap(end, self.below(end + 1));
        }
        all
    }
}

/// A page's event stream, opened again behind its last event each time when it broke.
struct Page {
    stream: Sse,
    before: Vec<Event>,
}

impl Page {
    /// Opens it again once it has broken.
    async fn open_again(&mut self, dev: &Dev) {
        let stream = Sse::open(&dev.client, "/api/dev/events", self.last_id().as_deref()).await;
        let broken = std::mem::replace(&mut self.stream, stream);
        self.before.extend(broken.to_the_end(LIMIT).await);
    }

    fn last_id(&self) -> Option<String> {
        self.stream.last_id().or_else(|| self.before.last().map(|event| event.id.clone()))
    }

    /// Checks that it missed and repeated nothing: what the registry tells is numbered in each of its lives.
    fn is_whole(&self) -> Vec<Event> {
        let all: Vec<Event> = self.before.iter().cloned().chain(self.stream.events()).collect();
        let mut last: Option<(String, u64)> = None;
        for event in &all {
            let (life, number) = event.id.split_once('-').expect("EPOCH-SEQ");
            let number: u64 = number.parse().expect("a number");
            let follows = match &last {
                Some((same, before)) if same == life => number == before + 1,
                // Of the first life it sees what was newest when it came, of each later one all.
                Some(_) => number == 1,
                None => true,
            };
            assert!(follows, "behind {last:?} comes {event}");
            last = Some((life.to_owned(), number));
        }
        all
    }
}

/// What the run printed, as it stands on the disk: whoever is away, that goes on.
fn printed(stage: &Stage, run: &str) -> Vec<String> {
    let records = records(stage, run);
    let text: String = records.iter().filter_map(|record| record["text"].as_str()).collect();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

async fn goes_on(stage: &Stage, run: &str) {
    let before = printed(stage, run).len();
    eventually("more steps", LIMIT, || (printed(stage, run).len() > before).then_some(())).await;
}

async fn runs_by(stage: &Stage, run: &str, tag: &str) {
    let start = format!("TICK {tag} ");
    let is_there = || printed(stage, run).iter().any(|line| line.starts_with(&start)).then_some(());
    eventually(&format!("step by {tag}"), LIMIT, is_there).await;
}

/// The bytes that the run took, as often as it took them.
fn taken(stage: &Stage, run: &str) -> Vec<Value> {
    let records = records(stage, run);
    let taken = records.iter().filter(|record| record["type"] == "swap" && record["ok"] == true);
    taken.map(|record| record["contentHash"].clone()).collect()
}

/// How often it answered to a signal: one that was overtaken is answered too.
fn answers(stage: &Stage, run: &str) -> usize {
    records(stage, run).iter().filter(|record| record["type"] == "swap").count()
}

/// Checks that the run took each save once, in order, and lost no step over it.
fn took_each_once(stage: &Stage, run: &str, saves: &[String]) {
    assert_eq!(signals(stage, run), vec![SWAP; saves.len()], "one signal for each save");
    let mut hashes = taken(stage, run);
    assert_eq!(hashes.len(), saves.len(), "each save is taken once");
    hashes.dedup();
    assert_eq!(hashes.len(), saves.len(), "each save is other bytes");
    assert_eq!(tags_of_each_step_once(&printed(stage, run))[1..], *saves);
}

#[tokio::test]
async fn every_service_dies_in_any_order_and_each_save_is_taken_once_and_told_once() {
    let stage = Stage::ticker(&Ticker::default());
    let (mut dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let pid = dev.run(&run).await["pid"].clone();
    let mut page = Page { stream: events, before: Vec::new() };
    let mut random = Random::seeded();
    let mut saves = Vec::new();
    runs_by(&stage, &run, "v1").await;
    for round in 0..ROUNDS {
        for service in random.shuffled(SERVICES) {
            let tag = format!("r{round}-{service}");
            let save_while_away = random.below(2) == 0;
            println!("{tag}, {}", if save_while_away { "saved while it is away" } else { "saved then" });
            dev.kill_service(service).await;
            goes_on(&stage, &run).await;
            if save_while_away {
                stage.project.write("callbacks.ts", &Ticker::callbacks(&tag));
            }
            dev.start_service(service).await;
            if service == "sse-gateway" {
                page.open_again(&dev).await;
            }
            if !save_while_away {
                stage.project.write("callbacks.ts", &Ticker::callbacks(&tag));
            }
            let is_taken = |event: &Event| event.name == "swap" && event.data["ok"] == true;
            page.stream.wait_for(&format!("swap to {tag}"), is_taken).await;
            runs_by(&stage, &run, &tag).await;
            saves.push(tag);
        }
    }
    let known = dev.run(&run).await;
    assert_eq!((&known["pid"], &known["status"]), (&pid, &"running".into()), "{known}");
    let told = page.is_whole();
    let swaps = told.iter().filter(|event| event.name == "swap");
    assert_eq!(swaps.map(|swap| swap.data["contentHash"].clone()).collect::<Vec<_>>(), taken(&stage, &run));
    took_each_once(&stage, &run, &saves);
    dev.finish().await;
}

#[tokio::test]
async fn two_services_that_are_away_together_cost_no_save_and_the_newest_build_wins() {
    let stage = Stage::ticker(&Ticker::default());
    let (mut dev, mut events) = Dev::ready(&stage).await;
    let run = dev.running(&mut events).await;
    let mut random = Random::seeded();
    let mut saves = Vec::new();
    runs_by(&stage, &run, "v1").await;
    for round in 0..ROUNDS {
        for pair in random.shuffled(SERVICES).chunks_exact(2) {
            let tag = format!("r{round}-{}-{}", pair[0], pair[1]);
            println!("{tag}");
            for service in pair {
                dev.kill_service(service).await;
            }
            // Overtaken before anybody can have dispatched it, or not: that one may be taken, once.
            stage.project.write("callbacks.ts", &Ticker::callbacks(&format!("before-{tag}")));
            stage.project.write("callbacks.ts", &Ticker::callbacks(&tag));
            goes_on(&stage, &run).await;
            for service in random.shuffled([pair[0], pair[1]]) {
                dev.start_service(service).await;
            }
            runs_by(&stage, &run, &tag).await;
            let answered = || (answers(&stage, &run) == signals(&stage, &run).len()).then_some(());
            eventually("word on each signal", LIMIT, answered).await;
            saves.push(tag);
        }
    }
    let mut hashes: Vec<String> = taken(&stage, &run).iter().map(Value::to_string).collect();
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count, "no bytes are taken twice");
    let mut tags = tags_of_each_step_once(&printed(&stage, &run));
    tags.retain(|tag| !tag.starts_with("before-"));
    assert_eq!(tags[1..], saves, "each newest save is taken, in order");
    dev.finish().await;
}
