//! The control plane that outlives everything that is killed.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::trainer::EXECUTOR;
use crate::LIMIT;
use crate::dev::Dev;
use crate::faulty::FaultyControlPlane;
use crate::processes::eventually;
use crate::project::Layout;
use crate::server::Topology;
use crate::stage::Stage;

/// A server of a project without runs that lends its control plane, a real one.
#[derive(Debug)]
pub struct Lender {
    dev: Dev,
    upstream: SocketAddr,
    _stage: Stage,
}

/// Jobs that may be running at once: what is killed must never wait for a place.
const JOBS: &str = "64";

impl Lender {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        let stage = Stage::bare(Layout::Midrun);
        let executor = stage.root().join("executor.sh");
        std::fs::write(&executor, EXECUTOR).expect("the stage can be written");
        let upstream = SocketAddr::from(([127, 0, 0, 1], crate::free_port()));
        let command: Value = json!(["bash", executor]);
        // One process, whatever is killed: it is not what is tested.
        let options = Dev::options(&stage, &[])
            .topology(Topology::One)
            .env("MIDRUN_CONTROL_PLANE__PORT", upstream.port().to_string())
            .env("MIDRUN_CONTROL_PLANE__EXECUTOR", command.to_string())
            .env("MIDRUN_CONTROL_PLANE__MAX_CONCURRENT_JOBS", JOBS);
        let dev = options.start().await;
        let listens = || std::net::TcpStream::connect(upstream).is_ok().then_some(());
        eventually("control plane that listens", LIMIT, listens).await;
        Self { dev, upstream, _stage: stage }
    }

    /// Where it is.
    pub(crate) const fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// A proxy in front of it, which can fail.
    pub async fn proxy(&self) -> FaultyControlPlane {
        FaultyControlPlane::in_front_of(self.upstream).await
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it does not end or leaves a process behind.
    pub async fn finish(self) {
        self.dev.finish().await;
    }
}
