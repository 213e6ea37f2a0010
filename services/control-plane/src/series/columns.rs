//! The columns, and the few of their points that a chart needs. Pure.

use std::ops::RangeInclusive;

use serde::Deserialize;

/// What runs along a chart's lower edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    Step,
    /// Milliseconds since 1970.
    Time,
}

/// One value over time, in the order in which it was logged.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) step: Vec<i64>,
    /// Milliseconds since 1970.
    pub(crate) time: Vec<i64>,
    pub(crate) value: Vec<f64>,
}

/// What is asked of a column.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) axis: Axis,
    pub(crate) range: RangeInclusive<i64>,
    /// At most three points come of each.
    pub(crate) buckets: usize,
}

impl Column {
    pub(crate) fn push(&mut self, step: i64, time: i64, value: f64) {
        self.step.push(step);
        self.time.push(time);
        self.value.push(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.value.len()
    }

    /// The points of `view`: all of them when they are few, else the smallest, the largest and the last of each
    /// bucket, so that a single sample that sticks out is never lost.
    pub(crate) fn viewed(&self, view: &View) -> Viewed {
        let along = match view.axis {
            Axis::Step => &self.step,
            Axis::Time => &self.time,
        };
        let before = self.before(along, &view.range);
        let inside = |place: &usize| view.range.contains(&along[*place]);
        let most = view.buckets.saturating_mul(3);
        let few: Vec<usize> = (0..self.len()).filter(inside).take(most + 1).collect();
        if few.len() <= most {
            return Viewed { points: self.taken(&few), weight: Vec::new(), mean: Vec::new(), before };
        }
        let places = (0..self.len()).filter(inside);
        let (low, high) = places
            .clone()
            .fold((i64::MAX, i64::MIN), |(low, high), place| (low.min(along[place]), high.max(along[place])));
        // One more than the widest distance, so that the last point falls into the last bucket.
        let width = high.abs_diff(low) as u128 + 1;
        let mut buckets: Vec<Option<Bucket>> = vec![None; view.buckets];
        for place in places {
            let at = along[place].abs_diff(low) as u128 * view.buckets as u128 / width;
            let bucket = &mut buckets[usize::try_from(at).expect("below the number of buckets")];
            bucket.get_or_insert_with(|| Bucket::from(place)).add(place, &self.value);
        }
        let (mut kept, mut weight, mut mean) = (Vec::new(), Vec::new(), Vec::new());
        for bucket in buckets.into_iter().flatten() {
            for place in bucket.places() {
                let ends = place == bucket.last;
                kept.push(place);
                weight.push(if ends { bucket.count } else { 0 });
                mean.push(if ends { bucket.sum / bucket.count as f64 } else { 0.0 });
            }
        }
        Viewed { points: self.taken(&kept), weight, mean, before }
    }

    /// The values that were logged last before `range`.
    fn before(&self, along: &[i64], range: &RangeInclusive<i64>) -> Vec<f64> {
        let earlier = |place: &usize| along[*place] < *range.start() && along[*place] <= *range.end();
        let mut values: Vec<f64> =
            (0..self.len()).rev().filter(earlier).take(MOST_BEFORE).map(|place| self.value[place]).collect();
        values.reverse();
        values
    }

    fn taken(&self, places: &[usize]) -> Self {
        Self {
            step: places.iter().map(|place| self.step[*place]).collect(),
            time: places.iter().map(|place| self.time[*place]).collect(),
            value: places.iter().map(|place| self.value[*place]).collect(),
        }
    }
}

/// Values before a range that an average over the range begins with: what is older weighs nothing in the smoothest
/// line that the page draws.
const MOST_BEFORE: usize = 1000;

/// A column as a picture shows it, and what an average over all of its values needs besides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Viewed {
    pub(crate) points: Column,
    /// How many values end with each point, 0 for one that is there only because it sticks out. Empty when every
    /// point is there.
    pub(crate) weight: Vec<usize>,
    /// Their mean.
    pub(crate) mean: Vec<f64>,
    /// The values before the range, up to it.
    pub(crate) before: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    least: usize,
    most: usize,
    last: usize,
    count: usize,
    sum: f64,
}

impl Bucket {
    /// An empty one, whose first point will be that at `place`.
    fn from(place: usize) -> Self {
        Self { least: place, most: place, last: place, count: 0, sum: 0.0 }
    }

    fn add(&mut self, place: usize, value: &[f64]) {
        if value[place] < value[self.least] {
            self.least = place;
        }
        if value[place] > value[self.most] {
            self.most = place;
        }
        self.last = place;
        self.count += 1;
        self.sum += value[place];
    }

    /// Each place once, in the order of the column.
    fn places(self) -> impl Iterator<Item = usize> {
        let mut places = vec![self.least, self.most, self.last];
        places.sort_unstable();
        places.dedup();
        places.into_iter()
    }
}

/// What one job logged.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Points {
    /// The newest event that was looked at.
    pub(crate) last_seq: i64,
    pub(crate) loss: Column,
    pub(crate) eval_loss: Column,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Logged {
    step: i64,
    timestamp: String,
    #[serde(default)]
    loss: Option<f64>,
    #[serde(default)]
    eval_loss: Option<f64>,
}

impl Points {
    /// Takes in the data of a `training.log`. Values of another kind than numbers are no points.
    pub(crate) fn take(&mut self, seq: i64, data: &str) {
        self.last_seq = self.last_seq.max(seq);
        let Ok(logged) = serde_json::from_str::<Logged>(data) else { return };
        let Ok(time) = logged.timestamp.parse::<jiff::Timestamp>() else { return };
        let time = time.as_millisecond();
        for (column, value) in [(&mut self.loss, logged.loss), (&mut self.eval_loss, logged.eval_loss)] {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                column.push(logged.step, time, value);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.loss.len() + self.eval_loss.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: impl IntoIterator<Item = f64>) -> Column {
        let mut column = Column::default();
        for (step, value) in (1..).zip(values) {
            column.push(step, step * 1000, value);
        }
        column
    }

    fn steps(buckets: usize, range: RangeInclusive<i64>) -> View {
        View { axis: Axis::Step, range, buckets }
    }

    #[test]
    fn one_sample_that_sticks_out_is_kept_wherever_it_is() {
        for spike in [1, 2, 499_999, 731_007, 999_999, 1_000_000] {
            let flat = (1..=1_000_000).map(|step| if step == spike { 99.0 } else { 1.0 });
            let seen = column(flat).viewed(&steps(500, 1..=1_000_000)).points;
            assert!(seen.len() <= 1500, "{}", seen.len());
            let place = seen.value.iter().position(|value| *value == 99.0).expect("the spike is there");
            assert_eq!(seen.step[place], spike);
            assert_eq!(*seen.step.last().unwrap(), 1_000_000, "the last point is there");
            assert!(seen.step.is_sorted());
        }
    }

    #[test]
    fn few_points_are_all_there_and_only_those_asked_for() {
        let all = column([5.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!(all.viewed(&steps(100, 1..=5)).points, all);
        assert_eq!(all.viewed(&steps(100, 2..=3)).points.step, [2, 3]);
        let by_time = View { axis: Axis::Time, range: 4000..=9000, buckets: 2 };
        assert_eq!(all.viewed(&by_time).points.step, [4, 5]);
        let backwards = RangeInclusive::new(9, 3);
        assert_eq!(all.viewed(&steps(10, backwards)).points.len(), 0);
        assert_eq!(column([]).viewed(&steps(10, 0..=3)).points.len(), 0);
    }

    #[test]
    fn every_value_counts_in_the_mean_of_one_bucket() {
        let all = column((1..=1000).map(f64::from));
        let seen = all.viewed(&steps(10, 101..=1000));
        assert_eq!(seen.weight.iter().sum::<usize>(), 900);
        assert_eq!(seen.weight.iter().filter(|weight| **weight > 0).count(), 10);
        let total: f64 = seen.weight.iter().zip(&seen.mean).map(|(weight, mean)| *weight as f64 * mean).sum();
        assert!((total - all.value[100..].iter().sum::<f64>()).abs() < 1e-6, "{total}");
        assert_eq!((seen.weight.last(), seen.mean.last()), (Some(&90), Some(&955.5)));
        assert_eq!(seen.before, &all.value[..100]);
        let few = all.viewed(&steps(1000, 1..=1000));
        assert!(few.weight.is_empty() && few.mean.is_empty() && few.before.is_empty());
    }

    #[test]
    fn what_was_logged_before_a_range_is_told_up_to_a_bound() {
        let all = column((1..=5000).map(f64::from));
        assert_eq!(all.viewed(&steps(10, 3001..=3005)).before, &all.value[2000..3000]);
        assert_eq!(all.viewed(&steps(10, 9000..=9999)).before, &all.value[4000..], "also when none is in it");
        let cut = RangeInclusive::new(4000, 10);
        assert_eq!(all.viewed(&steps(10, cut)).before, &all.value[..10], "nothing from behind its end");
    }

    #[test]
    fn the_widest_range_there_is_breaks_nothing() {
        let mut column = Column::default();
        for step in [0, i64::MAX / 2, i64::MAX - 1, i64::MAX] {
            column.push(step, 0, 1.0);
        }
        assert!(column.viewed(&steps(1, i64::MIN..=i64::MAX)).points.step.contains(&i64::MAX));
    }

    #[test]
    fn only_numbers_are_points() {
        let mut points = Points::default();
        let time = "2026-01-02T03:04:05.678Z";
        for (seq, fields) in
            [(1, r#","loss":0.5"#), (2, r#","evalLoss":0.25,"loss":null"#), (3, r#","loss":"high""#), (5, "")]
        {
            points.take(seq, &format!(r#"{{"step":{seq},"timestamp":"{time}"{fields}}}"#));
        }
        points.take(6, "no JSON");
        assert_eq!((points.last_seq, points.len()), (6, 2));
        assert_eq!((points.loss.step[0], points.eval_loss.step[0]), (1, 2));
        assert_eq!(points.loss.time, [1_767_323_045_678]);
    }
}
