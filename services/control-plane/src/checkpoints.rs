//! Which checkpoints are kept: the newest few of each job, and those that another job goes on from.
//!
//! One that is to go is first declared removed, in one statement with the reasons to keep it, so that nobody can be
//! sent to it any more; then its folder goes. A folder that another checkpoint is in stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::core::Core;
use crate::execution::LIVES;
use crate::job::Job;

/// Removes what `job` has too many of. What goes wrong is logged.
pub(crate) async fn prune(core: &Core, job: &Job) {
    if let Err(error) = try_prune(core, job).await {
        tracing::warn!(job = job.id, %error, "old checkpoints could not be removed");
    }
}

/// The same once who was told of the last ones has had time to look at them.
pub(crate) fn prune_later(core: &Arc<Core>, job: Job) {
    let pruning = core.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            () = pruning.suspend.cancelled() => {}
            () = tokio::time::sleep(pruning.settings.checkpoint_grace) => prune(&pruning, &job).await,
        }
    });
}

/// Removes what earlier lives had no time for.
pub(crate) async fn prune_all(core: Arc<Core>) {
    match core.store.jobs_with_many_checkpoints(core.settings.keep_checkpoints.max(1)).await {
        Ok(jobs) => {
            for job in jobs {
                prune(&core, &job).await;
            }
        }
        Err(error) => tracing::warn!(%error, "old checkpoints could not be looked for"),
    }
}

async fn try_prune(core: &Core, job: &Job) -> Result<(), sqlx::Error> {
    let grace =
        jiff::SignedDuration::try_from(core.settings.checkpoint_grace).unwrap_or(jiff::SignedDuration::MAX);
    let before = jiff::Timestamp::now().checked_sub(grace).unwrap_or(jiff::Timestamp::MIN);
    let keep = core.settings.keep_checkpoints.max(1);
    let retired = core.store.retire_checkpoints(job, keep, &wire::timestamp(before)).await?;
    if retired.is_empty() {
        return Ok(());
    }
    let kept = core.store.checkpoints(job.ord).await?.into_iter().map(|point| point.dir).collect::<Vec<_>>();
    let (job_dir, id) = (core.job_dir(&job.id), job.id.clone());
    let removed = tokio::task::spawn_blocking(move || {
        for dir in removable(&job_dir, &retired, &kept) {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(job = id, dir = %dir.display(), %error, "an old checkpoint stays");
                }
                _ => {}
            }
        }
    });
    if removed.await.is_err() {
        tracing::error!(job = job.id, "removing old checkpoints panicked");
    }
    Ok(())
}

/// Those of the folders in `retired` that hold nothing else of the job.
fn removable(job_dir: &Path, retired: &[String], kept: &[String]) -> Vec<PathBuf> {
    let lives = job_dir.join(LIVES);
    let holds = |dir: &Path| {
        kept.iter().any(|kept| Path::new(kept).starts_with(dir))
            || lives.starts_with(dir)
            || dir.starts_with(&lives)
    };
    let within = |dir: &&PathBuf| dir.starts_with(job_dir) && *dir != job_dir;
    retired.iter().map(PathBuf::from).filter(|dir| within(&dir) && !holds(dir)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_only_if_nothing_else_is_in_it() {
        let texts = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        let retired =
            texts(&["/j/c/step-1", "/j/c", "/j", "/other/c", "/j/lives/r1", "/j/shared", "/j/old/deep"]);
        let kept = texts(&["/j/c/step-2", "/j/shared"]);
        let gone = removable(Path::new("/j"), &retired, &kept);
        assert_eq!(gone, [PathBuf::from("/j/c/step-1"), PathBuf::from("/j/old/deep")]);
    }
}
