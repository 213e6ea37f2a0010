//! The model: a small decoder-only transformer over characters.
//!
//! Learned positions, pre-norm blocks of causal attention and a squared-ReLU network of four times the width, no
//! biases, an output head of its own. Only the positions from `first` on are carried through the last block: the
//! others would be computed for nothing, and for a short answer to a longer question that is most of the work.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::ops;
use crate::random::{Random, Stream};

/// The width of one attention head. Many small heads learn to look at many places sooner than few large ones.
const HEAD: usize = 8;

/// The deviation of the first embeddings. The first norm undoes the scale, so this decides only how fast they turn.
const EMBEDDED: f64 = 0.02;

/// The sizes that make a model; two models with equal shapes take each other's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Values per position.
    pub(crate) width: usize,
    /// Number of blocks.
    pub(crate) layers: usize,
    /// Most positions of one sequence.
    pub(crate) context: usize,
    /// Number of token ids.
    pub(crate) vocabulary: usize,
}

impl Shape {
    fn heads(self) -> usize {
        self.width / HEAD
    }

    /// Every weight by name, with its rows, its columns and the deviation of its first values. A checkpoint's
    /// tensors have these names, and the optimizer walks them in this order.
    fn weights(self) -> Vec<(String, usize, usize, f64)> {
        let (width, hidden) = (self.width, 4 * self.width);
        let spread = |inputs: usize| 1.0 / (inputs as f64).sqrt();
        let quiet = 1.0 / (2.0 * self.layers as f64).sqrt();
        let mut weights = vec![
            ("tokens".to_owned(), self.vocabulary, width, EMBEDDED),
            ("positions".to_owned(), self.context, width, EMBEDDED),
        ];
        for layer in 0..self.layers {
            let mut weight = |name: &str, rows, columns, deviation| {
                weights.push((format!("layers.{layer}.{name}"), rows, columns, deviation));
            };
            weight("query", width, width, spread(width));
            weight("key-value", width, 2 * width, spread(width));
            weight("mix", width, width, quiet * spread(width));
            weight("up", width, hidden, spread(width));
            weight("down", hidden, width, quiet * spread(hidden));
        }
        weights.push(("head".to_owned(), width, self.vocabulary, spread(width)));
        weights
    }
}

struct Block {
    query: Var,
    key_value: Var,
    mix: Var,
    up: Var,
    down: Var,
}

/// The model with its weights.
pub(crate) struct Gpt {
    shape: Shape,
    tokens: Var,
    positions: Var,
    blocks: Vec<Block>,
    head: Var,
    named: Vec<(String, Var)>,
}

impl Gpt {
    /// A model that has learned nothing, its weights drawn from `seed`.
    pub(crate) fn new(shape: Shape, seed: u64) -> Result<Self> {
        let mut random = Random::new(seed, Stream::Weights);
        Self::build(shape, |_, rows, columns, deviation| {
            let values = (0..rows * columns).map(|_| (random.normal() * deviation) as f32).collect();
            Var::from_vec::<_, f32>(values, (rows, columns), &Device::Cpu)
        })
    }

    /// A model with the weights of a checkpoint.
    ///
    /// # Errors
    /// When a weight is missing or has another size.
    pub(crate) fn load(shape: Shape, weights: &HashMap<String, Tensor>) -> Result<Self> {
        Self::build(shape, |name, rows, columns, _| match weights.get(name) {
            Some(tensor) if tensor.dims() == [rows, columns] && tensor.dtype() == DType::F32 => {
                Var::from_tensor(tensor)
            }
            Some(tensor) => candle_core::bail!("{name} is {:?}, not {rows} x {columns}", tensor.shape()),
            None => candle_core::bail!("{name} is missing"),
        })
    }

    fn build(shape: Shape, mut weight: impl FnMut(&str, usize, usize, f64) -> Result<Var>) -> Result<Self> {
        let mut named = Vec::new();
        for (name, rows, columns, deviation) in shape.weights() {
            let var = weight(&name, rows, columns, deviation)?;
            named.push((name, var));
        }
        let mut vars = named.iter().map(|(_, var)| var.clone());
        let mut next =
            || vars.next().expect("the names are listed in the order in which they are taken here");
        let (tokens, positions) = (next(), next());
        let mut block = || Block { query: next(), key_value: next(), mix: next(), up: next(), down: next() };
        let blocks = (0..shape.layers).map(|_| block()).collect();
        let head = next();
        Ok(Self { shape, tokens, positions, blocks, head, named })
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Every weight with its name, always in the same order.
    pub(crate) fn weights(&self) -> &[(String, Var)] {
        &self.named
    }

    /// How many numbers the model has learned.
    pub(crate) fn parameters(&self) -> usize {
        self.named.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The logits of the next token after each position from `first` on: shape (sequences × (length − first),
    /// vocabulary). `ids` holds sequences of `length`, one after the other.
    ///
    /// # Panics
    /// When `length` is greater than the context, or an id is outside the vocabulary.
    pub(crate) fn forward(&self, ids: Vec<u32>, length: usize, first: usize) -> Result<Tensor> {
        let width = self.shape.width;
        let sequences = ids.len() / length;
        let mut stream = ops::embed(&self.tokens, &self.positions, ids, length)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let from = if layer + 1 == self.blocks.len() { first } else { 0 };
            stream = self.block(block, &stream, sequences, length, from)?;
        }
        let rows = sequences * (length - first);
        ops::rms_norm(&stream.reshape((rows, width))?)?.matmul(&self.head)
    }

    /// One block; the result has the positions from `first` on.
    fn block(
        &self,
        block: &Block,
        stream: &Tensor,
        sequences: usize,
        length: usize,
        first: usize,
    ) -> Result<Tensor> {
        let width = self.shape.width;
        let tail = |tensor: &Tensor| -> Result<Tensor> {
            let kept = length - first;
            let tensor =
                if first == 0 { tensor.clone() } else { tensor.narrow(1, first, kept)?.contiguous()? };
            tensor.reshape((sequences * kept, width))
        };
        let normed = ops::rms_norm(stream)?;
        let key_value = normed.reshape((sequences * length, width))?.matmul(&block.key_value)?;
        let query = tail(&normed)?.matmul(&block.query)?;
        let seen = ops::attention(
            &query.reshape((sequences, length - first, width))?,
            &key_value.reshape((sequences, length, 2 * width))?,
            self.shape.heads(),
        )?;
        let rows = sequences * (length - first);
        let stream = (tail(stream)? + seen.reshape((rows, width))?.matmul(&block.mix)?)?;
        let hidden = ops::squared_relu(&ops::rms_norm(&stream)?.matmul(&block.up)?)?;
        (stream + hidden.matmul(&block.down)?)?.reshape((sequences, length - first, width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { width: 16, layers: 2, context: 6, vocabulary: 5 };

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn leaving_out_the_first_positions_changes_nothing_of_the_others() {
        let model = Gpt::new(SHAPE, 1).unwrap();
        let ids = vec![0, 1, 2, 3, 0, 4, 4, 1];
        let all = model.forward(ids.clone(), 4, 0).unwrap().reshape((2, 4, 5)).unwrap();
        let tail = model.forward(ids, 4, 2).unwrap().reshape((2, 2, 5)).unwrap();
        for (a, b) in values(&all.narrow(1, 2, 2).unwrap()).iter().zip(values(&tail)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn no_position_sees_a_later_one() {
        let model = Gpt::new(SHAPE, 1).unwrap();
        let logits = |last| values(&model.forward(vec![0, 1, 2, last], 4, 0).unwrap());
        let (a, b) = (logits(3), logits(4));
        assert_eq!(a[..15], b[..15]);
        assert_ne!(a[15..], b[15..]);
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let weights = |seed| {
            let model = Gpt::new(SHAPE, seed).unwrap();
            model.weights().iter().flat_map(|(_, var)| values(var)).collect::<Vec<_>>()
        };
        assert_eq!(weights(1), weights(1));
        assert_ne!(weights(1), weights(2));
        assert_eq!(weights(1).len(), Gpt::new(SHAPE, 1).unwrap().parameters());
    }

    #[test]
    fn weights_of_another_shape_are_refused() {
        let model = Gpt::new(SHAPE, 1).unwrap();
        let weights = |model: &Gpt| {
            model.weights().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
        };
        let mut saved: HashMap<String, Tensor> = weights(&model);
        assert!(Gpt::load(SHAPE, &saved).is_ok());
        let wider = Gpt::load(Shape { vocabulary: 6, ..SHAPE }, &saved).err().unwrap().to_string();
        assert!(wider.starts_with("tokens is [5, 16]"), "{wider}");
        saved.remove("layers.1.up");
        let missing = Gpt::load(SHAPE, &saved).err().unwrap().to_string();
        assert!(missing.starts_with("layers.1.up is missing"), "{missing}");
    }
}
