//! The names that differ between a midrun project and an arkor project: one table, not a second code path.

use serde::{Deserialize, Serialize};

/// Which set of names a project uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// `src/midrun/index.ts`.
    Midrun,
    /// `src/arkor/index.ts`.
    Arkor,
}

/// Extensions an entry may have, best first.
pub const ENTRY_EXTENSIONS: [&str; 5] = ["ts", "tsx", "mts", "js", "mjs"];

/// Where a project keeps midrun's state, relative to its root.
pub const STATE_DIR: &str = ".midrun";

/// Headers that carry the token, either accepted.
pub const TOKEN_HEADERS: [&str; 2] = ["x-midrun-token", "x-arkor-studio-token"];
/// Query names that carry the token on event streams, either accepted.
pub const TOKEN_QUERIES: [&str; 2] = ["token", "studioToken"];
/// Page metas that carry the token, both written.
pub const TOKEN_METAS: [&str; 2] = ["midrun-token", "arkor-studio-token"];
/// Page metas that say live reload is on, both written.
pub const LIVE_METAS: [&str; 2] = ["midrun-live", "arkor-hmr-enabled"];
/// Response headers with a run's process id, both sent.
pub const PID_HEADERS: [&str; 2] = ["x-midrun-pid", "x-arkor-train-pid"];
/// Response header with a run's id.
pub const RUN_HEADER: &str = "x-midrun-run";

impl Profile {
    /// Every profile, in the order in which a project is looked at.
    pub const ALL: [Self; 2] = [Self::Midrun, Self::Arkor];

    /// The folder of the entry, relative to the project.
    pub const fn source_dir(self) -> &'static str {
        match self {
            Self::Midrun => "src/midrun",
            Self::Arkor => "src/arkor",
        }
    }

    /// A second place for the newest bundle, relative to the project, for tools of that profile.
    pub const fn extra_bundle(self) -> Option<&'static str> {
        match self {
            Self::Midrun => None,
            Self::Arkor => Some(".arkor/build/index.mjs"),
        }
    }

    /// The environment variable that names the control plane, besides `MIDRUN_CONTROL_PLANE_URL`.
    pub const fn control_plane_variable(self) -> &'static str {
        match self {
            Self::Midrun => "MIDRUN_CONTROL_PLANE_URL",
            Self::Arkor => "ARKOR_CLOUD_API_URL",
        }
    }
}
