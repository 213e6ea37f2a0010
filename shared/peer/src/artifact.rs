//! Artifacts of another machine, fetched by their address.
//!
//! What must hold: a file below the folder holds the bytes that its address says; the folder does not grow for ever.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use reqwest::{Method, StatusCode};
use wire::{Artifact, ContentHash};

use crate::header;
use crate::remote::{Pauses, Remote};
use crate::ways::{ARTIFACTS, Failed, root_cause};

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Artifacts that are kept. Who runs one has it in memory.
const KEPT: usize = 64;

/// `artifact`, at a path where its bytes are on this machine: where it says, if they are there; else below `folder`, where
/// they are fetched to from `remote`, however long that one is away. An artifact that it does not have any more is
/// given back as it is: a newer one follows.
pub async fn bring_here(remote: &Remote, folder: &Path, mut artifact: Artifact) -> Artifact {
    let mut pauses = Pauses::default();
    let here = folder.join(artifact.content_hash.as_str()).join("index.mjs");
    loop {
        for path in [PathBuf::from(&artifact.path), here.clone()] {
            if tokio::fs::metadata(&path).await.is_ok_and(|of| of.len() == artifact.size) {
                artifact.path = path.to_string_lossy().into_owned();
                remote.ways().is_well(ARTIFACTS);
                return artifact;
            }
        }
        match fetch(remote, &artifact).await {
            Ok(Some(bytes)) => {
                remote.ways().is_heard(ARTIFACTS);
                match keep(folder, &here, &bytes).await {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(%error, "an artifact cannot be kept in {}", folder.display())
                    }
                }
            }
            Ok(None) => {
                remote.ways().is_heard(ARTIFACTS);
                return artifact;
            }
            Err(failed) => {
                tracing::debug!(why = failed.why, "an artifact could not be fetched");
                remote.is_away(ARTIFACTS, &failed);
            }
        }
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Nothing: `remote` does not have it any more.
async fn fetch(remote: &Remote, artifact: &Artifact) -> Result<Option<Vec<u8>>, Failed> {
    let hash = artifact.content_hash.as_str();
    let request = remote.request(Method::GET, &["peer", "v1", "artifacts", hash]).timeout(LIMIT);
    let begun = Instant::now();
    let mut response = request.send().await.map_err(|error| Failed::request(&error, begun))?;
    match response.status() {
        StatusCode::NOT_FOUND => return Ok(None),
        status if !status.is_success() => {
            return Err(format!("it answered {status} to a request for {hash}").into());
        }
        _ => {}
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| root_cause(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > header::LARGEST_MESSAGE {
            let most = header::LARGEST_MESSAGE;
            return Err(format!("the artifact {hash} is larger than {most} bytes").into());
        }
    }
    if ContentHash::of(&bytes) != artifact.content_hash {
        return Err(format!("what it sent as {hash} is something else").into());
    }
    Ok(Some(bytes))
}

async fn keep(folder: &Path, file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let place = file.parent().unwrap_or(folder);
    tokio::fs::create_dir_all(place).await?;
    let fresh = place.join(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    tokio::fs::write(&fresh, bytes).await?;
    tokio::fs::rename(&fresh, file).await?;
    prune(folder).await
}

async fn prune(folder: &Path) -> std::io::Result<()> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let modified = entry.metadata().await.and_then(|of| of.modified());
        found.extend(modified.map(|at| (at, entry.path())));
    }
    found.sort();
    let surplus = found.len().saturating_sub(KEPT);
    for (_, old) in &found[..surplus] {
        tokio::fs::remove_dir_all(old).await?;
    }
    Ok(())
}
