// Figures over all values of a series. The server computes them for jobs that it keeps; this is for control planes
// that do not. Pure.

export interface Statistics {
  count: number;
  mean: number;
  /** Half the width of the 95 % confidence interval of the mean; nothing for a single value. */
  ci95: number | null;
  /** With one degree of freedom less than values. */
  stdDev: number | null;
  variance: number | null;
  p90: number;
  p95: number;
}

/** Student's t for 95 %, two-sided, with 1 to 30 degrees of freedom. */
const T = [
  12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934, 2.5705818356363146,
  2.4469118511449786, 2.364624251592784, 2.306004135204166, 2.262157162798205, 2.228138851986274,
  2.200985160091639, 2.1788128296672284, 2.1603686564627913, 2.144786687917804, 2.131449545559776,
  2.1199052992212546, 2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864,
  2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245, 2.0595385527532972,
  2.0555294386428735, 2.0518305164802846, 2.0484071417952454, 2.045229642132703, 2.0422724563012378,
];
/** Above 31 values. */
const NORMAL = 1.96;

/** Nothing when there is no value. */
export function statistics(values: readonly number[]): Statistics | null {
  const count = values.length;
  if (count === 0) return null;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const variance = count > 1 ? values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (count - 1) : null;
  const stdDev = variance === null ? null : Math.sqrt(variance);
  const ci95 = stdDev === null ? null : ((T[count - 2] ?? NORMAL) * stdDev) / Math.sqrt(count);
  const sorted = Float64Array.from(values).sort();
  return { count, mean, ci95, stdDev, variance, p90: percentile(sorted, 0.9), p95: percentile(sorted, 0.95) };
}

/** Between the two nearest values, in proportion. */
function percentile(sorted: Float64Array, share: number): number {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (high - low) * (place - below);
}
