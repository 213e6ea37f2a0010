// What changed in a config, key by key.

import type { ConfigChange, ConfigRow } from "../net/types.ts";
import { brief } from "./format.ts";

export function Changes({ changes }: { changes: readonly ConfigChange[] }) {
  return (
    <ul class="changes">
      {changes.map(({ path, from, to }) => (
        <li key={path}>
          <span class="mono key">{path.replace(/^config\./, "")}</span>{" "}
          <del class="mono">{brief(from)}</del><span class="arrow" aria-label="is now">→</span><ins class="mono">{brief(to)}</ins>
        </li>
      ))}
    </ul>
  );
}

/** Before, in the checkpoint that it goes on from, and what the executor says that it uses. */
export function ConfigRows({ rows }: { rows: readonly ConfigRow[] }) {
  return (
    <div class="scroll-x" tabIndex={0} role="region" aria-label="Changed config keys">
      <table class="table">
        <thead><tr><th>Key</th><th>Before</th><th>In checkpoint</th><th>Wanted</th><th>Effective</th></tr></thead>
        <tbody>
          {rows.map(({ path, before, inCheckpoint, wanted, effective }) => (
            <tr key={path}>
              <th scope="row" class="mono">{path.replace(/^config\./, "")}</th>
              <td class="mono">{brief(before)}</td>
              <td class="mono">{inCheckpoint === null || inCheckpoint === undefined ? "–" : brief(inCheckpoint)}</td>
              <td class="mono">{brief(wanted)}</td>
              <td class="mono">{effective === null || effective === undefined ? "not told yet" : brief(effective)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
