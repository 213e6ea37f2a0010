//! What is known of an entry's builds: the newest good one, and whether a newer one failed.

use wire::manifest::{Good, Rebuild};
use wire::run::{NewestBuild, RunRefusal};
use wire::{BuildId, EntryPath, Failure, TraceContext};

use crate::run_state::Code;

#[derive(Debug, Default)]
pub(super) struct Builds {
    good: Option<(BuildId, Good, Code)>,
    /// The newest build, when that one failed.
    failing: Option<Failure>,
    newest: Option<BuildId>,
    /// The trace of the newest good one.
    trace: TraceContext,
}

impl Builds {
    /// Whether there were any.
    pub(super) fn are_seen(&self) -> bool {
        self.newest.is_some()
    }

    /// Whether `rebuild` is the newest of them.
    pub(super) fn know(&self, rebuild: &Rebuild) -> bool {
        self.newest.as_ref() == Some(&rebuild.build_id)
    }

    /// There is a newer one. Gives the good one that it takes the place of, if it is good and there was one.
    pub(super) fn take(&mut self, rebuild: &Rebuild) -> Option<Good> {
        self.newest = Some(rebuild.build_id.clone());
        match &rebuild.result {
            Err(failure) => {
                self.failing = Some(failure.clone());
                None
            }
            Ok(good) => {
                self.failing = None;
                self.trace = rebuild.trace.clone();
                let before = self.good.replace((rebuild.build_id.clone(), good.clone(), Code::of(good)));
                before.map(|(_, good, _)| good)
            }
        }
    }

    /// The newest good one, and its trace.
    pub(super) fn newest_good(&self) -> Option<(&Good, &TraceContext)> {
        self.good.as_ref().map(|(_, good, _)| (good, &self.trace))
    }

    /// The trace of the newest good one.
    pub(super) fn trace(&self) -> &TraceContext {
        &self.trace
    }

    /// What a run could be started on, or why none can.
    pub(super) fn startable(&self, entry: &EntryPath) -> Result<&Code, RunRefusal> {
        if let Some(failure) = &self.failing {
            return Err(RunRefusal::BuildFailing { failure: failure.clone() });
        }
        match &self.good {
            Some((_, good, code)) if good.manifest.trainer.is_some() => Ok(code),
            Some(_) => Err(RunRefusal::NoTrainer { entry: entry.clone() }),
            None => Err(RunRefusal::NotStarted { why: "its first build is not done; try again".into() }),
        }
    }

    /// What the newest one came to, of an entry that people are told of as `shown_entry`.
    pub(super) fn newest(&self, shown_entry: &str) -> NewestBuild {
        if let Some(failure) = &self.failing {
            return NewestBuild::Failing(failure.clone());
        }
        match &self.good {
            Some((build_id, good, _)) => NewestBuild::Good {
                build_id: build_id.clone(),
                content_hash: good.artifact.content_hash.clone(),
                manifest: good.manifest.clone(),
                entry: shown_entry.to_owned(),
            },
            None => NewestBuild::Pending,
        }
    }
}
