//! The connection to a job's host: what the executor is to do goes one way, that its log grew comes the other.
//!
//! What is wished for is a state, not a message: a later connection, also one of a later control plane, asks for the
//! same again, and the host does it once.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use wire::StopMode;
use wire::host::{HostRequest, HostSays};

/// What the executor is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Train.
    Train,
    /// Save a checkpoint and exit. Why, for the log.
    Save(&'static str),
    /// End at once, with everything it started.
    End(&'static str),
}

impl Wish {
    fn request(self, id: u64) -> Option<HostRequest> {
        let (mode, why) = match self {
            Self::Train => return None,
            Self::Save(why) => (StopMode::Checkpoint, why),
            Self::End(why) => (StopMode::Now, why),
        };
        Some(HostRequest::Stop { id, mode, traceparent: None, why: why.to_owned() })
    }
}

/// Listens to the host behind `stream` and tells it what is wished for. What it answers with changes when the log
/// may have grown beyond the record `after`, and is closed when the connection is.
pub(super) fn attach(stream: UnixStream, after: u64, wishes: watch::Receiver<Wish>) -> watch::Receiver<()> {
    let (news, told) = watch::channel(());
    tokio::spawn(async move {
        let lost = talk(stream, after, wishes, &news).await;
        tracing::debug!(?lost, "a host's connection has ended");
    });
    told
}

async fn talk(
    stream: UnixStream,
    after: u64,
    mut wishes: watch::Receiver<Wish>,
    news: &watch::Sender<()>,
) -> std::io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    writing.write_all(&line_of(&HostRequest::Subscribe { after })).await?;
    let (mut told, mut id) = (Wish::Train, 0);
    loop {
        let wish = *wishes.borrow_and_update();
        if wish != told {
            (told, id) = (wish, id + 1);
            if let Some(request) = wish.request(id) {
                writing.write_all(&line_of(&request)).await?;
            }
        }
        tokio::select! {
            line = lines.next_line() => match line? {
                None => return Ok(()),
                Some(line) => match serde_json::from_str(&line) {
                    // It has ended, or is stopping already: either is what was wished for.
                    Ok(HostSays::Refused { why, .. }) => tracing::debug!(why, "a host refused to stop its executor"),
                    _ => {
                        news.send_replace(());
                    }
                },
            },
            wished = wishes.changed() => if wished.is_err() {
                return Ok(());
            },
            () = news.closed() => return Ok(()),
        }
    }
}

fn line_of(request: &HostRequest) -> Vec<u8> {
    let mut line = serde_json::to_vec(request).expect("a wire type is always JSON");
    line.push(b'\n');
    line
}
