// What changed in a config, key by key.

import type { ConfigRow } from "../net/types.ts";
import type { BriefChange } from "../state/config.ts";
import { brief } from "./format.ts";

export function Changes({ changes }: { changes: readonly BriefChange[] }) {
  return (
    <ul class="changes">
      {changes.map(({ path, from, to }) => (
        <li key={path}>
          <span class="mono key">{path.replace(/^config\./, "")}</span>{" "}
          <del class="mono">{from}</del><span class="arrow" aria-label="is now">→</span><ins class="mono">{to}</ins>
        </li>
      ))}
    </ul>
  );
}

/** Before, in the checkpoint that it goes on from, and what the executor says that it uses. */
export function ConfigRows({ rows }: { rows: readonly ConfigRow[] }) {
  return (
    <div class="scroll-x" tabIndex={0} role="region" aria-label="Changed config keys">
      <table class="table config-rows">
        <thead><tr><th>Key</th><th>Before</th><th>Checkpoint</th><th>Effective</th></tr></thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.path}>
              <th scope="row" class="mono">{row.path.replace(/^config\./, "")}</th>
              <td class="mono">{brief(row.before)}</td>
              <td class="mono">{isAbsent(row.inCheckpoint) ? "–" : brief(row.inCheckpoint)}</td>
              <td class="mono"><Effective row={row} /></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const isAbsent = (value: unknown) => value === null || value === undefined;

/** What is wanted is told as well where it is not, or not yet, what is used. */
function Effective({ row: { wanted, effective } }: { row: ConfigRow }) {
  if (isAbsent(effective)) return <><span class="muted">not told yet, wanted</span> {brief(wanted)}</>;
  const obeyed = JSON.stringify(wanted) === JSON.stringify(effective);
  return obeyed ? <b>{brief(effective)}</b> : <><b>{brief(effective)}</b> <span class="differs">wanted {brief(wanted)}</span></>;
}
