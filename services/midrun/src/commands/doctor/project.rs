//! What the project has: an entry, settings, a server, runs, a control plane.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use settings::{Settings, SettingsError};
use wire::RunId;

use super::super::place;
use super::Check;
use crate::client::Client;
use crate::state::{self, ServerFile};

const CONTROL_PLANE_LIMIT: Duration = Duration::from_secs(5);
/// The end of a log that is looked at, bytes; its last record is short.
const TAIL: u64 = 64 * 1024;

/// Whether there is a project, and where it starts.
pub(super) fn entry(project: Option<&Path>, here: &Path) -> Check {
    let Some(project) = project else {
        return Check::warn(
            "project",
            format!("none in {} or above it", here.display()),
            "`midrun init` makes one",
        );
    };
    match place::entry_of(project) {
        Some(entry) => Check::ok("project", entry.display().to_string()),
        None => Check::warn(
            "project",
            format!("{} has no entry", project.display()),
            "write src/midrun/index.ts; `midrun init` writes one that trains",
        ),
    }
}

/// Whether the settings can be read, and a server can work with them.
pub(super) fn settings(loaded: &Result<Settings, SettingsError>) -> Check {
    let advice = "correct that name or value, or take it out";
    match loaded.as_ref().map_err(ToString::to_string).and_then(usable) {
        Ok(()) => Check::ok("settings", "midrun.toml and MIDRUN_* variables are understood"),
        Err(why) => Check::fail("settings", why, advice),
    }
}

/// # Errors
/// Why a server would refuse them.
fn usable(settings: &Settings) -> Result<(), String> {
    settings.run.hot_swap_signal_number().map_err(|error| error.to_string())?;
    for (name, hosts) in [
        ("gateway.allowedHosts", &settings.gateway.allowed_hosts),
        ("controlPlane.allowedHosts", &settings.control_plane.allowed_hosts),
    ] {
        guard::HostGuard::new(hosts).map_err(|error| format!("{name}: {error}"))?;
    }
    if settings.gateway.workers == 0 {
        return Err("gateway.workers is 0; at least one thread has to serve requests".to_owned());
    }
    Ok(())
}

/// Whether the project's server answers, if one is running.
pub(super) async fn server(project: Option<&Path>, server: Option<&ServerFile>) -> Check {
    let (Some(project), Some(server)) = (project, server) else {
        return Check::ok("server", "none is running; `midrun dev` starts one");
    };
    let (pid, url) = (server.process.pid, &server.url);
    let advice = || format!("look at its terminal; `kill {pid}` ends it, `midrun dev` starts another");
    let answer = match Client::of(project) {
        Some(Ok(client)) => match client.is_alive().await {
            // That it answers is not enough: it has to know us.
            Ok(()) => client.get(&["api", "runs"]).await.map(|_: Value| ()),
            Err(error) => Err(error),
        },
        Some(Err(error)) => Err(error),
        None => {
            return Check::warn("server", format!("process {pid} has just ended"), "`midrun dev` starts one");
        }
    };
    match answer {
        Ok(()) => Check::ok("server", format!("{url}, process {pid}")),
        Err(error) => Check::fail("server", format!("process {pid} runs, but {error}"), advice()),
    }
}

/// What a run's folder says of it.
#[derive(Debug, PartialEq, Eq)]
enum Remains {
    /// Its end is on record.
    Ended,
    /// Its host lives.
    Hosted,
    /// Its host is gone and its end is not on record.
    Lost,
}

/// Whether runs go on, or were lost, with no server there to look after them.
pub(super) fn runs(project: &Path, has_server: bool) -> Check {
    let folder = state::state_dir(project).join("runs");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Check::ok("runs", "none yet"),
        Err(error) => {
            return Check::fail(
                "runs",
                format!("{} cannot be read: {error}", folder.display()),
                "give yourself the right to read and write it",
            );
        }
    };
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let mut ids: Vec<_> = names.filter(|name| RunId::is_well_formed(name)).collect();
    ids.sort();
    let (mut hosted, mut lost) = (Vec::new(), Vec::new());
    for id in &ids {
        match remains(&folder.join(id)) {
            Remains::Ended => {}
            Remains::Hosted => hosted.push(id.as_str()),
            Remains::Lost => lost.push(id.as_str()),
        }
    }
    let count = ids.len();
    if has_server {
        return Check::ok("runs", format!("{count} kept, {} live", hosted.len()));
    }
    match (&hosted[..], &lost[..]) {
        ([], []) => Check::ok("runs", format!("{count} kept, none live")),
        ([], lost) => Check::warn(
            "runs",
            format!("nobody saw the end of {}", some(lost)),
            "their host was killed; `midrun dev` or `midrun reap` settles what they left",
        ),
        (hosted, _) => Check::warn(
            "runs",
            format!("{} trains with no server: {}", hosted.len(), some(hosted)),
            "`midrun dev` finds them again; `midrun reap` ends them",
        ),
    }
}

/// Whether executors of the project's own control plane go on with no server there to look after them. Nothing where
/// there are none, or where a server or `midrun start` is there.
pub(super) fn executors(project: &Path, has_server: bool) -> Option<Check> {
    if has_server {
        return None;
    }
    let folder = state::state_dir(project).join("control-plane");
    let hosts = control_plane::Deserted::take(&folder).ok().flatten()?.hosts_by_job();
    let is_hosted = |lives: &Path| {
        let lives = std::fs::read_dir(lives).into_iter().flatten().filter_map(Result::ok);
        lives.map(|life| remains(&life.path())).any(|remains| remains == Remains::Hosted)
    };
    let jobs: Vec<&str> =
        hosts.iter().filter(|(_, lives)| is_hosted(lives)).map(|(job, _)| job.as_str()).collect();
    (!jobs.is_empty()).then(|| {
        Check::warn(
            "executors",
            format!("{} trains with no server: job {}", jobs.len(), some(&jobs)),
            "`midrun dev` finds them again; `midrun reap` ends them, and their jobs go on with the next server",
        )
    })
}

/// A few ids, and how many more there are.
fn some(ids: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown = ids[..ids.len().min(SHOWN)].join(", ");
    match ids.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn remains(run: &Path) -> Remains {
    let host = std::fs::read(run.join("host.json")).ok();
    let host = host.and_then(|text| serde_json::from_slice::<process::Identity>(&text).ok());
    if host.is_some_and(|host| host.is_alive()) {
        Remains::Hosted
    } else if has_end(&run.join("events.jsonl")).unwrap_or(false) {
        Remains::Ended
    } else {
        Remains::Lost
    }
}

/// Whether the log's last record is `exit`.
fn has_end(log: &Path) -> io::Result<bool> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let last = tail.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let record: Value = serde_json::from_slice(last).unwrap_or_default();
    Ok(record["type"] == "exit")
}

/// Whether the control plane, if it is not the server's own, can be reached.
pub(super) async fn control_plane(url: Option<&str>) -> Check {
    let name = "control plane";
    let advice = "correct MIDRUN_CONTROL_PLANE_URL or controlPlane.url in midrun.toml; without them the server has its own";
    let Some(text) = url else { return Check::ok(name, "the one in the server") };
    let parsed = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = parsed else {
        return Check::fail(name, format!("{text:?} is no http or https URL"), advice);
    };
    let asked = async { reqwest::Client::builder().build()?.get(url).send().await };
    match tokio::time::timeout(CONTROL_PLANE_LIMIT, asked).await {
        // Whatever it says to a stranger: it is there.
        Ok(Ok(_)) => Check::ok(name, text),
        Ok(Err(error)) => Check::fail(
            name,
            format!("{text} cannot be reached: {}", crate::client::innermost(&error)),
            advice,
        ),
        Err(_) => Check::fail(
            name,
            format!("{text} says nothing within {} s", CONTROL_PLANE_LIMIT.as_secs()),
            advice,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn run_folder(project: &Path, host: Option<&process::Identity>, log: &str) -> RunId {
        let run = RunId::fresh();
        let folder = project.join(".midrun/runs").join(run.as_str());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("events.jsonl"), log).unwrap();
        if let Some(host) = host {
            std::fs::write(folder.join("host.json"), serde_json::to_vec(host).unwrap()).unwrap();
        }
        run
    }

    const OUTPUT: &str =
        r#"{"seq":1,"ts":"2026-01-02T03:04:05.678Z","type":"output","stream":"stdout","text":"exit"}"#;
    const EXIT: &str = r#"{"seq":2,"ts":"2026-01-02T03:04:05.678Z","type":"exit","code":0}"#;

    #[test]
    fn settings_that_no_server_can_work_with_are_told() {
        assert_eq!(settings(&Ok(Settings::default())).state, State::Ok);
        let mut odd = [Settings::default(), Settings::default(), Settings::default()];
        odd[0].run.hot_swap_signal = "SIGKILL".to_owned();
        odd[1].gateway.allowed_hosts = vec!["http://x/".to_owned()];
        odd[2].gateway.workers = 0;
        for (odd, name) in
            odd.into_iter().zip(["run.hotSwapSignal", "gateway.allowedHosts", "gateway.workers"])
        {
            let check = settings(&Ok(odd));
            assert_eq!(check.state, State::Fail);
            assert!(check.what.contains(name), "{}", check.what);
        }
    }

    #[test]
    fn runs_without_a_server_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path();
        assert_eq!(runs(project, false).state, State::Ok);
        let own = process::Identity::own().unwrap();
        let dead = process::Identity { start_time: own.start_time + 1, ..own.clone() };
        run_folder(project, Some(&dead), &format!("{OUTPUT}\n{EXIT}\n"));
        assert_eq!(runs(project, false), Check::ok("runs", "1 kept, none live"));
        let lost = run_folder(project, Some(&dead), &format!("{OUTPUT}\n"));
        let check = runs(project, false);
        assert_eq!((check.state, check.what), (State::Warn, format!("nobody saw the end of {lost}")));
        let live = run_folder(project, Some(&own), &format!("{OUTPUT}\n"));
        let check = runs(project, false);
        assert_eq!(check.state, State::Warn);
        assert!(check.what.ends_with(live.as_str()), "{}", check.what);
        assert_eq!(runs(project, true), Check::ok("runs", "3 kept, 1 live"), "the server looks after them");
    }

    #[test]
    fn executors_without_a_server_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path();
        assert_eq!(executors(project, false), None);
        let life = project.join(".midrun/control-plane/jobs/j1/lives").join(RunId::fresh().as_str());
        std::fs::create_dir_all(&life).unwrap();
        std::fs::write(project.join(".midrun/control-plane/control-plane.lock"), "").unwrap();
        let own = process::Identity::own().unwrap();
        let dead = process::Identity { start_time: own.start_time + 1, ..own.clone() };
        std::fs::write(life.join("host.json"), serde_json::to_vec(&dead).unwrap()).unwrap();
        assert_eq!(executors(project, false), None);
        std::fs::write(life.join("host.json"), serde_json::to_vec(&own).unwrap()).unwrap();
        let check = executors(project, false).unwrap();
        assert_eq!((check.state, check.what), (State::Warn, "1 trains with no server: job j1".to_owned()));
        assert_eq!(executors(project, true), None, "the server looks after it");
    }

    #[test]
    fn the_end_of_a_long_log_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("events.jsonl");
        let long = format!("{OUTPUT}\n").repeat(2_000);
        for (text, ended) in [
            (format!("{long}{EXIT}\n"), true),
            (long.clone(), false),
            (format!("{long}{EXIT}\n{}", &OUTPUT[..20]), false),
            (String::new(), false),
        ] {
            std::fs::write(&log, &text).unwrap();
            assert_eq!(has_end(&log).unwrap(), ended);
        }
    }

    #[tokio::test]
    async fn a_control_plane_has_to_be_there() {
        assert_eq!(control_plane(None).await.state, State::Ok);
        for text in ["nonsense", "ftp://127.0.0.1/"] {
            assert_eq!(control_plane(Some(text)).await.state, State::Fail, "{text}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let gone = control_plane(Some(&url)).await;
        assert_eq!(gone.state, State::Fail);
        assert!(gone.what.contains("cannot be reached"), "{}", gone.what);
    }

    #[tokio::test]
    async fn a_server_that_lives_and_does_not_answer_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".midrun")).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = ServerFile {
            url: format!("http://{}", listener.local_addr().unwrap()),
            token: "t".to_owned(),
            process: process::Identity::own().unwrap(),
            started_at: wire::now(),
        };
        drop(listener);
        file.write(dir.path()).unwrap();
        let check = server(Some(dir.path()), Some(&file)).await;
        assert_eq!(check.state, State::Fail);
        assert!(check.advice.unwrap().contains("kill"));
        assert_eq!(server(Some(dir.path()), None).await.state, State::Ok);
    }
}
