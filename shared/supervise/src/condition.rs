//! Whether a part is well, for everyone to see, and what is done about it.

use std::time::{Duration, Instant};

use telemetry::metrics::counted;
use tokio::sync::watch;
use wire::Trouble;

use crate::Failure;
use crate::patience::{Patience, Policy, Verdict};

/// How a part is; clones are of the same part.
#[derive(Debug, Clone)]
pub struct Condition {
    service: &'static str,
    trouble: watch::Sender<Option<Trouble>>,
}

impl Condition {
    /// Of a part of `service` that is well.
    pub fn new(service: &'static str) -> Self {
        Self { service, trouble: watch::Sender::new(None) }
    }

    /// What is wrong with it; nothing while all is well.
    pub fn watch(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }

    pub(crate) fn patience(&self, policy: Policy) -> Patience {
        Patience::new(policy, Instant::now())
    }

    /// It failed: how long until it is started again, if it ever is.
    pub(crate) fn failed(&self, failure: &Failure, patience: &mut Patience) -> Option<Duration> {
        let words = failure.words();
        match patience.fails(failure, Instant::now()) {
            Verdict::Again(pause) => {
                tracing::error!(
                    service = self.service,
                    why = words,
                    ?pause,
                    "a part failed; it is started again"
                );
                self.say(match failure {
                    Failure::Panic(_) => format!("it failed and is being restarted: {words}"),
                    Failure::Error(_) => format!("it cannot start and is tried again: {words}"),
                });
                Some(pause)
            }
            Verdict::Never => {
                tracing::error!(
                    service = self.service,
                    why = words,
                    "a part failed too often; it stays down"
                );
                self.say(format!(
                    "it failed too often within a minute and stays down: {words}. Runs go on; stop midrun and start it \
                     again, and they are taken up"
                ));
                None
            }
        }
    }

    /// The next life begins.
    pub(crate) fn begins_again(&self, patience: &mut Patience) {
        patience.begins(Instant::now());
        counted().actor_restarts.add([self.service]);
        self.trouble.send_replace(None);
    }

    fn say(&self, why: String) {
        self.trouble.send_modify(|trouble| match trouble {
            Some(known) => known.why = why,
            None => *trouble = Some(Trouble::now(self.service, why)),
        });
    }
}
