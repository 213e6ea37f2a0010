// Icons as strokes of one weight. They say nothing that words beside them, or a label, do not.

const PATHS = {
  play: "M5 3.5v9l7-4.5z",
  stop: "M4.5 4.5h7v7h-7z",
  flag: "M4 14V2.5h7.5l-2 3 2 3H4",
  refresh: "M13 8a5 5 0 1 1-1.5-3.6M13 2v3h-3",
  copy: "M5.5 5.5h7v7h-7zM3.5 10.5v-7h7",
  check: "M3.5 8.5l3 3 6-7",
  download: "M8 2.5v8M4.5 7.5L8 11l3.5-3.5M3 13.5h10",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.5 10.5L14 14",
  up: "M4 10l4-4 4 4",
  down: "M4 6l4 4 4-4",
  end: "M8 2.5v8M4.5 7.5L8 11l3.5-3.5M3.5 13.5h9",
  close: "M4 4l8 8M12 4l-8 8",
  sun: "M8 10.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM8 1.5v1.5M8 13v1.5M1.5 8H3M13 8h1.5M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5z",
  auto: "M8 13.5a5.5 5.5 0 1 0 0-11zM8 2.5a5.5 5.5 0 0 0 0 11z",
  help: "M6 6a2 2 0 1 1 3 1.7c-.7.4-1 .8-1 1.6M8 12v.2M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13z",
  plus: "M8 3v10M3 8h10",
  trace: "M2.5 4h6M5.5 8h6M8.5 12h5",
  warning: "M8 2.5l6 11H2zM8 6.5v3M8 11.5v.2",
  columns: "M2.5 3.5h11v9h-11zM8 3.5v9",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, spin = false }: { name: IconName; spin?: boolean }) {
  return (
    <svg class={spin ? "icon spin" : "icon"} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
