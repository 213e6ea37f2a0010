//! The GPUs of this machine, as `nvidia-smi` tells, when it is there.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;

use super::table::Seen;

const LIMIT: Duration = Duration::from_secs(5);
const CARDS: &str = "--query-gpu=index,uuid,name,utilization.gpu,memory.used,memory.total";
const USERS: &str = "--query-compute-apps=pid,gpu_uuid,used_memory";
const MIB: u64 = 1024 * 1024;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Gpu {
    index: u32,
    #[serde(skip)]
    uuid: String,
    name: String,
    /// Absent where the card does not tell.
    percent: Option<f64>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    /// Held by the run's own processes.
    run_memory_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Gpus {
    /// There is no such program; it is not looked for again.
    absent: bool,
}

const ABSENT: &str = "nvidia-smi is not on this machine";

impl Gpus {
    /// The cards, or why nothing can be said of them.
    pub(super) async fn look(&mut self, seen: &[Seen]) -> Result<Vec<Gpu>, String> {
        let mut cards = parse_cards(&self.ask(CARDS).await?);
        for (pid, uuid, bytes) in parse_users(&self.ask(USERS).await?) {
            let ours = seen.iter().any(|process| process.pid == pid);
            if let Some(card) = cards.iter_mut().find(|card| ours && card.uuid == uuid) {
                card.run_memory_bytes += bytes;
            }
        }
        Ok(cards)
    }

    async fn ask(&mut self, query: &str) -> Result<String, String> {
        if self.absent {
            return Err(ABSENT.to_owned());
        }
        let mut command = Command::new("nvidia-smi");
        command.args([query, "--format=csv,noheader,nounits"]).stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(LIMIT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
                self.absent = true;
                return Err(ABSENT.to_owned());
            }
            Ok(Err(error)) => return Err(format!("nvidia-smi cannot be started: {error}")),
            Err(_) => return Err(format!("nvidia-smi did not answer within {} s", LIMIT.as_secs())),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        // It says what is wrong on standard output.
        let said =
            String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
        let why: String =
            said.lines().next().unwrap_or("it did not say why").chars().take(LONGEST_WHY).collect();
        Err(format!("nvidia-smi failed: {why}"))
    }
}

const LONGEST_WHY: usize = 300;

fn parse_cards(text: &str) -> Vec<Gpu> {
    let card = |line: &str| {
        let fields: Vec<&str> = line.split(", ").map(str::trim).collect();
        let [index, uuid, name, percent, used, total] = fields[..] else { return None };
        let bytes = |text: &str| text.parse::<u64>().ok().map(|mib| mib * MIB);
        Some(Gpu {
            index: index.parse().ok()?,
            uuid: uuid.to_owned(),
            name: name.to_owned(),
            percent: percent.parse().ok(),
            memory_used_bytes: bytes(used),
            memory_total_bytes: bytes(total),
            run_memory_bytes: 0,
        })
    };
    text.lines().filter_map(card).collect()
}

fn parse_users(text: &str) -> Vec<(u32, String, u64)> {
    let user = |line: &str| {
        let mut fields = line.split(", ").map(str::trim);
        let (pid, uuid) = (fields.next()?.parse().ok()?, fields.next()?.to_owned());
        Some((pid, uuid, fields.next()?.parse::<u64>().unwrap_or(0) * MIB))
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_and_their_users_are_read_also_where_they_do_not_tell_all() {
        let cards = parse_cards(
            "0, GPU-a, NVIDIA H200, 37, 1024, 143771\n1, GPU-b, NVIDIA T4, [N/A], [N/A], 15360\nno such line\n",
        );
        assert_eq!(cards.len(), 2);
        assert_eq!((cards[0].percent, cards[0].memory_used_bytes), (Some(37.0), Some(1024 * MIB)));
        assert_eq!((cards[1].percent, cards[1].memory_total_bytes), (None, Some(15360 * MIB)));
        let users = parse_users("4711, GPU-a, 512\n12, GPU-b, [N/A]\n\n");
        assert_eq!(users, [(4711, "GPU-a".to_owned(), 512 * MIB), (12, "GPU-b".to_owned(), 0)]);
    }
}
