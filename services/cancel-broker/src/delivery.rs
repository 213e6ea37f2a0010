//! One attempt to deliver a cancel, and how long to wait for the next.

use std::time::Duration;

use rand::Rng as _;
use reqwest::{Client, StatusCode, Url};
use wire::Cancel;

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

/// Tries once. An error says, without any credential, why it is not settled.
pub(crate) async fn attempt(client: &Client, cancel: &Cancel) -> Result<(), String> {
    let to = &cancel.control_plane;
    let mut url = Url::parse(&to.url).map_err(|error| format!("{} is no address: {error}", to.url))?;
    {
        let mut path = url.path_segments_mut().map_err(|()| format!("{} is no HTTP address", to.url))?;
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
    let status = answer.map_err(|error| error.without_url().to_string())?.status();
    if settles(status) { Ok(()) } else { Err(format!("the control plane answered {status}")) }
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
