//! What the database says when it refuses, and when two things happen at once.

use super::*;
use crate::job::JobStatus;

/// A store with one queued job: its order and its project's id.
async fn with_a_job(dir: &Path) -> (Store, i64, String) {
    let store = Store::open(&dir.join("test.db")).await.unwrap();
    let org = Org { id: "o".into(), slug: "org".into(), name: "Org".into() };
    let account = Account { id: "a".into(), kind: "anonymous".into(), created_at: wire::now(), org };
    store.create_account(&account, "digest").await.unwrap();
    let project = Project {
        id: "p".into(),
        org_id: "o".into(),
        slug: "project".into(),
        name: "Project".into(),
        created_at: wire::now(),
    };
    store.create_project(&project).await.unwrap();
    let new = NewJob {
        org_id: "o".into(),
        project_id: "p".into(),
        name: "job".into(),
        config: "{}".into(),
        client_run_id: None,
        resume: None,
    };
    let Created::New(job) = store.create_job(new).await.unwrap() else { panic!("there was none") };
    (store, job.ord, job.id)
}

#[tokio::test]
async fn a_claim_that_the_disk_refuses_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ord, _) = with_a_job(dir.path()).await;
    let mut writer = store.write.acquire().await.unwrap();
    writer.lock_handle().await.unwrap().set_commit_hook(|| false);
    drop(writer);
    store.claim_job().await.unwrap_err();
    assert_eq!(store.reread(ord).await.unwrap().status, JobStatus::Queued);
    let claimed = store.claim_job().await.unwrap().unwrap();
    assert_eq!((claimed.ord, store.reread(ord).await.unwrap().status), (ord, JobStatus::Running));
}

#[tokio::test]
async fn a_job_that_is_to_be_cancelled_is_not_queued_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ord, id) = with_a_job(dir.path()).await;
    store.claim_job().await.unwrap().unwrap();
    let mut changes = store.changes();
    let cancelling = store.cancel_job("p", Which::Id(&id)).await.unwrap();
    assert!(matches!(cancelling, Cancelling::Underway(_)), "{cancelling:?}");
    let settled = store.settle(ord, None, true).await.unwrap();
    assert!(settled.terminal);
    assert_eq!(store.reread(ord).await.unwrap().status, JobStatus::Cancelled);
    let told: Vec<i64> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
    assert_eq!(told, [ord, ord], "the request, and the end");
}
