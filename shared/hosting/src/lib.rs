//! Starting a host process, finding it again and talking to it: the side of those who have something hosted.
//!
//! A host (`midrun run-host --dir FOLDER`) owns one process for somebody who may be killed meanwhile. What must hold:
//! a host belongs to no terminal and dies with nobody; what it needs stands in its folder before it is started; the
//! folder and the socket are its user's alone; one who comes again later connects to that host or learns that it is
//! gone, never to another one; and every record that is not output reaches who follows it once and in order.

mod link;
mod place;

pub use link::{Answer, Link, Told};
pub use place::{Place, Started};
