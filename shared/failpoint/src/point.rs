//! Every place there is.

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A place between two durable facts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Point {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Point {
            /// Every place, in the order in which a run comes through most of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name: the part, a dot, and what has just happened there.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

points! {
    /// The server has the state folder; nobody has the project yet.
    ServerFolderReady = "server.folder-ready",
    /// The server has the project to itself; nothing is open.
    ServerLocked = "server.locked",
    /// Every part of the server was started; nobody can ask it.
    ServerPartsStarted = "server.parts-started",
    /// The server answers; the file that says where is not there.
    ServerEdgeListening = "server.edge-listening",
    /// The file that says where the server is stands there; nobody was greeted.
    ServerAnnounced = "server.announced",
    /// The table of runs is open and read; no run of an earlier server was taken up.
    TableOpened = "registry.table-opened",
    /// Every run of an earlier server was taken up, and nobody was told.
    TakenUp = "registry.taken-up",
    /// The outbox is open; nothing in it was sent.
    OutboxOpened = "broker.outbox-opened",
    /// A start was accepted; nothing of it is on disk.
    StartAccepted = "registry.start-accepted",
    /// A batch of changes is about to be written to the table.
    TableWriting = "registry.table-writing",
    /// A batch of changes is in the table, and nobody was told.
    TableWritten = "registry.table-written",
    /// The run to be started stands in the table.
    StartOnRecord = "registry.start-on-record",
    /// The run's folder has its spec and its credentials; there is no process.
    FolderWritten = "registry.folder-written",
    /// The run-host's process exists.
    HostSpawned = "registry.host-spawned",
    /// The registry is connected to the run-host.
    HostConnected = "registry.host-connected",
    /// The registry read that the runner exists.
    SpawnedSeen = "registry.spawned-seen",
    /// The registry read that the runner is armed.
    ReadySeen = "registry.ready-seen",
    /// The registry read that the run has its job.
    JobSeen = "registry.job-seen",
    /// A swap was decided; the host was not asked.
    SwapDecided = "registry.swap-decided",
    /// A request stands in the host's socket.
    RequestWritten = "registry.request-written",
    /// The registry read the runner's word on a swap.
    SwapSeen = "registry.swap-seen",
    /// An early stop was decided; it is not on disk.
    StopDecided = "registry.stop-decided",
    /// An early stop stands in the table; the host was not asked.
    StopOnRecord = "registry.stop-on-record",
    /// A stop at once was accepted; its cancel is not on disk.
    CancelDecided = "registry.cancel-decided",
    /// The cancel is in the outbox, and the table does not say so.
    CancelAcknowledged = "registry.cancel-acknowledged",
    /// The cancel is on disk; the host was not asked to kill.
    KillDecided = "registry.kill-decided",
    /// The registry read how the run ended.
    ExitSeen = "registry.exit-seen",
    /// The registry saw that the run-host is gone without a word.
    LostSeen = "registry.lost-seen",
    /// The successor of an ended run was decided; it is not on disk.
    SuccessorDecided = "registry.successor-decided",
    /// The successor stands in the table; nothing of it was started.
    SuccessorOnRecord = "registry.successor-on-record",
    /// A run of an earlier server was read from the table.
    TakingUp = "registry.taking-up",
    /// The log of a run of an earlier server was read.
    LogReplayed = "registry.log-replayed",
    /// The registry is connected to a run-host of an earlier server.
    Reconnected = "registry.reconnected",
    /// A cancel was accepted; it is not in the outbox.
    CancelCommitting = "broker.committing",
    /// A cancel is in the outbox, and nobody was told.
    CancelCommitted = "broker.committed",
    /// A cancel is about to be sent.
    CancelSending = "broker.sending",
    /// The control plane settled a cancel that still stands in the outbox.
    CancelSettled = "broker.settled",
    /// A settled cancel left the outbox.
    CancelForgotten = "broker.forgotten",
    /// The run-host has its spec; nothing says that it exists.
    HostStarted = "host.started",
    /// The run is claimed by its host; there is no log.
    HostClaimed = "host.claimed",
    /// The log exists and is empty; nobody listens.
    LogCreated = "host.log-created",
    /// The host listens; the file that says so is not there.
    HostListening = "host.listening",
    /// The host said that it listens; there is no runner.
    HostAnnounced = "host.announced",
    /// The runner's process exists; the log does not say so.
    RunnerSpawned = "host.runner-spawned",
    /// The log says that the runner exists.
    SpawnRecorded = "host.spawn-recorded",
    /// The runner said that it is armed; the log does not.
    ReadyHeard = "host.ready-heard",
    /// The log says that the runner is armed.
    ReadyRecorded = "host.ready-recorded",
    /// The runner told its job; the log does not say so.
    JobHeard = "host.job-heard",
    /// The log says which job the run has.
    JobRecorded = "host.job-recorded",
    /// The host took a request to swap.
    SwapTaken = "host.swap-taken",
    /// The runner was told the artifact; nothing was signalled.
    SwapNamed = "host.swap-named",
    /// The runner's word on a swap was heard; the log does not have it.
    SwapHeard = "host.swap-heard",
    /// The log has the runner's word on a swap.
    SwapRecorded = "host.swap-recorded",
    /// The host took a request to stop at the next checkpoint.
    StopTaken = "host.stop-taken",
    /// The host took a request to stop at once.
    KillTaken = "host.kill-taken",
    /// The log says that a signal is sent; it was not.
    SignalRecorded = "host.signal-recorded",
    /// A signal was sent; the one who asked was not told.
    SignalSent = "host.signal-sent",
    /// The runner ended; its output is not drained.
    RunnerEnded = "host.runner-ended",
    /// Everything that the run wrote was read and nobody of it is left; the log has no end.
    EndReached = "host.end-reached",
    /// The end stands in the log; nobody was told.
    EndRecorded = "host.end-recorded",
    /// A build is about to be published.
    BuildPublishing = "watcher.publishing",
    /// A worker is about to be asked for a manifest.
    InspectionAsked = "inspector.asked",
    /// The edge was told that a request ended; its run was not stopped.
    LeashPulled = "gateway.leash-pulled",
    /// A terminal is about to be opened.
    TerminalAsked = "terminals.asked",
    /// The control plane claimed a job; there is no executor.
    JobClaimed = "control-plane.job-claimed",
    /// The control plane started an executor and hears it.
    JobHeardFrom = "control-plane.job-heard",
    /// The runner heeds signals; nothing of the user's was imported.
    RunnerStarted = "runner.started",
    /// The runner found the trainer; nobody was told that it is armed.
    RunnerImported = "runner.imported",
    /// The control plane is about to be asked for the job.
    RunnerJobAsked = "runner.job-asked",
    /// The control plane gave the job; nobody else knows of it.
    RunnerJobCreated = "runner.job-created",
    /// The runner imported the new code; the callbacks are the old ones.
    RunnerSwapImported = "runner.swap-imported",
    /// The callbacks are the new ones; nobody was told.
    RunnerSwapped = "runner.swapped",
    /// The runner told that it swapped.
    RunnerSwapTold = "runner.swap-told",
    /// The runner is about to cancel its job.
    RunnerCancelling = "runner.cancelling",
    /// The control plane took the runner's cancel; nobody was told.
    RunnerCancelled = "runner.cancelled",
    /// The runner said how it ended; its process is there.
    RunnerExiting = "runner.exiting",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_runner_knows_its_places() {
        let source = include_str!("../../sdk/typescript/src/failpoint.ts");
        let there: HashSet<&str> = source.split('"').filter(|word| word.starts_with("runner.")).collect();
        let names = Point::ALL.iter().map(|point| point.name());
        assert_eq!(names.filter(|name| name.starts_with("runner.")).collect::<HashSet<_>>(), there);
    }

    #[test]
    fn names_are_distinct_and_files() {
        let names: HashSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'.' | b'-'))));
    }
}
