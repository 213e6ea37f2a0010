//! What the hand-written trainer prints, step by step.

/// The tags of `TICK tag step` lines, one for each change, after a look at the steps: from 1, each exactly once.
pub(crate) fn tags_of_each_step_once(lines: &[String]) -> Vec<String> {
    let ticks = lines.iter().filter_map(|line| line.strip_prefix("TICK ")?.split_once(' '));
    let mut tags: Vec<String> = Vec::new();
    let mut steps = 0;
    for (tag, step) in ticks {
        steps += 1;
        assert_eq!(step.parse(), Ok(steps), "a step was lost or repeated at {tag} {step}");
        if tags.last().is_none_or(|last| last != tag) {
            tags.push(tag.to_owned());
        }
    }
    tags
}

/// How many lines are `text`.
pub(crate) fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| *line == text).count()
}
