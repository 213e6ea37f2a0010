//! The runs of an earlier server: read from the table and their logs, and connected to where they live.

use std::collections::HashSet;
use std::rc::Rc;

use failpoint::Point;
use hosting::Told;
use wire::RunId;

use super::{Core, SETUP_LIMIT, now};
use crate::launch::{self, Found};
use crate::store::{Saved, Store};

impl Core {
    /// Opens the durable table and takes up the runs of an earlier server.
    pub(super) async fn recover(self: &Rc<Self>) {
        let opened = Store::open_in(&self.life, &self.settings.runs_table).await;
        let (store, saved) = match opened {
            Ok((store, saved)) => (Ok(store), saved),
            Err(why) => {
                tracing::error!(why, "no run can be started or taken up");
                (Err(why), Vec::new())
            }
        };
        failpoint::reach(Point::TableOpened);
        self.store.send_replace(Some(store));
        for saved in live_first(saved) {
            self.take_up(saved).await;
        }
        let mut fleet = self.fleet.borrow_mut();
        for entry in fleet.named() {
            if fleet.needs(&entry) {
                self.orders.place(&entry);
            } else if !self.orders.has(&entry) {
                // One that is ordered already is that of a start, which gives it back itself.
                self.orders.give_back(&entry);
            }
        }
        let _told_below = fleet.retain();
        // Without the table nobody knows what live runs use.
        if matches!(&*self.store.borrow(), Some(Ok(_))) {
            self.retained.send_replace(Some(fleet.retained()));
        }
        drop(fleet);
        failpoint::reach(Point::TakenUp);
        self.taken_up.send_replace(true);
        self.changed.send_replace(());
    }

    /// Waits until `run` is known, or all runs of an earlier server are, so that nobody is told that one of them does
    /// not exist. Each of them is looked for for a bounded time.
    pub(super) async fn known(&self, run: &RunId) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if self.fleet.borrow().view(run).is_some() || *self.taken_up.borrow() {
                return;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the runs of an earlier server are known. Answers whether they are.
    pub(super) async fn all_known(&self) -> bool {
        let mut taken_up = self.taken_up.subscribe();
        tokio::time::timeout(SETUP_LIMIT, taken_up.wait_for(|known| *known)).await.is_ok()
    }

    /// Takes up one run of an earlier server: reads its log, connects to its host, and does what was left undone.
    async fn take_up(self: &Rc<Self>, saved: Saved) {
        failpoint::reach(Point::TakingUp);
        let run = saved.run.clone();
        let place = self.place(&run);
        let log = tokio::task::spawn_blocking(move || place.life(0)).await;
        let log = log.unwrap_or_else(|panic| Err(std::io::Error::other(panic))).unwrap_or_default();
        let control_plane = launch::credentials(self.place(&run).dir());
        self.control_planes.borrow_mut().extend(control_plane.map(|known| (run.clone(), known)));
        failpoint::reach(Point::LogReplayed);
        let effects = self.fleet.borrow_mut().restore(saved, &log, now());
        self.carry_out(effects);
        if !self.fleet.borrow().is_live(&run) {
            return self.forget_credentials(&run);
        }
        let seen = log.last().map_or(0, |record| record.seq);
        match launch::reconnect(&self.settings, &run).await {
            Ok(Found::Host(stream)) => {
                self.linked(&run, stream, seen);
                let effects = self.fleet.borrow_mut().taken_up(&run, now());
                self.carry_out(effects);
            }
            Ok(Found::NeverStarted) if log.is_empty() => {
                let effects = self.fleet.borrow_mut().never_started(&run, now());
                self.carry_out(effects);
            }
            Ok(_) => self.gone(&run, seen, "its run-host ended while no server was there to see it").await,
            Err(error) => {
                self.gone(&run, seen, &format!("its run-host cannot be looked for: {error}")).await;
            }
        }
    }

    /// The host of a run of an earlier server is not there. It may have written the end before it went.
    pub(super) async fn gone(self: &Rc<Self>, run: &RunId, seen: u64, why: &str) {
        let place = self.place(run);
        let rest = tokio::task::spawn_blocking(move || place.life(seen));
        let rest = rest.await.ok().and_then(Result::ok).unwrap_or_default();
        for record in rest {
            self.told(run, Told::Record(record));
        }
        self.told(run, Told::Lost { why: why.to_owned() });
    }
}

/// Those that may live, and what they replace, before those that are over: these only have to be listed, and their logs
/// may be long.
fn live_first(saved: Vec<Saved>) -> impl Iterator<Item = Saved> {
    let live = saved.iter().filter(|saved| !saved.has_ended());
    let concerned: HashSet<RunId> =
        live.flat_map(|saved| [Some(saved.run.clone()), saved.replaces.clone()]).flatten().collect();
    let (first, later): (Vec<_>, Vec<_>) =
        saved.into_iter().partition(|saved| concerned.contains(&saved.run));
    first.into_iter().chain(later)
}
