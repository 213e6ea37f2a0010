//! The failpoints that a record passes on its way into the log.

use failpoint::{Point, reach};
use wire::log::Step;

/// The records that are on their way, as far as they have a failpoint behind the write.
#[derive(Debug, Default)]
pub(crate) struct Passage(Vec<Point>);

impl Passage {
    /// The runner said `step`; it is about to be appended.
    pub(crate) fn heard(&mut self, step: &Step) {
        let (heard, recorded) = match step {
            Step::Ready { .. } => (Point::ReadyHeard, Point::ReadyRecorded),
            Step::Job { .. } => (Point::JobHeard, Point::JobRecorded),
            Step::Swap { .. } => (Point::SwapHeard, Point::SwapRecorded),
            _ => return,
        };
        reach(heard);
        self.appended(recorded);
    }

    /// A record was appended, behind which is `point`.
    pub(crate) fn appended(&mut self, point: Point) {
        if !self.0.contains(&point) {
            self.0.push(point);
        }
    }

    /// Everything that was appended stands in the log.
    pub(crate) fn written(&mut self) {
        self.0.drain(..).for_each(reach);
    }
}
