use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use proptest::prelude::*;
use tempfile::TempDir;
use wire::log::{Record, Stream};

use super::*;
use crate::files::REMAINS;
use crate::{Follower, read_page};

const EXIT: Step = Step::Exit { code: 0, signal: None };

fn output(length: usize) -> Step {
    Step::Output { stream: Stream::Stdout, text: Some("x".repeat(length)), base64: None }
}

fn log_with_cap(cap: u64) -> (TempDir, PathBuf, Writer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let writer = Writer::create(&path).unwrap().with_cap(cap);
    (dir, path, writer)
}

/// All there is to be read.
fn read_all(path: &Path) -> Vec<Record> {
    let mut reader = Reader::default();
    while reader.read(path, 4096, true) {}
    reader.records
}

fn size_on_disk(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// The records of each file, in the order of their names, the newest last.
fn by_file(path: &Path) -> Vec<(u32, Vec<Record>)> {
    let files = Files::of(path);
    let listing = files.list().unwrap();
    let numbers = listing.numbers.iter().copied().chain([listing.newest()]);
    let records = |number| {
        let text = io::read_to_string(files.open(number).unwrap()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    numbers.map(|number| (number, records(number))).collect()
}

/// Someone who reads page by page.
#[derive(Default)]
struct Reader {
    after: u64,
    hint: Option<u64>,
    records: Vec<Record>,
    ended: bool,
}

impl Reader {
    /// Reads a page; false when there is nothing.
    fn read(&mut self, path: &Path, max_bytes: u32, with_hint: bool) -> bool {
        let hint = self.hint.filter(|_| with_hint);
        let page = read_page(path, self.after, hint, max_bytes).unwrap();
        self.hint = Some(page.hint);
        self.ended |= page.ended;
        for record in &page.records {
            let first = if let Step::Dropped { from_seq, .. } = record.step { from_seq } else { record.seq };
            assert!(first <= self.after + 1, "{first} comes behind {}: something is missing", self.after);
            assert!(record.seq > self.after, "{} comes behind {}: again", record.seq, self.after);
            self.after = record.seq;
        }
        let got = !page.records.is_empty();
        self.records.extend(page.records);
        got
    }

    /// Everything it was given is as it was written, and nothing but output is missing.
    fn check(&self, written: &BTreeMap<u64, Step>) {
        let given = self.records.iter().filter(|record| !matches!(record.step, Step::Dropped { .. }));
        let given: BTreeMap<u64, &Step> = given.map(|record| (record.seq, &record.step)).collect();
        for (seq, step) in &given {
            assert_eq!(written.get(seq), Some(*step), "record {seq}");
        }
        let missing = written.iter().filter(|(seq, step)| !step.is_output() && !given.contains_key(seq));
        assert_eq!(missing.count(), 0, "life is never dropped");
    }
}

/// How much of it is told of as dropped: records and bytes.
fn dropped(records: &[Record]) -> (u64, u64) {
    records.iter().fold((0, 0), |(count, size), record| match record.step {
        Step::Dropped { records, bytes, .. } => (count + records, size + bytes),
        _ => (count, size),
    })
}

#[test]
fn an_old_log_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    Writer::create(&path).unwrap();
    assert_eq!(Writer::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn at_its_cap_the_oldest_output_goes_and_the_log_says_how_much() {
    let (dir, path, mut writer) = log_with_cap(64 * 1024);
    let life = |index| index % 100 == 7;
    for index in 0..5000 {
        writer.append(if life(index) { Step::Checkpoint { step: index } } else { output(50) });
        assert!(writer.flush());
        assert!(size_on_disk(dir.path()) < 64 * 1024 + 8 * 1024, "{}", size_on_disk(dir.path()));
    }
    writer.append(EXIT);
    assert!(writer.flush());
    let files = by_file(&path);
    assert_eq!(files[0].0, REMAINS);
    let kept: u64 = files[1..].iter().flat_map(|(_, records)| records).map(|_| 1).sum();
    assert!(kept > 150, "the newest output is there");
    assert!(
        files[1..]
            .iter()
            .flat_map(|(_, records)| records)
            .all(|record| dropped(std::slice::from_ref(record)).0 == 0)
    );

    let all = read_all(&path);
    let (records, bytes) = dropped(&all);
    let outputs = all.iter().filter(|record| matches!(record.step, Step::Output { .. })).count() as u64;
    assert_eq!((records + outputs, bytes), (4950, records * 50));
    let steps = all.iter().filter_map(|record| match record.step {
        Step::Checkpoint { step } => Some(step),
        _ => None,
    });
    assert!(steps.eq((0..5000).filter(|&index| life(index))));
    let Step::Dropped { from_seq: 1, records: 7, bytes: 350, others: 0, why } = &all[0].step else {
        panic!("{:?}", all[0])
    };
    assert!(why.contains("its cap of 65536 bytes"), "{why}");
    assert!(matches!(all[2].step, Step::Dropped { from_seq: 9, records: 99, .. }), "files' ends do not show");

    // Someone who comes back from within what is gone.
    let page = read_page(&path, 40, None, 1 << 20).unwrap();
    assert!(matches!(page.records[0].step, Step::Dropped { from_seq: 9..=41, .. }));
    assert_eq!((page.records[0].seq, page.records[1].seq), (107, 108));
    assert_eq!(page.records[1].step, Step::Checkpoint { step: 107 });
}

#[test]
fn a_reader_on_a_file_that_goes_away_goes_on() {
    let (_dir, path, mut writer) = log_with_cap(32 * 1024);
    let mut slow = Follower::open(&path, 0).unwrap();
    let mut seen = Vec::new();
    let mut take = |slow: &mut Follower, budget| {
        slow.lines(u64::MAX, budget, |line| seen.push(crate::seq_of(line).unwrap())).unwrap()
    };
    for step in 1..=3000 {
        writer.append(Step::Checkpoint { step });
        writer.append(output(40));
        writer.flush();
        if step % 100 == 0 {
            // Far less than was written meanwhile.
            take(&mut slow, 300);
        }
    }
    while take(&mut slow, 4096) {}
    assert!(seen.into_iter().eq((1..6000).step_by(2)), "all of life, once");
    assert_eq!(slow.seq(), 6000);
}

#[test]
fn a_torn_end_is_not_there_and_everything_before_it_is() {
    let (_dir, path, mut writer) = log_with_cap(16 * 1024);
    for step in 0..40 {
        writer.append(Step::Checkpoint { step });
        writer.append(output(60));
    }
    assert!(writer.flush());
    writer.append(output(60));
    writer.append(output(61));
    assert!(writer.flush());
    let whole = read_all(&path);
    // The host dies over its last line: it may be cut anywhere.
    let length = fs::metadata(&path).unwrap().len();
    let text = fs::read(&path).unwrap();
    let last_line = text[..text.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() as u64 + 1;
    for cut in last_line..length {
        File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let mut reader = Reader::default();
        while reader.read(&path, 1000, true) {}
        assert_eq!(reader.records, whole[..whole.len() - 1], "cut at {cut} of {length}");
        assert!(!reader.ended);
        let life = Follower::open(&path, 0).unwrap().rest().unwrap();
        assert_eq!(life.len(), 40);
    }
}

#[test]
fn a_writer_that_died_between_two_files_leaves_a_whole_log() {
    let (_dir, path, mut writer) = log_with_cap(16 * 1024);
    for step in 0..150 {
        writer.append(Step::Checkpoint { step });
        writer.flush();
    }
    let (whole, files) = (read_all(&path), Files::of(&path));
    // It was renamed, and the next one was not made.
    fs::rename(&path, files.numbered(files.list().unwrap().newest())).unwrap();
    assert_eq!(read_all(&path), whole);
    // What is left of the oldest one was appended, and it was not removed; or half of it was.
    let oldest = files.list().unwrap().numbers[0];
    assert_ne!(oldest, REMAINS);
    let text = fs::read(files.numbered(oldest)).unwrap();
    for length in [0, 1, 70, text.len() / 2, text.len()] {
        fs::write(files.numbered(REMAINS), &text[..length]).unwrap();
        assert_eq!(read_all(&path), whole, "{length} bytes");
    }
}

#[test]
fn a_log_whose_next_file_cannot_be_made_goes_on_in_this_one() {
    let (_dir, path, mut writer) = log_with_cap(16 * 1024);
    let files = Files::of(&path);
    // A folder in the way binds root, too.
    fs::create_dir_all(files.numbered(1).join("full")).unwrap();
    let mut step = 0;
    let mut write = |writer: &mut Writer| {
        step += 1;
        writer.append(Step::Checkpoint { step });
        assert!(writer.flush());
    };
    (0..100).for_each(|_| write(&mut writer));
    let said = |path: &Path| {
        let notes = read_all(path).into_iter().filter(|record| matches!(record.step, Step::Note { .. }));
        notes.count()
    };
    fs::remove_dir_all(files.numbered(1)).unwrap();
    (0..100).for_each(|_| write(&mut writer));
    assert_eq!(said(&path), 1, "that is said once");
    assert!(files.numbered(2).exists(), "and tried again");
    assert_eq!(read_all(&path).len(), 201);
}

#[test]
fn readers_beside_a_writer_get_every_record_once() {
    const RECORDS: u64 = 60_000;
    let (_dir, path, writer) = log_with_cap(128 * 1024);
    let newest = Arc::new(AtomicU64::new(0));
    let start = Arc::new(Barrier::new(5));
    let writing = {
        let (mut writer, newest, start) = (writer, Arc::clone(&newest), Arc::clone(&start));
        std::thread::spawn(move || {
            start.wait();
            for seq in 1..RECORDS {
                writer.append(if seq % 50 == 0 { Step::Checkpoint { step: seq } } else { output(20) });
                if seq % 7 == 0 {
                    assert!(writer.flush());
                    newest.store(writer.written().seq, Ordering::Release);
                }
            }
            writer.append(EXIT);
            assert!(writer.flush());
        })
    };
    let reading = [(300, true), (5_000, false), (200_000, true)].map(|(max_bytes, with_hint)| {
        let (path, start) = (path.clone(), Arc::clone(&start));
        std::thread::spawn(move || {
            let mut reader = Reader::default();
            start.wait();
            while !reader.ended {
                reader.read(&path, max_bytes, with_hint);
            }
            reader
        })
    });
    let following = std::thread::spawn(move || {
        let mut follower = Follower::open(&path, 0).unwrap();
        let mut seen = Vec::new();
        start.wait();
        while follower.seq() < RECORDS {
            let until = newest.load(Ordering::Acquire).max(RECORDS - 10);
            follower
                .lines(until.max(RECORDS), 10_000, |line| seen.push(crate::seq_of(line).unwrap()))
                .unwrap();
        }
        seen
    });
    writing.join().unwrap();
    for reader in reading {
        let reader = reader.join().unwrap();
        assert_eq!(reader.after, RECORDS);
        let steps = reader.records.iter().filter_map(|record| match record.step {
            Step::Checkpoint { step } => Some((step, record.seq)),
            _ => None,
        });
        assert!(steps.eq((1..RECORDS).filter(|seq| seq % 50 == 0).map(|seq| (seq, seq))));
    }
    let life = (1..RECORDS).filter(|seq| seq % 50 == 0).chain([RECORDS]);
    assert!(following.join().unwrap().into_iter().eq(life));
}

#[derive(Debug, Clone)]
enum Act {
    Output(usize),
    Life,
    Flush,
    /// One of the readers reads a page of about so many bytes.
    Read(usize, u32),
    /// The follower reads so much.
    Follow(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => prop_oneof![0..120usize, 400..1500usize].prop_map(Act::Output),
        1 => Just(Act::Life),
        5 => Just(Act::Flush),
        3 => (0..3usize, prop_oneof![1..300u32, 1_000..40_000u32]).prop_map(|(reader, bytes)| Act::Read(reader, bytes)),
        1 => (1..5_000usize).prop_map(Act::Follow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_is_written_and_read_in_whatever_order(
        cap in 600..20_000u64,
        acts in prop::collection::vec(act(), 1..600),
        with_hint: [bool; 3],
    ) {
        let (_dir, path, mut writer) = log_with_cap(cap);
        let mut written = BTreeMap::new();
        let mut readers: [Reader; 3] = Default::default();
        let mut follower = Follower::open(&path, 0).unwrap();
        let mut life = Vec::new();
        let mut follow = |follower: &mut Follower, budget: usize| {
            follower.lines(u64::MAX, budget, |line| life.push(crate::seq_of(line).unwrap())).unwrap()
        };
        for act in acts {
            let seq = written.len() as u64 + 1;
            let step = match act {
                Act::Output(length) => output(length),
                Act::Life => Step::Checkpoint { step: seq },
                Act::Flush => { writer.flush(); continue }
                Act::Read(reader, bytes) => { readers[reader].read(&path, bytes, with_hint[reader]); continue }
                Act::Follow(budget) => { follow(&mut follower, budget); continue }
            };
            writer.append(step.clone());
            written.insert(seq, step);
        }
        let last = written.len() as u64 + 1;
        writer.append(EXIT);
        written.insert(last, EXIT);
        prop_assert!(writer.flush());
        for (reader, with_hint) in readers.iter_mut().zip(with_hint) {
            while reader.read(&path, 700, with_hint) {}
            prop_assert_eq!((reader.after, reader.ended), (last, true));
            reader.check(&written);
        }
        while follow(&mut follower, 700) {}
        let all_life = written.iter().filter(|(_, step)| !step.is_output()).map(|(seq, _)| *seq);
        prop_assert_eq!(life, all_life.collect::<Vec<_>>());

        // A fresh reader: what is gone is told of exactly, and what still exists is there.
        let mut fresh = Reader::default();
        while fresh.read(&path, 700, true) {}
        fresh.check(&written);
        let (gone, bytes) = dropped(&fresh.records);
        let there = fresh.records.iter().filter(|record| !matches!(record.step, Step::Dropped { .. })).count();
        prop_assert_eq!(gone + there as u64, last);
        let given: std::collections::BTreeSet<u64> = fresh.records.iter().map(|record| record.seq).collect();
        let lost = written.iter().filter(|(seq, step)| step.is_output() && !(given.contains(seq)
            && fresh.records.iter().any(|record| record.seq == **seq && record.step == **step)));
        let lost: u64 = lost.map(|(_, step)| match step {
            Step::Output { text: Some(text), .. } => text.len() as u64,
            _ => 0,
        }).sum();
        prop_assert_eq!(bytes, lost);
        let files = by_file(&path);
        for (_, records) in files.iter().filter(|(number, _)| *number != REMAINS) {
            for record in records {
                prop_assert!(fresh.records.contains(record), "record {} still exists", record.seq);
            }
        }
    }
}
