// Where two configs differ. Pure.

import type { ConfigChange } from "../net/types.ts";
import { brief } from "../ui/format.ts";

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The changed keys, by path; a value that one side lacks is absent there. */
export function configDiff(from: unknown, to: unknown, path = "config"): ConfigChange[] {
  if (isObject(from) && isObject(to)) {
    const keys = [...new Set([...Object.keys(from), ...Object.keys(to)])];
    return keys.flatMap((key) => configDiff(from[key], to[key], `${path}.${key}`));
  }
  return JSON.stringify(from) === JSON.stringify(to) ? [] : [{ path, from, to }];
}

/** A change as it is shown. */
export interface BriefChange {
  path: string;
  from: string;
  to: string;
}

export const briefly = ({ path, from, to }: ConfigChange): BriefChange => ({ path, from: brief(from), to: brief(to) });
