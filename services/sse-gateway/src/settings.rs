//! What the edge is told from outside, and what it refuses to be told.

use std::time::Duration;

use guard::{HostGuard, NotAHost};
use wire::Secret;

use crate::page::Assets;

/// Everything that may differ from one server to the next.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The token that every `/api` request must carry.
    pub token: Secret,
    /// Names, besides the loopback ones, under which browsers and clients may reach this server: `studio.lan` with
    /// any port, or `studio.lan:8080` with exactly that one.
    pub allowed_hosts: Vec<String>,
    /// The page's title.
    pub title: String,
    /// What the page is made of.
    pub assets: Assets,
    /// midrun's version, as the page shows it.
    pub version: String,
    /// Threads that serve requests.
    pub workers: usize,
    /// Where a trace is looked at, `{traceId}` in it; no link without it.
    pub trace_ui: Option<String>,
    /// What is bounded, and where.
    pub limits: Limits,
}

/// Bounds of time and number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How often an event stream says that it is alive when it has nothing else to say.
    pub heartbeat: Duration,
    /// How long a client may leave what was sent to it untaken, or not be reachable, before it is dropped.
    pub stall: Duration,
    /// How much the system may hold for a client that does not read, bytes; the system may round it up.
    pub send_buffer: usize,
    /// Event streams and proxied streams open at once.
    pub streams: usize,
    /// `POST /api/train` requests open at once.
    pub trains: usize,
    /// How long a request's body may take to arrive.
    pub body: Duration,
    /// How long a part that is away may stay away before a stream that needs it ends, and how long a registry that does
    /// not know a run that is to end may take to find it.
    pub patience: Duration,
    /// How long the control plane may be silent before its answer, or between two parts of it.
    pub upstream_silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            send_buffer: 128 * 1024,
            streams: 8192,
            trains: 64,
            body: Duration::from_secs(30),
            patience: Duration::from_secs(30),
            upstream_silence: Duration::from_secs(120),
        }
    }
}

/// More threads than this do not serve a developer's browsers any faster.
const WORKERS: usize = 4;

impl Settings {
    /// The defaults, with `token`.
    pub fn new(token: Secret) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            token,
            allowed_hosts: Vec::new(),
            title: "midrun".to_owned(),
            assets: Assets::built_in(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: cores.min(WORKERS),
            trace_ui: None,
            limits: Limits::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<HostGuard, SettingsError> {
        let token = self.token.expose();
        if token.len() < SHORTEST_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SettingsError::Token);
        }
        let limits = &self.limits;
        let none = [
            ("workers", self.workers == 0),
            ("heartbeat", limits.heartbeat.is_zero()),
            ("streams", limits.streams == 0),
            ("trains", limits.trains == 0),
        ];
        if let Some((name, _)) = none.into_iter().find(|(_, none)| *none) {
            return Err(SettingsError::Zero { name });
        }
        HostGuard::new(&self.allowed_hosts).map_err(|NotAHost(host)| SettingsError::Host { host })
    }
}

const SHORTEST_TOKEN: usize = 16;

/// Why the edge cannot be set up as told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The token would not protect anything, or cannot be sent in a header.
    #[error("the token must be at least {SHORTEST_TOKEN} visible ASCII characters")]
    Token,
    /// A name that no `Host` header can carry.
    #[error("allowed host {host:?} is not a host name or address with an optional port")]
    Host {
        /// What was given.
        host: String,
    },
    /// A number that must not be zero.
    #[error("{name} must not be zero")]
    Zero {
        /// Which.
        name: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(token: &str) -> Settings {
        Settings::new(Secret::new(token))
    }

    #[test]
    fn a_token_must_be_worth_its_name() {
        assert!(settings("0123456789abcdef").check().is_ok());
        for token in ["", "short", "0123456789 abcdef", "0123456789abcdef\n", "0123456789abcdefé"] {
            assert_eq!(settings(token).check().err(), Some(SettingsError::Token), "{token:?}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let mut none = settings("0123456789abcdef");
        none.limits.streams = 0;
        assert_eq!(none.check().err(), Some(SettingsError::Zero { name: "streams" }));
        let mut odd = settings("0123456789abcdef");
        odd.allowed_hosts = vec!["http://x/".to_owned()];
        assert!(matches!(odd.check(), Err(SettingsError::Host { .. })));
    }
}
