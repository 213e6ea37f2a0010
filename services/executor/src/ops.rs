//! The operations of the model that candle's own forms are too slow for, each with its gradient.
//!
//! candle's fused `rms_norm` and `softmax` have no backward pass (a model built on them silently stops learning), and
//! the forms made of small tensor operations spend most of a step on copies. These are plain loops over contiguous
//! `f32` slices in one thread, in a fixed order, so that a step gives the same bits every time.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};

/// A target that is not learned: padding, or a part of the prompt.
pub(crate) const IGNORED: u32 = u32::MAX;

/// Added to the mean square before the root, so that a row of zeros stays finite.
const EPSILON: f32 = 1e-6;

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("the model's operations need contiguous tensors, not {layout:?}"),
    }
}

/// Calls `f` with the values of a contiguous tensor, without copying them.
fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(slice(cpu, layout)?)),
        _ => bail!("the executor trains on the CPU only"),
    }
}

fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// Divides each row by its root mean square. There is no gain: the matrix that follows has one.
struct RmsNorm {
    width: usize,
}

fn inverse_rms(row: &[f32]) -> f32 {
    let square: f32 = row.iter().map(|x| x * x).sum();
    1.0 / (square / row.len() as f32 + EPSILON).sqrt()
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = slice(storage, layout)?;
        let mut output = Vec::with_capacity(input.len());
        for row in input.chunks_exact(self.width) {
            let scale = inverse_rms(row);
            output.extend(row.iter().map(|x| x * scale));
        }
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    fn bwd(&self, input: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let values = read(input, |x| {
            read(&grad, |dy| {
                let mut dx = Vec::with_capacity(x.len());
                for (x, dy) in x.chunks_exact(self.width).zip(dy.chunks_exact(self.width)) {
                    let scale = inverse_rms(x);
                    let dot: f32 = x.iter().zip(dy).map(|(x, dy)| x * dy).sum();
                    let pull = scale * scale * dot / self.width as f32;
                    dx.extend(x.iter().zip(dy).map(|(x, dy)| scale * (dy - x * pull)));
                }
                dx
            })
        })??;
        Ok(Some(tensor(values, input)?))
    }
}

/// `max(x, 0)²`: as good as GELU at this size, at a tenth of the cost.
struct SquaredRelu;

impl CustomOp1 for SquaredRelu {
    fn name(&self) -> &'static str {
        "squared-relu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let output = slice(storage, layout)?.iter().map(|x| x.max(0.0) * x.max(0.0)).collect();
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    fn bwd(&self, input: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let values = read(input, |x| {
            read(&grad, |dy| x.iter().zip(dy).map(|(x, dy)| 2.0 * x.max(0.0) * dy).collect())
        })??;
        Ok(Some(tensor(values, input)?))
    }
}

/// Token row plus position row, for `ids` of shape (sequences, length).
struct Embed {
    ids: Vec<u32>,
    length: usize,
    width: usize,
}

impl CustomOp2 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(
        &self,
        tokens: &CpuStorage,
        tokens_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, positions) = (slice(tokens, tokens_layout)?, slice(positions, positions_layout)?);
        let mut output = Vec::with_capacity(self.ids.len() * self.width);
        for (index, id) in self.ids.iter().enumerate() {
            let token = row(tokens, *id as usize, self.width);
            let position = row(positions, index % self.length, self.width);
            output.extend(token.iter().zip(position).map(|(token, position)| token + position));
        }
        let shape = (self.ids.len() / self.length, self.length, self.width);
        Ok((CpuStorage::F32(output), shape.into()))
    }

    fn bwd(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut to_tokens = vec![0.0; tokens.elem_count()];
        let mut to_positions = vec![0.0; positions.elem_count()];
        read(&grad, |grad| {
            for (index, grad) in grad.chunks_exact(self.width).enumerate() {
                add(row_mut(&mut to_tokens, self.ids[index] as usize, self.width), grad);
                add(row_mut(&mut to_positions, index % self.length, self.width), grad);
            }
        })?;
        Ok((Some(tensor(to_tokens, tokens)?), Some(tensor(to_positions, positions)?)))
    }
}

/// Causal attention of the last `queries` positions of each sequence over all `keys` positions of it.
///
/// The queries have shape (sequences, queries, width), keys and values lie side by side in
/// (sequences, keys, 2 × width). Query `i` sees the keys up to `keys - queries + i`.
struct Attention {
    heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
}

impl Attention {
    fn seen(&self, query: usize) -> usize {
        self.keys - self.queries + query + 1
    }

    fn scale(&self) -> f32 {
        1.0 / ((self.width / self.heads) as f32).sqrt()
    }

    /// Writes how much `query` attends to each of the keys it sees, into `weights`.
    fn weigh(&self, query: &[f32], kv: &[f32], head: usize, weights: &mut [f32]) {
        let size = self.width / self.heads;
        let mut top = f32::NEG_INFINITY;
        for (weight, kv) in weights.iter_mut().zip(kv.chunks_exact(2 * self.width)) {
            *weight = dot(query, &kv[head * size..(head + 1) * size]) * self.scale();
            top = top.max(*weight);
        }
        let mut total = 0.0;
        for weight in weights.iter_mut() {
            *weight = (*weight - top).exp();
            total += *weight;
        }
        for weight in weights.iter_mut() {
            *weight /= total;
        }
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        kv: &CpuStorage,
        kv_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, kv) = (slice(q, q_layout)?, slice(kv, kv_layout)?);
        let size = self.width / self.heads;
        let mut output = vec![0.0; q.len()];
        let mut weights = vec![0.0; self.keys];
        let sequences =
            q.chunks_exact(self.queries * self.width).zip(kv.chunks_exact(self.keys * 2 * self.width));
        for ((q, kv), output) in sequences.zip(output.chunks_exact_mut(self.queries * self.width)) {
            for query in 0..self.queries {
                let weights = &mut weights[..self.seen(query)];
                for head in 0..self.heads {
                    let at = query * self.width + head * size;
                    self.weigh(&q[at..at + size], kv, head, weights);
                    for (weight, kv) in weights.iter().zip(kv.chunks_exact(2 * self.width)) {
                        let value = &kv[self.width + head * size..][..size];
                        add_scaled(&mut output[at..at + size], *weight, value);
                    }
                }
            }
        }
        Ok((CpuStorage::F32(output), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut to_q = vec![0.0; q.elem_count()];
        let mut to_kv = vec![0.0; kv.elem_count()];
        read(q, |q| {
            read(kv, |kv| {
                read(&grad, |grad| {
                    let (rows, pairs) = (self.queries * self.width, self.keys * 2 * self.width);
                    let inputs =
                        q.chunks_exact(rows).zip(kv.chunks_exact(pairs)).zip(grad.chunks_exact(rows));
                    let outputs = to_q.chunks_exact_mut(rows).zip(to_kv.chunks_exact_mut(pairs));
                    let mut scratch = vec![0.0; 2 * self.keys];
                    for (((q, kv), grad), (to_q, to_kv)) in inputs.zip(outputs) {
                        self.sequence_backward(q, kv, grad, to_q, to_kv, &mut scratch);
                    }
                })
            })
        })???;
        Ok((Some(tensor(to_q, q)?), Some(tensor(to_kv, kv)?)))
    }
}

impl Attention {
    fn sequence_backward(
        &self,
        q: &[f32],
        kv: &[f32],
        grad: &[f32],
        to_q: &mut [f32],
        to_kv: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (width, size, scale) = (self.width, self.width / self.heads, self.scale());
        let (weights, slopes) = scratch.split_at_mut(self.keys);
        for query in 0..self.queries {
            let seen = self.seen(query);
            let (weights, slopes) = (&mut weights[..seen], &mut slopes[..seen]);
            for head in 0..self.heads {
                let at = query * width + head * size;
                let (q, grad) = (&q[at..at + size], &grad[at..at + size]);
                self.weigh(q, kv, head, weights);
                let mut mean = 0.0;
                for (key, (weight, slope)) in weights.iter().zip(slopes.iter_mut()).enumerate() {
                    let value = key * 2 * width + width + head * size;
                    *slope = dot(grad, &kv[value..value + size]);
                    mean += weight * *slope;
                    add_scaled(&mut to_kv[value..value + size], *weight, grad);
                }
                for (key, (weight, slope)) in weights.iter().zip(slopes.iter()).enumerate() {
                    let pull = weight * (slope - mean) * scale;
                    let place = key * 2 * width + head * size;
                    add_scaled(&mut to_q[at..at + size], pull, &kv[place..place + size]);
                    add_scaled(&mut to_kv[place..place + size], pull, q);
                }
            }
        }
    }
}

/// The mean of `-ln p(target)` over the rows whose target is not [`IGNORED`]; one value.
struct CrossEntropy {
    targets: Vec<u32>,
    classes: usize,
}

impl CrossEntropy {
    fn learned(&self) -> f32 {
        self.targets.iter().filter(|target| **target != IGNORED).count().max(1) as f32
    }

    fn rows<'a>(&'a self, logits: &'a [f32]) -> impl Iterator<Item = (&'a [f32], u32)> {
        logits.chunks_exact(self.classes).zip(self.targets.iter().copied())
    }
}

/// The largest logit of a row, and the sum of `exp(logit - largest)`.
fn top_and_total(row: &[f32]) -> (f32, f32) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (top, row.iter().map(|logit| (logit - top).exp()).sum())
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut sum = 0.0;
        for (row, target) in self.rows(slice(storage, layout)?).filter(|(_, target)| *target != IGNORED) {
            let (top, total) = top_and_total(row);
            sum += total.ln() + top - row[target as usize];
        }
        Ok((CpuStorage::F32(vec![sum / self.learned()]), ().into()))
    }

    fn bwd(&self, logits: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let share = grad.to_scalar::<f32>()? / self.learned();
        let values = read(logits, |logits| {
            let mut slopes = Vec::with_capacity(logits.len());
            for (row, target) in self.rows(logits) {
                if target == IGNORED {
                    slopes.extend(std::iter::repeat_n(0.0, self.classes));
                    continue;
                }
                let (top, total) = top_and_total(row);
                let first = slopes.len();
                slopes.extend(row.iter().map(|logit| (logit - top).exp() / total * share));
                slopes[first + target as usize] -= share;
            }
            slopes
        })?;
        Ok(Some(tensor(values, logits)?))
    }
}

fn row(table: &[f32], index: usize, width: usize) -> &[f32] {
    &table[index * width..(index + 1) * width]
}

fn row_mut(table: &mut [f32], index: usize, width: usize) -> &mut [f32] {
    &mut table[index * width..(index + 1) * width]
}

fn add(into: &mut [f32], from: &[f32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += from;
    }
}

fn add_scaled(into: &mut [f32], scale: f32, from: &[f32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += scale * from;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Divides each row of `input`'s last dimension by its root mean square.
pub(crate) fn rms_norm(input: &Tensor) -> Result<Tensor> {
    let width = input.dim(candle_core::D::Minus1)?;
    input.apply_op1(RmsNorm { width })
}

/// `max(x, 0)²`.
pub(crate) fn squared_relu(input: &Tensor) -> Result<Tensor> {
    input.apply_op1(SquaredRelu)
}

/// The rows of `tokens` for `ids` (sequences of `length`, one after the other) plus the rows of `positions`.
///
/// # Panics
/// When an id is outside `tokens` or `length` is greater than the number of `positions`.
pub(crate) fn embed(tokens: &Tensor, positions: &Tensor, ids: Vec<u32>, length: usize) -> Result<Tensor> {
    let width = tokens.dim(1)?;
    tokens.apply_op2(positions, Embed { ids, length, width })
}

/// Causal attention of `q` (sequences, queries, width) over `kv` (sequences, keys, 2 × width).
pub(crate) fn attention(q: &Tensor, kv: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, queries, width) = q.dims3()?;
    let keys = kv.dim(1)?;
    q.apply_op2(kv, Attention { heads, queries, keys, width })
}

/// The mean loss of `logits` (rows, classes) over the rows whose target is not [`IGNORED`].
pub(crate) fn cross_entropy(logits: &Tensor, targets: Vec<u32>) -> Result<Tensor> {
    let classes = logits.dim(1)?;
    logits.apply_op1(CrossEntropy { targets, classes })
}

#[cfg(test)]
mod tests;
