// A small line without axes.

export function Sparkline({ values, label }: { values: number[]; label: string }) {
  if (values.length < 2) return null;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const height = high - low || 1;
  const points = values.map((value, place) => `${((place / (values.length - 1)) * 120).toFixed(1)},${(26 - ((value - low) / height) * 24).toFixed(1)}`);
  return (
    <svg class="sparkline" viewBox="0 0 120 28" preserveAspectRatio="none" role="img" aria-label={label}>
      <polyline points={points.join(" ")} vector-effect="non-scaling-stroke" />
    </svg>
  );
}
