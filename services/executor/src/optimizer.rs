//! AdamW with clipping of the gradient's norm.
//!
//! Its state is saved with each checkpoint: a run that is resumed without it would jump. candle's own AdamW keeps
//! that state to itself.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Storage, Tensor, Var, bail};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.99;
const EPSILON: f64 = 1e-8;

/// What one update needs to know besides the gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// The step, from 1.
    pub(crate) step: u64,
    /// The step's learning rate.
    pub(crate) rate: f64,
    /// Weight decay of matrices; embeddings have none.
    pub(crate) decay: f64,
    /// The gradient is scaled down to this norm; 0 leaves it as it is.
    pub(crate) max_norm: f64,
}

/// The two moving averages of each weight.
pub(crate) struct AdamW {
    moments: Vec<Moments>,
}

struct Moments {
    name: String,
    decays: bool,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl AdamW {
    /// The state before the first step, for `weights`.
    pub(crate) fn new(weights: &[(String, Var)]) -> Self {
        let moments = |(name, var): &(String, Var)| Moments {
            name: name.clone(),
            decays: name.starts_with("layers.") || name == "head",
            first: vec![0.0; var.elem_count()],
            second: vec![0.0; var.elem_count()],
        };
        Self { moments: weights.iter().map(moments).collect() }
    }

    /// The state of a checkpoint.
    ///
    /// # Errors
    /// When a part is missing or has another size.
    pub(crate) fn load(weights: &[(String, Var)], state: &HashMap<String, Tensor>) -> Result<Self> {
        let mut optimizer = Self::new(weights);
        for moments in &mut optimizer.moments {
            for (part, values) in [("first", &mut moments.first), ("second", &mut moments.second)] {
                let name = format!("{}.{part}", moments.name);
                let Some(tensor) = state.get(&name) else { bail!("{name} is missing") };
                let loaded = tensor.flatten_all()?.to_vec1::<f32>()?;
                if loaded.len() != values.len() {
                    bail!("{name} has {} values, not {}", loaded.len(), values.len());
                }
                *values = loaded;
            }
        }
        Ok(optimizer)
    }

    /// The state as tensors, to be saved.
    pub(crate) fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for moments in &self.moments {
            for (part, values) in [("first", &moments.first), ("second", &moments.second)] {
                let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                state.insert(format!("{}.{part}", moments.name), tensor);
            }
        }
        Ok(state)
    }

    /// Moves `weights` along `gradients`. Returns the gradient's norm before clipping; when that is not finite,
    /// nothing was moved.
    pub(crate) fn update(
        &mut self,
        weights: &[(String, Var)],
        gradients: &GradStore,
        update: Update,
    ) -> Result<f64> {
        let mut slopes = Vec::with_capacity(weights.len());
        let mut square = 0.0;
        for (name, var) in weights {
            let Some(gradient) = gradients.get(var) else {
                bail!("{name} has no gradient: the model is cut apart")
            };
            let gradient = gradient.contiguous()?;
            square += values(&gradient, |values| {
                values.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>()
            })?;
            slopes.push(gradient);
        }
        let norm = square.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let clip = if update.max_norm > 0.0 && norm > update.max_norm { update.max_norm / norm } else { 1.0 };
        for (((_, var), slope), moments) in weights.iter().zip(slopes).zip(&mut self.moments) {
            let moved = values(&slope, |slope| moments.follow(slope, clip as f32, update))?;
            var.inplace_op1(&Move { by: moved, keep: moments.keep(update) })?;
        }
        Ok(norm)
    }
}

impl Moments {
    /// Takes a gradient in and returns what to add to the weights.
    fn follow(&mut self, slope: &[f32], clip: f32, update: Update) -> Vec<f32> {
        let correct1 = 1.0 - BETA1.powf(update.step as f64);
        let correct2 = 1.0 - BETA2.powf(update.step as f64);
        let scale = (-update.rate / correct1) as f32;
        let unbias = (1.0 / correct2.sqrt()) as f32;
        let (beta1, beta2, epsilon) = (BETA1 as f32, BETA2 as f32, EPSILON as f32);
        let moments = self.first.iter_mut().zip(&mut self.second);
        let moved = moments.zip(slope).map(|((first, second), slope)| {
            let slope = slope * clip;
            *first = beta1 * *first + (1.0 - beta1) * slope;
            *second = beta2 * *second + (1.0 - beta2) * slope * slope;
            scale * *first / (second.sqrt() * unbias + epsilon)
        });
        moved.collect()
    }

    /// The share of a weight that the decay leaves.
    fn keep(&self, update: Update) -> f32 {
        if self.decays { (1.0 - update.rate * update.decay) as f32 } else { 1.0 }
    }
}

/// `weight × keep + by`, in place.
struct Move {
    by: Vec<f32>,
    keep: f32,
}

impl InplaceOp1 for Move {
    fn name(&self) -> &'static str {
        "adamw-move"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(weights), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
            bail!("a weight is a contiguous tensor of f32");
        };
        for (weight, by) in weights[from..to].iter_mut().zip(&self.by) {
            *weight = *weight * self.keep + by;
        }
        Ok(())
    }
}

fn values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(cpu), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
        bail!("a gradient is a contiguous tensor on the CPU");
    };
    Ok(f(&cpu.as_slice::<f32>()?[from..to]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(name: &str, value: f32) -> (String, Var) {
        (name.to_owned(), Var::from_vec(vec![value], 1, &Device::Cpu).unwrap())
    }

    /// One update of a weight of 1 whose gradient is `slope`.
    fn updated(name: &str, slope: f64, update: Update) -> (f64, f32) {
        let weights = [weight(name, 1.0)];
        let loss = (weights[0].1.as_tensor() * slope).unwrap().sum_all().unwrap();
        let mut optimizer = AdamW::new(&weights);
        let norm = optimizer.update(&weights, &loss.backward().unwrap(), update).unwrap();
        (norm, weights[0].1.to_vec1::<f32>().unwrap()[0])
    }

    const UPDATE: Update = Update { step: 1, rate: 0.1, decay: 0.0, max_norm: 0.0 };

    #[test]
    fn the_first_step_is_as_long_as_the_learning_rate() {
        let (norm, moved) = updated("head", 4.0, UPDATE);
        assert_eq!(norm, 4.0);
        assert!((moved - 0.9).abs() < 1e-6, "{moved}");
        let (_, moved) = updated("head", -0.001, UPDATE);
        assert!((moved - 1.1).abs() < 1e-4, "{moved}");
    }

    #[test]
    fn decay_is_apart_from_the_gradient_and_not_for_embeddings() {
        let update = Update { decay: 0.5, ..UPDATE };
        let (_, moved) = updated("layers.0.up", 4.0, update);
        assert!((moved - (0.95 - 0.1)).abs() < 1e-6, "{moved}");
        let (_, moved) = updated("tokens", 4.0, update);
        assert!((moved - 0.9).abs() < 1e-6, "{moved}");
    }

    #[test]
    fn a_long_gradient_is_scaled_down() {
        let weights = [weight("head", 1.0)];
        let loss = (weights[0].1.as_tensor() * 4.0).unwrap().sum_all().unwrap();
        let mut optimizer = AdamW::new(&weights);
        let update = Update { max_norm: 1.0, ..UPDATE };
        assert_eq!(optimizer.update(&weights, &loss.backward().unwrap(), update).unwrap(), 4.0);
        let first = optimizer.state().unwrap()["head.first"].to_vec1::<f32>().unwrap()[0];
        assert!((first - 0.1).abs() < 1e-6, "a tenth of the clipped gradient: {first}");
    }

    #[test]
    fn a_gradient_that_is_not_finite_moves_nothing() {
        let (norm, moved) = updated("head", f64::INFINITY, UPDATE);
        assert!(!norm.is_finite());
        assert_eq!(moved, 1.0);
    }

    #[test]
    fn a_weight_that_the_loss_does_not_reach_is_an_error() {
        let weights = [weight("head", 1.0)];
        let other = weight("tokens", 1.0).1.sum_all().unwrap();
        let error = AdamW::new(&weights).update(&weights, &other.backward().unwrap(), UPDATE).unwrap_err();
        assert!(error.to_string().starts_with("head has no gradient"), "{error}");
    }

    #[test]
    fn the_state_comes_back() {
        let weights = [weight("head", 1.0)];
        let loss = (weights[0].1.as_tensor() * 4.0).unwrap().sum_all().unwrap();
        let mut optimizer = AdamW::new(&weights);
        optimizer.update(&weights, &loss.backward().unwrap(), UPDATE).unwrap();
        let state = optimizer.state().unwrap();
        let back = AdamW::load(&weights, &state).unwrap();
        assert_eq!(back.moments[0].first, optimizer.moments[0].first);
        assert_eq!(back.moments[0].second, optimizer.moments[0].second);
        assert!(AdamW::load(&weights, &HashMap::new()).is_err());
    }
}
