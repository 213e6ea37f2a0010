//! Figures over all values of a column. Pure.

use serde::Serialize;

/// The figures. What a single value does not have is absent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Statistics {
    pub(crate) count: usize,
    pub(crate) mean: f64,
    /// Half the width of the 95 % confidence interval of the mean.
    pub(crate) ci95: Option<f64>,
    /// With one degree of freedom less than values.
    pub(crate) std_dev: Option<f64>,
    pub(crate) variance: Option<f64>,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
}

/// Student's t for 95 %, two-sided, with 1 to 30 degrees of freedom.
const T: [f64; 30] = [
    12.706204736174694,
    4.302652729749462,
    3.1824463052837078,
    2.7764451051977934,
    2.5705818356363146,
    2.4469118511449786,
    2.364624251592784,
    2.306004135204166,
    2.262157162798205,
    2.228138851986274,
    2.200985160091639,
    2.1788128296672284,
    2.1603686564627913,
    2.144786687917804,
    2.131449545559776,
    2.1199052992212546,
    2.1098155778333156,
    2.1009220402410382,
    2.0930240544083087,
    2.085963447265864,
    2.0796138447276795,
    2.0738730679040254,
    2.0686576104190486,
    2.0638985616280245,
    2.0595385527532972,
    2.0555294386428735,
    2.0518305164802846,
    2.0484071417952454,
    2.045229642132703,
    2.0422724563012378,
];
/// Above 31 values.
const NORMAL: f64 = 1.96;

impl Statistics {
    /// Nothing when there is no value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let variance = (count > 1)
            .then(|| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1) as f64);
        let std_dev = variance.map(f64::sqrt);
        let quantile = T.get(count.wrapping_sub(2)).copied().unwrap_or(NORMAL);
        let ci95 = std_dev.map(|std_dev| quantile * std_dev / (count as f64).sqrt());
        let mut sorted = values.to_vec();
        let p90 = percentile(&mut sorted, 0.90);
        let p95 = percentile(&mut sorted, 0.95);
        Some(Self { count, mean, ci95, std_dev, variance, p90, p95 })
    }
}

/// Between the two nearest values, in proportion. Changes the values' order; there must be one.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    let place = share * (values.len() - 1) as f64;
    // Not negative and below the number of values.
    let below = place.floor() as usize;
    let (_, low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + (high - low) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What numpy and scipy compute; the page's own arithmetic is held to the same file.
    const CASES: &str = include_str!("../../../sse-gateway/studio/test/fixtures/statistics.json");

    #[test]
    fn they_are_what_numpy_computes() {
        let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
        assert!(cases.len() >= 8);
        for case in &cases {
            let values: Vec<f64> =
                case["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
            let seen = serde_json::to_value(Statistics::of(&values).unwrap()).unwrap();
            for key in ["count", "mean", "ci95", "stdDev", "variance", "p90", "p95"] {
                let (seen, wanted) = (seen[key].as_f64(), case[key].as_f64());
                let near = match (seen, wanted) {
                    (Some(seen), Some(wanted)) => (seen - wanted).abs() <= 1e-9 * wanted.abs().max(1e-9),
                    (seen, wanted) => seen == wanted,
                };
                assert!(near, "{key} of {} values: {seen:?}, numpy says {wanted:?}", values.len());
            }
        }
        assert_eq!(Statistics::of(&[]), None);
    }
}
