//! A job's logged values as columns, for charts and statistics over all of them.
//!
//! What must hold: an answer that calls itself exact was made from every point up to the sequence number it names.
//! Columns are read from the events once and then only extended; they are a cache, bounded in number of points, and
//! the events stay the truth.

mod columns;
mod shelf;
mod statistics;

pub(crate) use columns::{Axis, Column, Points, View, Viewed};
pub(crate) use shelf::{Shelf, Shelved};
pub(crate) use statistics::Statistics;
