//! What is killed where, and how a run is brought there.

use std::fmt;

use failpoint::Point;

use crate::server::{BROKER, GATEWAY, INSPECTOR, REGISTRY, Topology, WATCHER};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Victims {
    /// The server.
    Server,
    /// The run-host.
    Host,
    /// The runner.
    Runner,
    /// The server and the run-host.
    ServerAndHost,
    /// The server and the runner.
    ServerAndRunner,
}

impl Victims {
    const SERVER: &[Self] = &[Self::Server];
    const WITH_HOST: &[Self] = &[Self::Server, Self::Host, Self::ServerAndHost];
    const ALL: &[Self] =
        &[Self::Server, Self::Host, Self::Runner, Self::ServerAndHost, Self::ServerAndRunner];

    /// Whether the server is among them.
    pub const fn server(self) -> bool {
        matches!(self, Self::Server | Self::ServerAndHost | Self::ServerAndRunner)
    }

    /// Whether the run-host is among them.
    pub const fn host(self) -> bool {
        matches!(self, Self::Host | Self::ServerAndHost)
    }

    /// Whether the runner is among them.
    pub const fn runner(self) -> bool {
        matches!(self, Self::Runner | Self::ServerAndRunner)
    }
}

/// How much of a server of several processes is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// All of it.
    All,
    /// The process that has this service.
    One(&'static str),
}

/// The services on a control plane that somebody else lends.
const SERVICES: &[&str] = &[WATCHER, INSPECTOR, BROKER, REGISTRY, GATEWAY];

/// Who of the server can be killed alone for `point`: the one that stands there, if only one can; and anyone, while a
/// host or a runner stands there.
fn services_at(point: Point) -> &'static [&'static str] {
    match (point, point.name().split('.').next()) {
        (Point::ServerEdgeListening | Point::ServerAnnounced, _) => &[GATEWAY],
        (_, Some("registry")) => &[REGISTRY],
        (_, Some("broker")) => &[BROKER],
        _ => SERVICES,
    }
}

/// What goes wrong besides, from the kill until the server is back: mostly what the control plane does with everything
/// about jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outage {
    /// Its work.
    None,
    /// It answers 500.
    Fails,
    /// It does not answer.
    Hangs,
    /// It does what it is asked and cuts the connection.
    LosesAnswers,
    /// It knows no job any more.
    Forgets,
    /// It does its work, and the disk has no room for what the run-host writes.
    DiskFull,
}

impl Outage {
    const ALL: [Self; 6] =
        [Self::None, Self::Fails, Self::Hangs, Self::LosesAnswers, Self::Forgets, Self::DiskFull];
    const OF_CONTROL_PLANE: &[Self] = Self::ALL.split_at(5).0;

    /// What can happen when `victims` are killed at `point`. A full disk is nothing to a host that is killed, and
    /// reason enough not to start a run.
    const fn possible(point: Point, victims: Victims) -> &'static [Self] {
        match act(point) {
            Act::Start | Act::LoseHost => Self::OF_CONTROL_PLANE,
            Act::Swap | Act::Restart | Act::StopNow | Act::TakeUp if victims.host() => Self::OF_CONTROL_PLANE,
            Act::Swap | Act::Restart | Act::StopNow | Act::TakeUp => &Self::ALL,
        }
    }
}

/// How a run is brought to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// A run is started.
    Start,
    /// The callbacks of a live run are edited.
    Swap,
    /// The config of a live run is edited.
    Restart,
    /// A live run is stopped at once.
    StopNow,
    /// The run-host of a live run is killed.
    LoseHost,
    /// The server of a live run was killed and is started.
    TakeUp,
}

/// One kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Injection {
    /// Where.
    pub point: Point,
    /// Of whom.
    pub victims: Victims,
    /// How much of the server, where it is among them, and where it is killed to be started.
    pub extent: Extent,
    /// Meanwhile.
    pub outage: Outage,
    /// Where the host is not killed with the server: it stands still until the next server has looked for it, as one
    /// that the system gives no time.
    pub slow_host: bool,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { point, victims, extent, outage, slow_host } = self;
        write!(f, "{victims:?} killed at {}", point.name())?;
        if let Extent::One(service) = extent {
            write!(f, ", of the server {service}")?;
        }
        match outage {
            Outage::DiskFull => f.write_str(", disk full")?,
            outage => write!(f, ", control plane {outage:?}")?,
        }
        f.write_str(if *slow_host { ", host slow" } else { "" })
    }
}

/// The places where a process is killed: not those where only a part of it fails, with nothing durable before or behind.
fn places() -> impl Iterator<Item = Point> {
    let only_fails = |point: &Point| {
        matches!(
            point,
            Point::BuildPublishing
                | Point::InspectionAsked
                | Point::LeashPulled
                | Point::TerminalAsked
                | Point::JobClaimed
                | Point::JobHeardFrom
        )
    };
    Point::ALL.iter().copied().filter(move |point| !only_fails(point))
}

/// How a run is brought to `point`. There is no place without a way to it, or this would not compile.
///
/// # Panics
/// If nobody is killed there.
pub(crate) const fn act(point: Point) -> Act {
    use Point as P;
    match point {
        P::StartAccepted
        | P::TableWriting
        | P::TableWritten
        | P::StartOnRecord
        | P::FolderWritten
        | P::HostSpawned
        | P::HostConnected
        | P::SpawnedSeen
        | P::ReadySeen
        | P::JobSeen
        | P::HostStarted
        | P::HostClaimed
        | P::LogCreated
        | P::HostListening
        | P::HostAnnounced
        | P::RunnerSpawned
        | P::SpawnRecorded
        | P::ReadyHeard
        | P::ReadyRecorded
        | P::JobHeard
        | P::JobRecorded
        | P::RunnerStarted
        | P::RunnerImported
        | P::RunnerJobAsked
        | P::RunnerJobCreated => Act::Start,
        P::SwapDecided
        | P::RequestWritten
        | P::SwapSeen
        | P::SwapTaken
        | P::SwapNamed
        | P::SwapHeard
        | P::SwapRecorded
        | P::RunnerSwapImported
        | P::RunnerSwapped
        | P::RunnerSwapTold => Act::Swap,
        P::StopDecided
        | P::StopOnRecord
        | P::ExitSeen
        | P::SuccessorDecided
        | P::SuccessorOnRecord
        | P::StopTaken
        | P::SignalRecorded
        | P::SignalSent
        | P::RunnerEnded
        | P::EndReached
        | P::EndRecorded
        | P::RunnerCancelling
        | P::RunnerCancelled
        | P::RunnerExiting => Act::Restart,
        P::CancelDecided
        | P::CancelAcknowledged
        | P::KillDecided
        | P::KillTaken
        | P::CancelCommitting
        | P::CancelCommitted
        | P::CancelSending
        | P::CancelSettled
        | P::CancelForgotten => Act::StopNow,
        P::LostSeen => Act::LoseHost,
        P::ServerFolderReady
        | P::ServerLocked
        | P::ServerPartsStarted
        | P::ServerEdgeListening
        | P::ServerAnnounced
        | P::TableOpened
        | P::OutboxOpened
        | P::TakingUp
        | P::LogReplayed
        | P::Reconnected
        | P::TakenUp => Act::TakeUp,
        P::BuildPublishing
        | P::InspectionAsked
        | P::LeashPulled
        | P::TerminalAsked
        | P::JobClaimed
        | P::JobHeardFrom => panic!("nobody is killed there"),
    }
}

/// Who is there to be killed at `point`.
const fn victims(point: Point) -> &'static [Victims] {
    use Point as P;
    match point {
        // No host yet, or none any more.
        P::StartAccepted
        | P::TableWriting
        | P::TableWritten
        | P::StartOnRecord
        | P::FolderWritten
        | P::ExitSeen
        | P::SuccessorDecided
        | P::SuccessorOnRecord
        | P::CancelSending
        | P::CancelSettled
        | P::CancelForgotten
        | P::LostSeen => Victims::SERVER,
        // No runner yet, or none any more.
        P::HostSpawned
        | P::HostConnected
        | P::HostStarted
        | P::HostClaimed
        | P::LogCreated
        | P::HostListening
        | P::HostAnnounced
        | P::RunnerEnded
        | P::EndReached
        | P::EndRecorded => Victims::WITH_HOST,
        _ => Victims::ALL,
    }
}

/// Numbers that look random and are the same for the same seed (Marsaglia's xorshift).
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn of(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        let count = u64::try_from(from.len()).expect("a count fits");
        from[usize::try_from(self.next() % count).expect("it is below a count")]
    }
}

/// `count` injections: every place with everybody who is there to be killed, again and again with other outages, in
/// an order that `seed` decides. A server of several processes is killed as a whole as often as in part, and who dies at
/// a place is chosen anew in each round of all places.
pub fn plan(seed: u64, count: usize, topology: Topology) -> Vec<Injection> {
    let mut random = Random::of(seed);
    let mut injections = Vec::new();
    let everything = places().flat_map(|point| victims(point).iter().map(move |who| (point, *who)));
    let everything: Vec<_> = everything.collect();
    while injections.len() < count {
        let mut round: Vec<_> = match topology {
            Topology::One => everything.clone(),
            Topology::Six => places().map(|point| (point, random.choose(victims(point)))).collect(),
        };
        while !round.is_empty() && injections.len() < count {
            let left = u64::try_from(round.len()).expect("a count fits");
            let next = usize::try_from(random.next() % left).expect("it is below a count");
            let (point, victims) = round.swap_remove(next);
            let outage = random.choose(Outage::possible(point, victims));
            let may_be_slow = victims.server() && !victims.host();
            let slow_host = may_be_slow && random.choose(&[true, false]);
            let is_apart = topology == Topology::Six
                && (victims.server() || act(point) == Act::TakeUp)
                && random.choose(&[true, false]);
            let extent = if is_apart { Extent::One(random.choose(services_at(point))) } else { Extent::All };
            injections.push(Injection { point, victims, extent, outage, slow_host });
        }
    }
    injections
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_plan_of_300_is_at_every_place_with_every_victim_and_outage() {
        let all = plan(1, 300, Topology::One);
        let points: HashSet<Point> = all.iter().map(|injection| injection.point).collect();
        assert_eq!(points.len(), places().count());
        for point in places() {
            for who in victims(point) {
                assert!(all.iter().any(|one| one.point == point && one.victims == *who), "{point:?} {who:?}");
            }
        }
        assert!(all.iter().any(|one| one.slow_host));
        assert_eq!(all.iter().map(|one| one.outage).collect::<HashSet<_>>().len(), Outage::ALL.len());
        assert!(all.iter().all(|one| one.extent == Extent::All));
        assert_eq!(all, plan(1, 300, Topology::One));
        assert_ne!(all, plan(2, 300, Topology::One));
    }

    #[test]
    fn a_plan_of_150_kills_six_processes_together_and_each_alone_at_every_place() {
        let all = plan(1, 150, Topology::Six);
        let points: HashSet<Point> = all.iter().map(|injection| injection.point).collect();
        assert_eq!(points.len(), places().count());
        let extents: HashSet<Extent> = all.iter().map(|injection| injection.extent).collect();
        assert_eq!(extents.len(), 1 + SERVICES.len());
    }
}
