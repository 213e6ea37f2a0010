//! What must hold in the log of a run, whatever died.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

/// SIGUSR2, which asks a runner to swap.
const SWAP: i64 = 12;

/// A run's log as it stands on the disk.
#[derive(Debug)]
pub(crate) struct LogOnDisk {
    pub(crate) records: Vec<Value>,
    /// The bytes behind the last newline.
    torn: usize,
}

impl LogOnDisk {
    /// Reads the log at `path`; a log that is not there is empty.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).unwrap_or_default();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = text[..whole].split_inclusive(|byte| *byte == b'\n');
        let parse = |line: &[u8]| {
            serde_json::from_slice(line)
                .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(line)))
        };
        Ok(Self { records: lines.map(parse).collect::<Result<_, _>>()?, torn: text.len() - whole })
    }

    /// The exit status in the last record, if the run's end is there.
    pub(crate) fn exit(&self) -> Option<i64> {
        self.records.last().filter(|record| record["type"] == "exit")?["code"].as_i64()
    }

    /// Checks it against `noted`, the steps that the run noted after it had printed them. A run whose host was killed
    /// takes with it what the host had not read; one whose disk was full may lack output, and says so.
    pub(crate) fn check(
        &self,
        noted: usize,
        host_was_killed: bool,
        disk_was_full: bool,
    ) -> Result<(), String> {
        let mut want = 1;
        for record in &self.records {
            let seq = record["seq"].as_u64().unwrap_or_default();
            // Its number is that of the last one that it stands for.
            let may_jump = disk_was_full && is_dropped(record);
            if seq != want && !(may_jump && seq > want) {
                return Err(format!("record {want} is {record}"));
            }
            want = seq + 1;
        }
        if self.torn > 0 && !host_was_killed {
            return Err(format!("{} bytes of a torn line, and its host was not killed", self.torn));
        }
        self.swapped_once()?;
        let steps = self.steps();
        if disk_was_full && self.records.iter().any(is_dropped) {
            let out_of_order = steps.windows(2).find(|pair| pair[0] >= pair[1]);
            return out_of_order
                .map_or(Ok(()), |pair| Err(format!("step {} stands before {}", pair[0], pair[1])));
        }
        if let Some((step, want)) = steps.iter().zip(1_u64..).find(|(step, want)| **step != *want) {
            return Err(format!("step {step} stands where step {want} belongs"));
        }
        if steps.len() < noted && !host_was_killed {
            return Err(format!("{} steps stand in the log, and {noted} were printed", steps.len()));
        }
        Ok(())
    }

    /// For no bytes more than one signal and one word that they were taken.
    fn swapped_once(&self) -> Result<(), String> {
        let mut seen: HashMap<(bool, &str), u32> = HashMap::new();
        for record in &self.records {
            let is_signal = record["type"] == "signal" && record["signal"] == SWAP;
            let is_taken = record["type"] == "swap" && record["ok"] == true;
            if let (true, Some(hash)) = (is_signal || is_taken, record["contentHash"].as_str()) {
                *seen.entry((is_signal, hash)).or_default() += 1;
            }
        }
        match seen.into_iter().find(|(_, count)| *count > 1) {
            Some(((true, hash), count)) => Err(format!("{count} signals to swap {hash}")),
            Some(((false, hash), count)) => Err(format!("{hash} was swapped in {count} times")),
            None => Ok(()),
        }
    }

    fn steps(&self) -> Vec<u64> {
        let (mut text, mut is_torn) = (String::new(), false);
        for record in &self.records {
            if is_dropped(record) {
                text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
                is_torn = true;
            }
            let Some(mut more) = record["text"].as_str().filter(|_| record["type"] == "output") else {
                continue;
            };
            if is_torn {
                let Some((_, whole)) = more.split_once('\n') else { continue };
                (more, is_torn) = (whole, false);
            }
            text.push_str(more);
        }
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let steps = whole.lines().filter_map(|line| line.strip_prefix("STEP ")?.split(' ').next());
        steps.map(|step| step.parse().unwrap_or(0)).collect()
    }
}

/// Whether it stands for output that there was no room for.
fn is_dropped(record: &Value) -> bool {
    record["type"] == "dropped"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(records: Vec<Value>) -> LogOnDisk {
        LogOnDisk { records, torn: 0 }
    }

    fn output(seq: u64, text: &str) -> Value {
        json!({ "seq": seq, "type": "output", "text": text })
    }

    #[test]
    fn what_is_wrong_is_seen() {
        let good = log(vec![output(1, "STEP 1 v1\nSTE"), output(2, "P 2 v1\n")]);
        assert_eq!(good.check(2, false, false), Ok(()));
        assert!(good.check(3, false, false).is_err(), "a printed step is missing");
        assert_eq!(good.check(3, true, false), Ok(()));
        assert!(log(vec![output(1, "STEP 1\nSTEP 3\n")]).check(0, true, false).is_err(), "a step is lost");
        assert!(log(vec![output(2, "")]).check(0, true, false).is_err(), "a gap");
        let swap = |seq| json!({ "seq": seq, "type": "signal", "signal": 12, "contentHash": "a" });
        assert!(log(vec![swap(1), swap(2)]).check(0, true, false).is_err(), "a doubled swap");
        assert!(LogOnDisk { records: vec![], torn: 1 }.check(0, false, false).is_err());
        let dropped = json!({ "seq": 4, "type": "dropped" });
        let full = |after: &str| log(vec![output(1, "STEP 1\nSTE"), dropped.clone(), output(5, after)]);
        assert_eq!(full("P 6\nSTEP 7\n").check(7, false, true), Ok(()), "what is missing is told");
        assert!(full("P 6\nSTEP 7\n").check(7, false, false).is_err(), "the disk was never full");
        assert!(full("P 6\nSTEP 1\n").check(7, false, true).is_err(), "a step twice");
    }
}
