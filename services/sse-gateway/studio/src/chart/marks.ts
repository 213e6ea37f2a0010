// Steps that the chart marks: checkpoints, and restarts from one. Pure.

import { timeAt, type XAxis } from "./table.ts";
import type { Points } from "./points.ts";

export interface Mark {
  at: number;
  step: number;
  kind: "checkpoint" | "restart";
}

interface Marked {
  loss: Points;
  evalLoss: Points;
  times: { min: number };
  checkpoints: number[];
  earlierCheckpoints: number[];
  resumed: number[];
}

export function marksOf({ loss, evalLoss, times, checkpoints, earlierCheckpoints, resumed }: Marked, axis: XAxis): Mark[] {
  const points = loss.value.length >= evalLoss.value.length ? loss : evalLoss;
  const place = (step: number) => {
    if (axis === "step") return step;
    const time = timeAt(points, step);
    return time === undefined ? undefined : (axis === "relative" ? time - times.min : time) / 1000;
  };
  const marks = (steps: number[], kind: Mark["kind"]) =>
    steps.flatMap((step) => { const at = place(step); return at === undefined ? [] : [{ at, step, kind }]; });
  return [...marks([...earlierCheckpoints, ...checkpoints], "checkpoint"), ...marks(resumed, "restart")];
}

/** The mark of each kind that is nearest to `at`, if it is no farther away than `reach`. */
export function marksNear(marks: Mark[], at: number, reach: number): Mark[] {
  const nearest = new Map<Mark["kind"], Mark>();
  for (const mark of marks) {
    const away = Math.abs(mark.at - at);
    const known = nearest.get(mark.kind);
    if (away <= reach && (!known || away < Math.abs(known.at - at))) nearest.set(mark.kind, mark);
  }
  return [...nearest.values()];
}
