//! Gradients by parameter name. Those of embedding tables keep only the rows that a batch has used: a dense one would
//! be as large as half of the model, and nearly all zeros.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::{
    error::Result,
    ops::{square_sum, tensor_square_sum},
};

/// The derivative of a loss with respect to one parameter.
#[derive(Debug, Clone)]
pub enum Gradient {
    /// All of it, in the parameter's shape.
    Dense(Tensor),
    /// The rows that are not zero.
    Rows {
        /// Their indices, ascending.
        rows: Vec<u32>,
        /// Their values, row-major `[rows, hidden]`.
        values: Vec<f32>,
    },
}

impl Gradient {
    /// Adds up the gradients `[tokens, hidden]` of table rows that `ids` picked, one a token.
    pub(super) fn of_rows(ids: &[u32], token_gradients: &[f32], hidden: usize) -> Self {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        // Stable, so that each row's sum has a fixed order.
        order.sort_by_key(|&token| ids[token]);
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        for token in order {
            if rows.last() != Some(&ids[token]) {
                rows.push(ids[token]);
                values.resize(values.len() + hidden, 0.0);
            }
            let row = values.len() - hidden;
            let gradient = &token_gradients[token * hidden..][..hidden];
            values[row..].iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
        }
        Self::Rows { rows, values }
    }

    fn square_sum(&self) -> Result<f64> {
        match self {
            Self::Dense(tensor) => Ok(tensor_square_sum(tensor)?),
            Self::Rows { values, .. } => Ok(square_sum(values)),
        }
    }

    /// The whole gradient, in the shape of its parameter and on its device.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if memory runs out.
    pub fn to_dense(&self, parameter: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Rows { rows, values } => {
                let (device, hidden) = (parameter.device(), parameter.dims2()?.1);
                let values = Tensor::from_slice(values, (rows.len(), hidden), device)?;
                let rows = Tensor::new(rows.as_slice(), device)?;
                Ok(parameter.zeros_like()?.index_add(&rows, &values, 0)?)
            }
        }
    }
}

/// The gradient of every parameter, by name.
#[derive(Debug, Clone)]
pub struct Gradients(pub(super) BTreeMap<String, Gradient>);

impl Gradients {
    /// The gradient of the parameter `name`.
    pub fn get(&self, name: &str) -> Option<&Gradient> {
        self.0.get(name)
    }

    /// Adds `other`: the sum over parts of a batch that were computed one by one.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if they are the gradients of another model.
    pub fn accumulate(self, mut other: Self) -> Result<Self> {
        let sum = |(name, gradient): (String, Gradient)| {
            let sum = match (gradient, other.0.remove(&name)) {
                (Gradient::Dense(a), Some(Gradient::Dense(b))) => Gradient::Dense((a + b)?),
                (Gradient::Rows { rows: mut ids, mut values }, Some(Gradient::Rows { rows, values: further })) => {
                    let hidden = further.len() / rows.len();
                    values.extend(further);
                    ids.extend(rows);
                    Gradient::of_rows(&ids, &values, hidden)
                }
                _ => return Err(candle_core::Error::Msg(format!("{name} has no second gradient")).into()),
            };
            Ok((name, sum))
        };
        Ok(Self(self.0.into_iter().map(sum).collect::<Result<_>>()?))
    }

    /// The Euclidean norm over all parameters together.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.0.values() {
            sum += gradient.square_sum()?;
        }
        Ok(sum.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn sums_of_dense_and_row_gradients() {
        let dense = |values: &[f32]| Gradient::Dense(Tensor::new(values, &Device::Cpu).unwrap());
        let gradients = |ids: &[u32], rows: &[f32], values: &[f32]| {
            Gradients([("t".to_owned(), Gradient::of_rows(ids, rows, 2)), ("w".to_owned(), dense(values))].into())
        };
        let a = gradients(&[3, 1], &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0]);
        let b = gradients(&[1], &[10.0, 20.0], &[10.0, 20.0]);
        let sum = a.accumulate(b).unwrap();
        let Some(Gradient::Rows { rows, values }) = sum.get("t") else { panic!("rows") };
        assert_eq!((rows.as_slice(), values.as_slice()), (&[1, 3][..], &[13.0, 24.0, 1.0, 2.0][..]));
        let dense = sum.get("w").unwrap().to_dense(&Tensor::new(&[0.0f32, 0.0], &Device::Cpu).unwrap()).unwrap();
        assert_eq!(dense.to_vec1::<f32>().unwrap(), [11.0, 22.0]);
    }
}
