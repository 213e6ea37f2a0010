//! What a page shows of many events and many jobs without reading all of them.
//!
//! - `GET /v1/jobs/ID/series?axis=step|time&from=&to=&buckets=&statistics=true`: `{lastSeq, exact, loss, evalLoss,
//!   checkpoints, statistics?}`. A series is `{count, step, time, value, weight?, mean?, before?}`: `count` points in
//!   all, and of the range the smallest, largest and last of each bucket. For averages over all values: `weight` values
//!   with this `mean` end at each point (0: it is there because it sticks out; both absent: every point is there), and
//!   `before` are those that were logged last before the range. `exact: false`: the job is long and is being read; what came is a
//!   sample, and the same request is exact a little later. Statistics are over all points, whatever the range.
//! - `GET /v1/jobs/ID/points`: every point, as CSV.
//! - `GET /v1/jobs/brief?limit=&cursor=`: the list without configs.
//! - `GET /v1/jobs/changes`: SSE, `job.changed` `{type, job}` for each job that is created or changes its status, and
//!   `jobs.missed` when there were too many to tell one by one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::Bytes;
use actix_web::{HttpResponse, Responder, web};
use actix_web_lab::sse::{Data, Event, Sse};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::Shared;
use super::caller::Scope;
use super::jobs::find;
use crate::core::Core;
use crate::refusal::Refusal;
use crate::series::{Axis, Column, Points, Shelved, Statistics, View, Viewed};

const BUCKETS: usize = 1000;
const MOST_BUCKETS: usize = 10_000;
/// Events that are read while the client waits.
const READ_AT_ONCE: i64 = 20_000;
/// Points of a sample.
const SAMPLE: i64 = 2000;
const MOST_CHECKPOINTS: i64 = 10_000;
const LISTED: i64 = 500;
const MOST_LISTED: i64 = 2000;
/// Points in one part of a CSV.
const CSV_PART: usize = 10_000;
const RETRY: Duration = Duration::from_millis(1000);

#[derive(Deserialize)]
pub(super) struct SeriesQuery {
    #[serde(default)]
    axis: Option<Axis>,
    #[serde(default)]
    from: Option<i64>,
    #[serde(default)]
    to: Option<i64>,
    #[serde(default)]
    buckets: Option<usize>,
    #[serde(default)]
    statistics: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    last_seq: i64,
    exact: bool,
    loss: Series,
    eval_loss: Series,
    checkpoints: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<BothStatistics>,
}

#[derive(Serialize)]
struct Series {
    count: usize,
    step: Vec<i64>,
    time: Vec<i64>,
    value: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    weight: Vec<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mean: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    before: Vec<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BothStatistics {
    loss: Option<Statistics>,
    eval_loss: Option<Statistics>,
}

impl Series {
    fn of(column: &Column, view: &View) -> Self {
        let Viewed { points: Column { step, time, value }, weight, mean, before } = column.viewed(view);
        Self { count: column.len(), step, time, value, weight, mean, before }
    }
}

/// `GET /v1/jobs/ID/series`.
pub(super) async fn series(
    core: Shared,
    Scope(project): Scope,
    id: web::Path<String>,
    query: web::Query<SeriesQuery>,
) -> Result<HttpResponse, Refusal> {
    let buckets = query.buckets.unwrap_or(BUCKETS);
    if !(1..=MOST_BUCKETS).contains(&buckets) {
        return Err(Refusal::bad(format!("buckets must be 1 to {MOST_BUCKETS}")));
    }
    let range = query.from.unwrap_or(i64::MIN)..=query.to.unwrap_or(i64::MAX);
    let view = View { axis: query.axis.unwrap_or(Axis::Step), range, buckets };
    let job = find(&core, &project.id, &id).await?;
    let checkpoints = core.store.all_checkpoint_steps(job.ord, MOST_CHECKPOINTS).await?;
    let shelved = core.series.take(job.ord);
    let missing = job.last_seq - shelved.points().last_seq;
    if missing > READ_AT_ONCE {
        if !shelved.is_filling() {
            fill_behind(core.get_ref(), Arc::clone(&shelved), job.ord, job.last_seq);
        }
        let mut sample = Points::default();
        for (seq, data) in core.store.picked(job.ord, job.last_seq, SAMPLE).await? {
            sample.take(seq, &data);
        }
        let answer = answer(&sample, &view, false, false);
        return Ok(HttpResponse::Ok().json(Answer { checkpoints, last_seq: job.last_seq, ..answer }));
    }
    shelved.fill(&core.store, job.ord, job.last_seq).await?;
    let statistics = query.statistics;
    let answer = web::block(move || answer(&shelved.points(), &view, true, statistics))
        .await
        .map_err(|_| Refusal::Internal)?;
    Ok(HttpResponse::Ok().json(Answer { checkpoints, ..answer }))
}

fn answer(points: &Points, view: &View, exact: bool, statistics: bool) -> Answer {
    Answer {
        last_seq: points.last_seq,
        exact,
        loss: Series::of(&points.loss, view),
        eval_loss: Series::of(&points.eval_loss, view),
        checkpoints: Vec::new(),
        statistics: statistics.then(|| BothStatistics {
            loss: Statistics::of(&points.loss.value),
            eval_loss: Statistics::of(&points.eval_loss.value),
        }),
    }
}

/// Reads a long job while its client already looks at a sample.
fn fill_behind(core: &Arc<Core>, shelved: Arc<Shelved>, job: i64, until: i64) {
    let reader = Arc::clone(core);
    core.tasks.spawn_on(
        async move {
            tokio::select! {
                () = reader.closing.cancelled() => {}
                read = shelved.fill(&reader.store, job, until) => {
                    if let Err(error) = read {
                        tracing::error!(%error, "a job's series cannot be read");
                    }
                }
            }
        },
        &core.runtime,
    );
}

/// `GET /v1/jobs/ID/points`.
pub(super) async fn points(
    core: Shared,
    Scope(project): Scope,
    id: web::Path<String>,
) -> Result<HttpResponse, Refusal> {
    let job = find(&core, &project.id, &id).await?;
    let shelved = core.series.take(job.ord);
    shelved.fill(&core.store, job.ord, job.last_seq).await?;
    let head =
        stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"series,step,timestamp,value\n")) });
    // A job that trains goes on growing while this is read: what comes from now on is not in it.
    let length = Length::of(&shelved.points());
    let parts = stream::unfold((shelved, 0), move |(shelved, from)| async move {
        let part = csv(&shelved.points(), length, from)?;
        Some((Ok(Bytes::from(part)), (shelved, from + CSV_PART)))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8")
        .streaming(futures_util::StreamExt::chain(head, parts)))
}

/// How many values of each kind a CSV has.
#[derive(Debug, Clone, Copy)]
struct Length {
    loss: usize,
    eval_loss: usize,
}

impl Length {
    fn of(points: &Points) -> Self {
        Self { loss: points.loss.len(), eval_loss: points.eval_loss.len() }
    }
}

/// The lines of the points from place `from` on: the losses, then the eval losses.
fn csv(points: &Points, length: Length, from: usize) -> Option<String> {
    use std::fmt::Write as _;
    let end = length.loss + length.eval_loss;
    if from >= end {
        return None;
    }
    let mut text = String::new();
    for place in from..end.min(from + CSV_PART) {
        let (name, column, place) = match place.checked_sub(length.loss) {
            None => ("loss", &points.loss, place),
            Some(place) => ("evalLoss", &points.eval_loss, place),
        };
        let time =
            jiff::Timestamp::from_millisecond(column.time[place]).map(wire::timestamp).unwrap_or_default();
        writeln!(text, "{name},{},{time},{}", column.step[place], column.value[place])
            .expect("writing to a String cannot fail");
    }
    Some(text)
}

#[derive(Deserialize)]
pub(super) struct BriefQuery {
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default)]
    cursor: Option<String>,
}

/// `GET /v1/jobs/brief`, newest first.
pub(super) async fn briefs(
    core: Shared,
    Scope(project): Scope,
    query: web::Query<BriefQuery>,
) -> Result<HttpResponse, Refusal> {
    let limit = query.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Refusal::bad(format!("limit must be 1 to {MOST_LISTED}")));
    }
    let before = match &query.cursor {
        Some(id) => Some(find(&core, &project.id, id).await?.ord),
        None => None,
    };
    let mut jobs = core.store.briefs(&project.id, before, limit + 1).await?;
    let more = jobs.len() > usize::try_from(limit).expect("positive");
    if more {
        jobs.pop();
    }
    let next_cursor = jobs.last().filter(|_| more).map(|job| job.id.clone());
    Ok(HttpResponse::Ok().json(json!({ "jobs": jobs, "nextCursor": next_cursor })))
}

/// `GET /v1/jobs/changes`.
pub(super) async fn changes(core: Shared, Scope(project): Scope) -> impl Responder {
    let core = core.get_ref().clone();
    let heartbeat = core.settings.heartbeat;
    let news = core.store.changes();
    let events = stream::unfold((core, project.id, news), |(core, project, mut news)| async move {
        let event = loop {
            let told = tokio::select! {
                () = core.closing.cancelled() => return None,
                told = news.recv() => told,
            };
            match told {
                Ok(ord) => match core.store.brief(ord).await {
                    Ok(Some(job)) if job.project_id == project => {
                        break about("job.changed", json!({ "type": "job.changed", "job": job }));
                    }
                    Ok(_) => {}
                    // The client comes again and reads the list.
                    Err(_) => return None,
                },
                Err(RecvError::Lagged(_)) => break about("jobs.missed", json!({ "type": "jobs.missed" })),
                Err(RecvError::Closed) => return None,
            }
        };
        Some((Ok::<_, Infallible>(event), (core, project, news)))
    });
    Sse::from_stream(events)
        .with_retry_duration(RETRY)
        .with_keep_alive(heartbeat)
        .customize()
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header(("x-accel-buffering", "no"))
}

fn about(name: &'static str, data: Value) -> Event {
    Data::new(data.to_string()).event(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_of_a_job_that_grows_meanwhile_has_each_point_once() {
        let mut points = Points::default();
        let mut seq = 0;
        let mut log = |points: &mut Points, count: i64| {
            for _ in 0..count {
                seq += 1;
                points.take(
                    seq,
                    &format!(r#"{{"step":{seq},"timestamp":"2026-01-02T03:04:05Z","loss":1,"evalLoss":2}}"#),
                );
            }
        };
        log(&mut points, 12_000);
        let length = Length::of(&points);
        let mut text = csv(&points, length, 0).unwrap();
        log(&mut points, 5000);
        for from in [CSV_PART, 2 * CSV_PART] {
            text += &csv(&points, length, from).unwrap();
        }
        assert!(csv(&points, length, 3 * CSV_PART).is_none());
        let lines: Vec<&str> = text.lines().collect();
        let wanted = |name: &'static str| (1..=12_000).map(move |step| format!("{name},{step},"));
        assert_eq!(lines.len(), 24_000);
        for (line, wanted) in lines.iter().zip(wanted("loss").chain(wanted("evalLoss"))) {
            assert!(line.starts_with(&wanted), "{line} is not {wanted}");
        }
    }
}
