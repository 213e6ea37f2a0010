//! How long a save takes to become an event, and what that costs: `latency MODULES SAVES [GAP_MS]`.
//!
//! Saves a leaf module again and again, each time with other content, and prints the time from before the save to
//! the event (median, 95th percentile), the time in the bundler, the memory and the processor time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use build_watcher::{Settings, start};
use peer::Start;
use wire::build::Watch;
use wire::{BuildOutcome, EntryPath};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn module(n: usize, of: usize, version: usize) -> String {
    let mut text = String::new();
    let chained = n + 1 < of && n % 10 != 9;
    if chained {
        text += &format!("import {{ all as next{n} }} from './m{}';\n", n + 1);
    }
    for f in 0..10 {
        text += &format!(
            "export function f{n}_{f}(step: number, values: number[]): number {{\n  \
             const scaled = values.map((v) => v * {version}.5 + {f});\n  \
             return scaled.reduce((a, b) => a + b, step);\n}}\n"
        );
    }
    let names: Vec<_> = (0..10).map(|f| format!("f{n}_{f}")).collect();
    let next = if chained { format!(", next{n}") } else { String::new() };
    text + &format!("export const all = () => [{}{next}];\n", names.join(", "))
}

fn write_project(folder: &Path, modules: usize) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut entry = String::from("import { createTrainer } from 'midrun';\n");
    for n in 0..modules {
        fs::write(folder.join(format!("m{n}.ts")), module(n, modules, 0))?;
        if n % 10 == 0 {
            entry += &format!("import {{ all as a{n} }} from './m{n}';\n");
        }
    }
    let uses: Vec<_> = (0..modules).step_by(10).map(|n| format!("a{n}()")).collect();
    entry += &format!(
        "export const trainer = createTrainer({{ name: 'x', callbacks: {{ onLog: () => [{}] }} }});\n",
        uses.join(", ")
    );
    fs::write(folder.join("index.ts"), entry)
}

/// Kilobytes that are resident.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default().to_owned();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}

/// Milliseconds of processor time of all threads.
fn processor() -> f64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    times.filter_map(|times| times.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e6
}

fn show(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{what:28} p50 {:6.2}  p95 {:6.2}  min {:6.2}  max {:6.2} ms",
        at(0.5),
        at(0.95),
        at(0.0),
        at(1.0)
    );
}

#[actix_rt::main]
async fn main() -> std::io::Result<()> {
    let began = Instant::now();
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap_or(1));
    let modules = numbers.next().unwrap_or(3);
    let saves = numbers.next().unwrap_or(100);
    let gap = numbers.next().unwrap_or(5);
    let dir = tempfile::tempdir()?;
    let root = dir.path().canonicalize()?;
    let folder = root.join("src/midrun");
    write_project(&folder, modules)?;

    let before = Instant::now();
    let handle = start(&Settings::of(&root))?;
    let mut reader = handle.feed.read(Start::Snapshot);
    let entry = EntryPath::from(folder.join("index.ts").to_string_lossy().as_ref());
    let watching = actix_rt::spawn({
        let peer = handle.watch.peer();
        async move { peer.ask(Watch { entry }).await }
    });
    let first = reader.next().await.expect("it is built");
    let (to_first, since_main) = (before.elapsed(), began.elapsed());
    watching.await.expect("not cancelled").expect("it can be watched");
    let BuildOutcome::Built(artifact) = &first.event.outcome else { panic!("{first:?}") };
    println!(
        "{modules} modules, {} bytes; first event after {:.2} ms (bundler {:.2} ms), {:.2} ms after main began",
        artifact.size,
        to_first.as_secs_f64() * 1e3,
        first.event.bundle_ms,
        since_main.as_secs_f64() * 1e3,
    );

    let (mut whole, mut bundled, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    let (busy, start_rss) = (processor(), resident());
    println!("resident at the start: {start_rss} kB");
    for save in 1..=saves {
        let text = module(0, modules, save);
        tokio::time::sleep(Duration::from_millis((save * 7919 % (2 * gap.max(1))) as u64)).await;
        let saved = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as f64;
        fs::write(folder.join("m0.ts"), text)?;
        let event = reader.next().await.expect("it is built");
        whole.push(saved.elapsed().as_secs_f64() * 1e3);
        bundled.push(event.event.bundle_ms);
        seen.push((event.event.saved_at_us as f64 - wall) / 1e3);
        if save % (saves / 5).max(1) == 0 {
            println!("resident after {save} rebuilds: {} kB", resident());
        }
    }
    println!("processor time for each save: {:.2} ms", (processor() - busy) / saves as f64);
    show("save to event", whole);
    show("save to first word of it", seen);
    show("bundler and store", bundled);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = processor();
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("processor time in 3 idle seconds: {:.2} ms", processor() - idle);
    Ok(())
}
