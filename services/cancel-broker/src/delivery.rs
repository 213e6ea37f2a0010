//! One attempt to deliver a cancel, and how long to wait for the next.

use std::time::Duration;

use rand::Rng as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, StatusCode, Url};
use wire::{Cancel, Secret};

/// How long one attempt may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// The first pause; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A client for deliveries.
pub(crate) fn client() -> Client {
    Client::builder()
        .timeout(ATTEMPT_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client without a proxy file or certificates of its own can always be built")
}

/// Tries once, at `url`. An error says, without any credential, why it is not settled.
pub(crate) async fn attempt(client: &Client, url: &str, cancel: &Cancel) -> Result<(), String> {
    let to = &cancel.control_plane;
    let base = Url::parse(url).map_err(|error| format!("{url} is no address: {error}"))?;
    let mut url = base.clone();
    {
        let mut path = url.path_segments_mut().map_err(|()| format!("{base} is no HTTP address"))?;
        path.pop_if_empty().extend(["v1", "jobs"]);
        if let Some(job) = &cancel.job {
            path.push(job.as_str());
        }
        path.push("cancel");
    }
    url.query_pairs_mut().append_pair("orgSlug", &to.org_slug).append_pair("projectSlug", &to.project_slug);
    if cancel.job.is_none() {
        url.query_pairs_mut().append_pair("clientRunId", cancel.run.as_str());
    }
    let answer = client.post(url).bearer_auth(to.token.expose()).send().await;
    let answer = answer.map_err(|error| error.without_url().to_string())?;
    let status = answer.status();
    if !settles(status) {
        return Err(format!("the control plane answered {status}"));
    }
    // Another program may have its port meanwhile, and that one finds no job either.
    match (status.is_success() && !is_page(&answer)) || knows_account(client, base, &to.token).await {
        true => Ok(()),
        false => Err("who answers there does not know the account that the job was created with".to_owned()),
    }
}

/// Whether it is the control plane that answers at `url`.
async fn knows_account(client: &Client, mut url: Url, token: &Secret) -> bool {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "me"]);
    }
    let answer = client.get(url).bearer_auth(token.expose()).send().await;
    answer.is_ok_and(|answer| answer.status().is_success() && !is_page(&answer))
}

/// Web servers answer with a page to whatever they are asked.
fn is_page(answer: &Response) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/html"))
}

/// Cancelled now, cancelled before, or nothing there to cancel.
fn settles(status: StatusCode) -> bool {
    status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::GONE)
}

/// How long to wait after `attempts` failures: exponential, with jitter, bounded.
pub(crate) fn pause(attempts: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(attempts.min(16)).unwrap_or(u32::MAX));
    full.min(LONGEST_PAUSE).mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        for attempts in 0..100 {
            let pause = pause(attempts);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{attempts}: {pause:?}");
        }
        assert!(pause(20) >= LONGEST_PAUSE / 2);
    }

    #[test]
    fn what_settles() {
        for (status, want) in
            [(200, true), (202, true), (404, true), (409, true), (410, true), (401, false), (500, false)]
        {
            assert_eq!(settles(StatusCode::from_u16(status).unwrap()), want, "{status}");
        }
    }
}
