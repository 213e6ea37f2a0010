//! Each operation against candle's own slow form, each gradient against finite differences.

use candle_core::{D, DType, Device, IndexOp as _, Var};

use super::*;
use crate::random::{Random, Stream};

fn random(seed: u64, shape: &[usize]) -> Var {
    let mut random = Random::new(seed, Stream::Weights);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    Var::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs())), "{what} at {index}: {a} and {b}");
    }
}

/// A scalar that weighs every output differently, so that no two mistakes cancel out.
fn scalar(output: &Tensor) -> Tensor {
    let weights: Vec<f32> = (0..output.elem_count()).map(|index| (index as f32 * 0.7).sin()).collect();
    let weights = Tensor::from_vec(weights, output.shape(), &Device::Cpu).unwrap();
    (output * weights).unwrap().sum_all().unwrap()
}

fn check_gradients(inputs: &[&Var], f: impl Fn() -> Tensor) {
    let gradients = f().backward().unwrap();
    let at = || f64::from(f().to_scalar::<f32>().unwrap());
    for (number, input) in inputs.iter().enumerate() {
        let analytic = values(gradients.get(input).unwrap());
        let before = values(input);
        let mut numeric = Vec::new();
        for index in 0..before.len() {
            let step = 1e-2;
            let side = |change: f32| {
                let mut moved = before.clone();
                moved[index] += change;
                input.set(&Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap()).unwrap();
                at()
            };
            numeric.push(((side(step) - side(-step)) / (2.0 * f64::from(step))) as f32);
        }
        input.set(&Tensor::from_vec(before, input.shape(), &Device::Cpu).unwrap()).unwrap();
        assert_close(&analytic, &numeric, 5e-3, &format!("the gradient of input {number}"));
    }
}

#[test]
fn rms_norm_is_what_it_says_and_has_its_gradient() {
    let input = random(1, &[3, 16]);
    let norm = (input.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + 1e-6).unwrap().sqrt().unwrap();
    let slow = input.broadcast_div(&norm).unwrap();
    assert_close(&values(&rms_norm(&input).unwrap()), &values(&slow), 1e-6, "rms norm");
    check_gradients(&[&input], || scalar(&rms_norm(&input).unwrap()));
}

#[test]
fn squared_relu_is_what_it_says_and_has_its_gradient() {
    let input = random(2, &[4, 8]);
    let slow = input.relu().unwrap().sqr().unwrap();
    assert_close(&values(&squared_relu(&input).unwrap()), &values(&slow), 1e-6, "squared relu");
    check_gradients(&[&input], || scalar(&squared_relu(&input).unwrap()));
}

#[test]
fn embed_takes_rows_and_gives_each_its_share_of_the_gradient() {
    let (tokens, positions) = (random(3, &[5, 8]), random(4, &[4, 8]));
    let ids = vec![1, 4, 1, 0, 1, 2];
    let rows = tokens.index_select(&Tensor::new(ids.as_slice(), &Device::Cpu).unwrap(), 0).unwrap();
    let slow = rows.reshape((2, 3, 8)).unwrap().broadcast_add(&positions.narrow(0, 0, 3).unwrap()).unwrap();
    let output = embed(&tokens, &positions, ids.clone(), 3).unwrap();
    assert_eq!(output.dims(), [2, 3, 8]);
    assert_close(&values(&output), &values(&slow), 0.0, "embed");
    check_gradients(&[&tokens, &positions], || scalar(&embed(&tokens, &positions, ids.clone(), 3).unwrap()));
}

/// One head of one sequence, by candle's own operations.
fn slow_head(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let (queries, size) = q.dims2().unwrap();
    let keys = k.dim(0).unwrap();
    let scores = (q.matmul(&k.t().unwrap()).unwrap() / (size as f64).sqrt()).unwrap();
    let hidden: Vec<f32> = (0..queries)
        .flat_map(|query| {
            (0..keys).map(move |key| if key > keys - queries + query { f32::NEG_INFINITY } else { 0.0 })
        })
        .collect();
    let scores = (scores + Tensor::from_vec(hidden, (queries, keys), &Device::Cpu).unwrap()).unwrap();
    let powers = scores.broadcast_sub(&scores.max_keepdim(1).unwrap()).unwrap().exp().unwrap();
    powers.broadcast_div(&powers.sum_keepdim(1).unwrap()).unwrap().matmul(v).unwrap()
}

#[test]
fn attention_is_what_it_says_and_has_its_gradient() {
    let (sequences, queries, keys, heads, size) = (2, 2, 4, 2, 4);
    let width = heads * size;
    let (q, kv) = (random(5, &[sequences, queries, width]), random(6, &[sequences, keys, 2 * width]));
    let output = attention(&q, &kv, heads).unwrap();
    for sequence in 0..sequences {
        for head in 0..heads {
            let part = |tensor: &Tensor, from: usize| {
                tensor.i(sequence).unwrap().narrow(1, from + head * size, size).unwrap().contiguous().unwrap()
            };
            let slow = slow_head(&part(&q, 0), &part(&kv, 0), &part(&kv, width));
            assert_close(&values(&part(&output, 0)), &values(&slow), 1e-5, "attention");
        }
    }
    check_gradients(&[&q, &kv], || scalar(&attention(&q, &kv, heads).unwrap()));
}

#[test]
fn cross_entropy_leaves_out_ignored_rows_and_has_its_gradient() {
    let logits = random(7, &[4, 5]);
    let targets = vec![3, IGNORED, 0, 4];
    let row = |row: usize| {
        let logits = logits.i(row).unwrap();
        let total = logits.exp().unwrap().sum_all().unwrap().log().unwrap().to_scalar::<f32>().unwrap();
        total - values(&logits)[targets[row] as usize]
    };
    let slow = (row(0) + row(2) + row(3)) / 3.0;
    let loss = cross_entropy(&logits, targets.clone()).unwrap();
    assert_close(&[loss.to_scalar().unwrap()], &[slow], 1e-6, "cross entropy");
    check_gradients(&[&logits], || cross_entropy(&logits, targets.clone()).unwrap());
    let nothing = cross_entropy(&logits, vec![IGNORED; 4]).unwrap();
    assert_eq!(nothing.to_scalar::<f32>().unwrap(), 0.0);
}

#[test]
fn large_logits_stay_finite() {
    let logits = Tensor::new(&[[1e4_f32, -1e4, 0.0]], &Device::Cpu).unwrap();
    assert_eq!(cross_entropy(&logits, vec![1]).unwrap().to_scalar::<f32>().unwrap(), 2e4);
}

#[test]
fn a_tensor_that_is_not_contiguous_is_refused_rather_than_misread() {
    let turned = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap().t().unwrap();
    assert!(rms_norm(&turned).is_err());
}
