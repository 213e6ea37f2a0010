//! How an executor comes to life: in a host of its own, which goes on when this process is killed.
//!
//! A life has a folder, `lives/ID` in its job's. What must hold: the life is in the database before its host is
//! started, so that a later control plane looks for it; and host and executor carry the job's marker, so that it finds
//! them also where the host never got as far as to say who it is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hosting::{Place, Started};
use serde::Serialize;
use serde_json::value::RawValue;
use wire::host::Spec;
use wire::{ContentHash, RunId};

use super::patiently;
use crate::core::{Core, JOBS};
use crate::job::{Job, ResumePoint};
use crate::store::Life;

/// The folder of a job's lives, in the job's.
pub(crate) const LIVES: &str = "lives";

/// The folders in which the hosts of executors are, by job, of the control plane whose folder is `state_dir`. Blocks on
/// the disk.
pub(crate) fn hosts_by_job(state_dir: &Path) -> Vec<(String, PathBuf)> {
    let jobs = std::fs::read_dir(state_dir.join(JOBS)).into_iter().flatten().filter_map(Result::ok);
    let lives = jobs.filter_map(|job| Some((job.file_name().into_string().ok()?, job.path().join(LIVES))));
    let mut lives: Vec<_> = lives.filter(|(_, lives)| lives.is_dir()).collect();
    lives.sort();
    lives
}

/// How much of its output a host keeps, bytes. What is in the history is not needed any more, so this is what an
/// executor may say while no control plane is there.
const LOG_CAP: u64 = 256 << 20;

/// How long those that an executor leaves behind may hold its output.
const DRAIN: Duration = Duration::from_secs(1);
/// How long they have between SIGTERM and SIGKILL.
const KILL_GRACE: Duration = Duration::from_millis(500);

/// What an executor reads on its stdin.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Order<'a> {
    job_id: &'a str,
    config: &'a RawValue,
    resume_from: Option<ResumePoint>,
}

/// Where the host of `life` is.
pub(super) fn place_of(core: &Core, job: &Job, life: &Life) -> Place {
    let id = life.id.as_str();
    let socket = core.settings.hosts.socket_dir.join(format!("{id}.sock"));
    Place::new(core.job_dir(&job.id).join(LIVES).join(id), socket)
}

/// Starts an executor of `job` in a host, to go on from `resume`. There is no connection to one that was done before it
/// could be made. An inner error says why there is no host.
pub(super) async fn begin(
    core: &Core,
    job: &Job,
    resume: Option<ResumePoint>,
) -> Result<Result<(Life, Option<Started>), String>, sqlx::Error> {
    let logged = patiently(core, || core.store.history(job.ord)).await?.last_logged_step;
    let life = Life::new(RunId::fresh(), logged);
    let place = place_of(core, job, &life);
    let (job_dir, order) = (core.job_dir(&job.id), order(job, resume));
    let keeping = place.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&keeping, job_dir, &order)).await;
    let spec = match prepared.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok((order, hash)) => spec(core, job, &life, &place, order, hash),
        Err(error) => Err(format!("the job's folder cannot be written: {error}")),
    };
    let spec = match spec {
        Ok(spec) => spec,
        Err(why) => return Ok(Err(why)),
    };
    patiently(core, || core.store.begin_life(job.ord, &life)).await?;
    let started = place.start(&core.settings.hosts.command, &spec, Some(&core.job_marker(&job.id))).await;
    Ok(match started {
        Ok(started) => Ok((life, Some(started))),
        Err(_) if place.log().exists() => Ok((life, None)),
        Err(why) => Err(format!("the executor cannot be hosted: {why}")),
    })
}

/// Makes the life's folder in place of earlier ones, which are accounted for, and writes the order into it.
fn prepare(place: &Place, job_dir: PathBuf, order: &[u8]) -> io::Result<(PathBuf, ContentHash)> {
    match std::fs::remove_dir_all(job_dir.join(LIVES)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok((place.keep("order.json", order)?, ContentHash::of(order)))
}

fn order(job: &Job, resume_from: Option<ResumePoint>) -> Vec<u8> {
    let config: &RawValue = serde_json::from_str(&job.config).expect("a config is stored once it parsed");
    let order = Order { job_id: &job.id, config, resume_from };
    let mut line = serde_json::to_vec(&order).expect("strings, numbers and raw JSON always serialise");
    line.push(b'\n');
    line
}

fn spec(
    core: &Core,
    job: &Job,
    life: &Life,
    place: &Place,
    order: PathBuf,
    content_hash: ContentHash,
) -> Result<Spec, String> {
    let text = |text: std::ffi::OsString| {
        text.into_string()
            .map_err(|text| format!("{} is not UTF-8; check the executor setting", text.display()))
    };
    let setting = &core.settings.executor;
    let command = std::iter::once(&setting.program).chain(&setting.train_args).cloned().map(text);
    let mut env = setting
        .env
        .iter()
        .map(|(name, value)| Ok((text(name.clone())?, text(value.clone())?)))
        .collect::<Result<std::collections::BTreeMap<_, _>, String>>()?;
    let marker = core.job_marker(&job.id);
    env.insert(marker.name, marker.value);
    env.insert("MIDRUN_RUN_DIR".to_owned(), text(place.dir().to_owned().into())?);
    let cwd = std::env::current_dir().map_err(|error| format!("there is no working folder: {error}"))?;
    Ok(Spec {
        run: life.id.clone(),
        command: command.collect::<Result<_, _>>()?,
        cwd: text(cwd.into())?,
        env,
        content_hash,
        socket: text(place.socket().to_owned().into())?,
        hot_swap_signal: process::signal::SIGUSR2,
        drain_ms: millis_of(DRAIN),
        kill_grace_ms: millis_of(KILL_GRACE),
        log_cap: Some(LOG_CAP),
        alone_ms: core.settings.alone.map(millis_of),
        early_stop_ms: millis_of(core.settings.stop_grace),
        pty: false,
        terminal: None,
        executor: true,
        stdin: Some(text(order.into())?),
    })
}

fn millis_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
