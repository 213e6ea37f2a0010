//! A part: one life after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::watch;
use wire::Trouble;

use crate::life::Life;
use crate::{Condition, Failure, Policy};

/// How long a life that failed may take to let go of what the next one needs.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// A part that is started again when it fails. It ends when this is dropped, or in an orderly way with
/// [`Part::retire`].
#[derive(Debug)]
pub struct Part {
    service: &'static str,
    condition: Condition,
    lives: watch::Receiver<Option<String>>,
    retire: watch::Sender<Option<Duration>>,
    over: watch::Receiver<Option<bool>>,
}

impl Part {
    /// Makes the first life by `factory`, and another one after each failure. Needs a running actix system.
    ///
    /// # Errors
    /// Why the first life cannot begin. Later ones are tried again.
    pub fn start(
        service: &'static str,
        policy: Policy,
        mut factory: impl FnMut(&Life) -> Result<(), String> + 'static,
    ) -> Result<Self, String> {
        let life = Life::new();
        factory(&life)?;
        let condition = Condition::new(service);
        let (count, lives) = watch::channel(Some(life_number(1)));
        let (retire, retiring) = watch::channel(None);
        let (tell_over, over) = watch::channel(None);
        let supervisor = Supervisor { condition: condition.clone(), policy, count, retiring };
        actix::spawn(async move {
            let in_time = supervisor.run(life, factory).await;
            tell_over.send_replace(Some(in_time));
        });
        Ok(Self { service, condition, lives, retire, over })
    }

    /// What is wrong with it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.condition.watch()
    }

    /// Which of its lives it is in: another value for each.
    pub fn lives(&self) -> watch::Receiver<Option<String>> {
        self.lives.clone()
    }

    /// Takes no more messages, lets go of what it holds and ends; takes for that at most `limit`. False: the time was not
    /// enough. May be called again.
    pub async fn retire(&self, limit: Duration) -> bool {
        self.retire.send_if_modified(|asked| asked.replace(limit).is_none());
        let mut over = self.over.clone();
        let over = over.wait_for(Option::is_some).await.ok().and_then(|in_time| *in_time);
        if over == Some(false) {
            tracing::warn!(service = self.service, "a part did not end in time");
        }
        over == Some(true)
    }
}

fn life_number(number: u64) -> String {
    number.to_string()
}

struct Supervisor {
    condition: Condition,
    policy: Policy,
    count: watch::Sender<Option<String>>,
    retiring: watch::Receiver<Option<Duration>>,
}

impl Supervisor {
    /// Whether the part ended in time when it was told to.
    async fn run(mut self, mut life: Life, mut factory: impl FnMut(&Life) -> Result<(), String>) -> bool {
        let mut number = 1;
        let mut patience = self.condition.patience(self.policy);
        let mut is_in_trouble = false;
        loop {
            let first = life.failure();
            tokio::pin!(first);
            let mut failure = loop {
                tokio::select! {
                    limit = retired(&mut self.retiring) => return life.retire(limit).await,
                    failure = &mut first => break failure,
                    () = life.begun(), if is_in_trouble => {
                        is_in_trouble = false;
                        self.condition.begins_again(&mut patience);
                    }
                }
            };
            is_in_trouble = true;
            loop {
                let pause = self.condition.failed(&failure, &mut patience);
                life.end(FAREWELL_LIMIT).await;
                let Some(pause) = pause else {
                    life.stay_down();
                    retired(&mut self.retiring).await;
                    return true;
                };
                tokio::select! {
                    _ = retired(&mut self.retiring) => return true,
                    () = crate::pass(pause) => {}
                }
                life = Life::new();
                match catch_unwind(AssertUnwindSafe(|| factory(&life))) {
                    Ok(Ok(())) => break,
                    Ok(Err(why)) => failure = Failure::Error(why),
                    Err(panic) => failure = Failure::of_panic(panic.as_ref()),
                }
            }
            number += 1;
            self.count.send_replace(Some(life_number(number)));
        }
    }
}

/// Comes true when the part is to end, also because nobody has it any more; within which time.
async fn retired(retiring: &mut watch::Receiver<Option<Duration>>) -> Duration {
    let limit = retiring.wait_for(Option::is_some).await;
    limit.ok().and_then(|limit| *limit).unwrap_or(FAREWELL_LIMIT)
}
