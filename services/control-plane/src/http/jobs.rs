//! Jobs: create, list, show, cancel.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Shared;
use super::accounts::check_length;
use super::caller::Scope;
use crate::core::Core;
use crate::job::{Job, JobView, ResumePoint};
use crate::refusal::Refusal;
use crate::store::{Cancelling, Created, NewJob, StoredEvent, Which};

const LISTED: usize = 100;
const MOST_LISTED: usize = 500;
/// Events that come with one job, the newest ones; the stream has all.
const SHOWN_EVENTS: i64 = 200;
const MOST_SHOWN_EVENTS: i64 = 1000;
const NAME_CHARACTERS: usize = 200;
/// Steps named in a refusal.
const NAMED_STEPS: i64 = 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateJob {
    name: String,
    config: Box<RawValue>,
    #[serde(default)]
    client_run_id: Option<String>,
    #[serde(default)]
    resume_from: Option<ResumeFrom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResumeFrom {
    job_id: String,
    step: i64,
}

/// `POST /v1/jobs`: 201 for a new job, 200 for the one that the same `clientRunId` made before.
pub(super) async fn create(
    core: Shared,
    Scope(project): Scope,
    body: web::Json<CreateJob>,
) -> Result<HttpResponse, Refusal> {
    let body = body.into_inner();
    check_length("name", &body.name, NAME_CHARACTERS)?;
    if !body.config.get().starts_with('{') {
        return Err(Refusal::bad("config must be an object"));
    }
    if let Some(id) = &body.client_run_id {
        check_length("clientRunId", id, NAME_CHARACTERS)?;
        // Before anything else is checked: a repeated request is answered as the first was.
        if let Some(job) = core.store.job(&project.id, Which::ClientRunId(id)).await? {
            return Ok(HttpResponse::Ok().json(one(job)));
        }
    }
    let resume = match body.resume_from {
        Some(from) => Some(resume(&core, &project.id, from).await?),
        None => None,
    };
    let new = NewJob {
        org_id: project.org_id,
        project_id: project.id,
        name: body.name,
        config: String::from(Box::<str>::from(body.config)),
        client_run_id: body.client_run_id,
        resume,
    };
    let creating = core.get_ref().clone();
    let created = async move {
        let created = creating.store.create_job(new).await?;
        if let Created::New(_) = created {
            creating.bell.notify_one();
        }
        Ok(created)
    };
    match core.finish(created).await? {
        Created::New(job) => Ok(HttpResponse::Created().json(one(job))),
        Created::Existing(job) => Ok(HttpResponse::Ok().json(one(job))),
        Created::NoCheckpoint => Err(Refusal::NotFound(
            "resumeFrom: that checkpoint was removed just now; name a newer one".into(),
        )),
    }
}

async fn resume(core: &Core, project: &str, from: ResumeFrom) -> Result<(String, ResumePoint), Refusal> {
    let job =
        core.store.job(project, Which::Id(&from.job_id)).await?.ok_or_else(|| {
            Refusal::NotFound(format!("resumeFrom: this project has no job {:?}", from.job_id))
        })?;
    Ok((from.job_id, checkpoint(core, &job, Some(from.step)).await?))
}

/// The checkpoint of `job` at `step`, or its newest; it is there, on disk too.
pub(super) async fn checkpoint(core: &Core, job: &Job, step: Option<i64>) -> Result<ResumePoint, Refusal> {
    let Some(point) = core.store.checkpoint(job.ord, step).await? else {
        let steps = core.store.checkpoint_steps(job.ord, NAMED_STEPS).await?;
        let at = step.map(|step| format!(" at step {step}")).unwrap_or_default();
        return Err(Refusal::NotFound(format!(
            "job {} has no checkpoint{at}; it has: {steps:?} (the newest {} are kept: controlPlane.keepCheckpoints)",
            job.id, core.settings.keep_checkpoints
        )));
    };
    if !tokio::fs::metadata(&point.dir).await.is_ok_and(|meta| meta.is_dir()) {
        return Err(Refusal::NotFound(format!(
            "the checkpoint of job {} at step {} was removed",
            job.id, point.step
        )));
    }
    Ok(point)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListQuery {
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobList {
    jobs: Vec<JobView>,
    /// The `cursor` that continues this list, if it goes on.
    next_cursor: Option<String>,
}

/// `GET /v1/jobs`, newest first; `cursor` is the id of the last job seen.
pub(super) async fn list(
    core: Shared,
    Scope(project): Scope,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, Refusal> {
    let limit = query.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Refusal::bad(format!("limit must be 1 to {MOST_LISTED}")));
    }
    let before = match &query.cursor {
        Some(id) => Some(find(&core, &project.id, id).await?.ord),
        None => None,
    };
    let (jobs, more) = core.store.jobs(&project.id, before, limit).await?;
    let next_cursor = jobs.last().filter(|_| more).map(|job| job.id.clone());
    Ok(HttpResponse::Ok().json(JobList { jobs: jobs.into_iter().map(JobView::from).collect(), next_cursor }))
}

#[derive(Deserialize)]
pub(super) struct ShowQuery {
    #[serde(default)]
    events: Option<i64>,
}

/// `GET /v1/jobs/ID`, with its newest events, as many as `events` says.
pub(super) async fn show(
    core: Shared,
    Scope(project): Scope,
    id: web::Path<String>,
    query: web::Query<ShowQuery>,
) -> Result<HttpResponse, Refusal> {
    let shown = query.events.unwrap_or(SHOWN_EVENTS).clamp(0, MOST_SHOWN_EVENTS);
    let job = find(&core, &project.id, &id).await?;
    let events = core.store.newest_events(job.ord, shown).await?;
    let events: Vec<_> = events.iter().map(event_view).collect();
    Ok(HttpResponse::Ok().json(JobDetail { job: job.into(), events }))
}

#[derive(Serialize)]
struct JobDetail {
    job: JobView,
    events: Vec<Value>,
}

/// The event's data with its stream `id`.
fn event_view(event: &StoredEvent) -> Value {
    let data: Map<String, Value> = serde_json::from_str(&event.data).expect("events are stored as objects");
    let mut view = Map::from_iter([("id".to_owned(), event.seq.into())]);
    for (key, value) in data {
        view.entry(key).or_insert(value);
    }
    view.into()
}

/// The job of that id in that project.
pub(super) async fn find(core: &Core, project: &str, id: &str) -> Result<Job, Refusal> {
    core.store.job(project, Which::Id(id)).await?.ok_or_else(|| Refusal::no_job(id))
}

/// `POST /v1/jobs/ID/cancel`.
pub(super) async fn cancel(
    core: Shared,
    Scope(project): Scope,
    id: web::Path<String>,
) -> Result<HttpResponse, Refusal> {
    cancel_which(core, project.id, Key::Id(id.into_inner())).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CancelQuery {
    client_run_id: String,
}

/// `POST /v1/jobs/cancel?clientRunId=`.
pub(super) async fn cancel_run(
    core: Shared,
    Scope(project): Scope,
    query: web::Query<CancelQuery>,
) -> Result<HttpResponse, Refusal> {
    check_length("clientRunId", &query.client_run_id, NAME_CHARACTERS)?;
    cancel_which(core, project.id, Key::ClientRunId(query.into_inner().client_run_id)).await
}

/// [`Which`], for as long as it takes.
enum Key {
    Id(String),
    ClientRunId(String),
}

/// 200 when the job is cancelled now, 202 when its executor still has to stop, also when that was asked before.
async fn cancel_which(core: Shared, project: String, key: Key) -> Result<HttpResponse, Refusal> {
    let cancelling = core.get_ref().clone();
    let cancelled = async move {
        let which = match &key {
            Key::Id(id) => Which::Id(id),
            Key::ClientRunId(id) => Which::ClientRunId(id),
        };
        match cancelling.store.cancel_job(&project, which).await? {
            Cancelling::Done(job) => {
                cancelling.heads.publish(job.ord, job.last_seq);
                Ok((StatusCode::OK, job))
            }
            Cancelling::Underway(job) => {
                cancelling.stop_executor(job.ord);
                Ok((StatusCode::ACCEPTED, job))
            }
            Cancelling::Ended(job) => {
                Err(Refusal::Conflict(format!("job {} is over: it is {}", job.id, job.status.as_str())))
            }
            Cancelling::NoJob => Err(match &key {
                Key::Id(id) => Refusal::no_job(id),
                Key::ClientRunId(id) => Refusal::NotFound(format!(
                    "no job was created with clientRunId {id:?}; if one still is, it will be cancelled at once"
                )),
            }),
        }
    };
    let (status, job) = core.finish(cancelled).await?;
    Ok(HttpResponse::build(status).json(one(job)))
}

/// Not a `Value`: the config goes out byte for byte as it came.
#[derive(Serialize)]
struct OneJob {
    job: JobView,
}

fn one(job: Job) -> OneJob {
    OneJob { job: job.into() }
}
