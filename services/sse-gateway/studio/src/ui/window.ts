// Which rows of a long list are in sight. Pure.

export interface Window {
  from: number;
  /** One behind the last. */
  to: number;
}

/** The rows to draw, with `spare` ones above and below. */
export function rowsInSight(scrollTop: number, height: number, rowHeight: number, count: number, spare = 10): Window {
  const first = Math.floor(Math.max(0, scrollTop) / rowHeight);
  const shown = Math.ceil(Math.max(0, height) / rowHeight) + 1;
  const from = Math.max(0, Math.min(first - spare, count - shown - spare));
  return { from, to: Math.min(count, first + shown + spare) };
}

/** Whether the end is in sight, give or take half a row. */
export const atEnd = (scrollTop: number, height: number, scrollHeight: number, rowHeight: number) =>
  scrollHeight - scrollTop - height <= rowHeight / 2 + 1;

/** Where the same rows are in sight after `gone` were taken away above all of them. */
export const withoutRows = (scrollTop: number, gone: number, rowHeight: number) => Math.max(0, scrollTop - gone * rowHeight);

/** Where to scroll so that `row` is in sight; `undefined` when it is. */
export function scrollFor(row: number, scrollTop: number, height: number, rowHeight: number): number | undefined {
  const top = row * rowHeight;
  if (top < scrollTop) return top;
  if (top + rowHeight > scrollTop + height) return top + rowHeight - height;
  return undefined;
}
