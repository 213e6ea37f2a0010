//! rolldown's builds, compiled once.
//!
//! The code of an `async fn` is generated where its future is first polled: for rolldown's that is most of the bundler,
//! minutes of compiling for each crate and each test that bundles something. Here the futures are boxed, so their code is
//! generated in this crate alone, which changes only when rolldown does.

use std::pin::Pin;

use rolldown::{BundleOutput, Bundler};
use rolldown_common::ScanMode;
use rolldown_error::BuildResult;

/// A build under way.
pub type Building<'a> = Pin<Box<dyn Future<Output = BuildResult<BundleOutput>> + Send + 'a>>;

/// Bundles everything.
pub fn generate(bundler: &mut Bundler) -> Building<'_> {
    Box::pin(bundler.generate())
}

/// Bundles again after a good build: reads only the files in `changed`, and what they import that is new.
pub fn generate_changed(bundler: &mut Bundler, changed: Vec<String>) -> Building<'_> {
    let changed = changed.into_iter().map(Into::into).collect();
    Box::pin(bundler.incremental_generate(ScanMode::Partial(changed)))
}
