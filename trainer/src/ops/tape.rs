//! The way back through fused operations, beside candle's. candle writes zeros for the gradient of every tensor, on one thread, and adds
//! to them even what is the only part: of long rows that took an eighth of a training step.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, TensorId, Var,
    backprop::GradStore, bail,
};

use super::with_storages;

/// What the fused operations of a forward pass have read and made, for one way back. What they make are variables to candle: where its graph
/// begins.
#[derive(Default)]
pub struct Tape {
    /// In the order in which they were made.
    steps: Mutex<Vec<Step>>,
    sink: GradientSink,
}

/// Where operations leave the gradients of parameters that are not to go through candle: those of which they see some rows, and of what is
/// no input.
#[derive(Debug, Clone, Default)]
pub struct GradientSink {
    gradients: Arc<Mutex<HashMap<TensorId, Parts>>>,
    rounds_products: bool,
}

/// A gradient in parts, by their first rows.
type Parts = BTreeMap<usize, Tensor>;

/// The gradients of all that a loss was made of.
pub struct TapeGradients {
    store: GradStore,
    sink: GradientSink,
}

struct Step {
    inputs: Vec<Tensor>,
    output: Tensor,
    backward: Backward,
}

/// Of inputs, output and the output's gradient the gradients of the inputs.
type Backward = Box<dyn FnOnce(&[Tensor], &Tensor, &Tensor) -> Result<Vec<Option<Tensor>>> + Send>;

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape").field("steps", &self.steps().len()).field("sink", &self.sink).finish()
    }
}

impl Tape {
    /// An empty one. With `rounds_products` the factors of products of linear layers are rounded to bfloat16, for which
    /// [`has_bf16_products`](super::has_bf16_products) must be true.
    pub fn new(rounds_products: bool) -> Self {
        Self { sink: GradientSink { rounds_products, ..GradientSink::default() }, ..Self::default() }
    }

    pub(crate) fn sink(&self) -> GradientSink {
        self.sink.clone()
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gradients of `loss`. The tape is empty afterwards; what the loss has of other tapes counts as constant.
    ///
    /// # Errors
    /// If what candle computed in between has no way back, or memory runs out.
    pub fn backward(&self, loss: &Tensor) -> Result<TapeGradients> {
        let mut store = loss.backward()?;
        let mut steps = std::mem::take(&mut *self.steps());
        // Inputs that candle has made of outputs, by the first step that reads each: behind that one, on the way back, a gradient is whole,
        // and goes on through candle's graph to outputs of steps before.
        let mut first_read = HashMap::new();
        for (index, step) in steps.iter().enumerate() {
            for input in step.inputs.iter().filter(|input| input.track_op() && !input.is_variable()) {
                first_read.entry(input.id()).or_insert(index);
            }
        }
        while let Some(Step { inputs, output, backward }) = steps.pop() {
            if let Some(gradient) = store.remove(&output) {
                let gradients = backward(&inputs, &output, &gradient)?;
                for (input, gradient) in inputs.iter().zip(gradients) {
                    if let Some(gradient) = gradient.filter(|_| input.track_op()) {
                        add(&mut store, input.id(), gradient)?;
                    }
                }
            }
            for input in inputs.iter().filter(|input| first_read.get(&input.id()) == Some(&steps.len())) {
                if let Some(gradient) = store.remove(input) {
                    let further = input.apply_op1(Seed(gradient))?.backward()?;
                    for id in further.get_ids() {
                        let gradient = further.get_id(*id).expect("an id of it").clone();
                        add(&mut store, *id, gradient)?;
                    }
                }
            }
        }
        Ok(TapeGradients { store, sink: self.sink() })
    }

    /// Remembers an operation; what it has made, as a tensor.
    fn record(
        &self,
        inputs: &[&Tensor],
        (output, shape): (CpuStorage, Shape),
        backward: impl FnOnce(&[Tensor], &Tensor, &Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Result<Tensor> {
        let CpuStorage::F32(values) = output else { bail!("expected numbers in f32") };
        let output = Var::from_vec(values, shape, &Device::Cpu)?.into_inner();
        let inputs = inputs.iter().map(|&input| input.clone()).collect();
        self.steps().push(Step { inputs, output: output.clone(), backward: Box::new(backward) });
        Ok(output)
    }
}

impl TapeGradients {
    /// Takes the gradient of a parameter, or of what a graph begins with, out.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn take(&mut self, tensor: &Tensor) -> Result<Option<Tensor>> {
        let parts = self.sink.gradients().remove(&tensor.id()).unwrap_or_default();
        let parts: Vec<Tensor> = parts.into_values().collect();
        let gradient = match &parts[..] {
            [] => None,
            [whole] => Some(whole.clone()),
            parts => Some(Tensor::cat(parts, 0)?),
        };
        match (gradient, self.store.remove(tensor)) {
            (Some(one), Some(other)) => Ok(Some((one + other)?)),
            (one, other) => Ok(one.or(other)),
        }
    }
}

impl GradientSink {
    fn gradients(&self) -> MutexGuard<'_, HashMap<TensorId, Parts>> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether factors of products are rounded to bfloat16.
    pub(super) fn rounds_products(&self) -> bool {
        self.rounds_products
    }

    /// Adds to the gradient of the rows of `parameter` from `first` on, unless it is frozen. All of a parameter's rows must get theirs, always in
    /// the same parts.
    pub(super) fn add(&self, parameter: &Tensor, first: usize, gradient: Tensor) -> Result<()> {
        if !parameter.track_op() {
            return Ok(());
        }
        let mut gradients = self.gradients();
        let parts = gradients.entry(parameter.id()).or_default();
        let sum = match parts.remove(&first) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        parts.insert(first, sum);
        Ok(())
    }
}

/// A loss whose gradient is this: where candle's way back begins with a tensor that is no number.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

fn add(store: &mut GradStore, id: TensorId, gradient: Tensor) -> Result<()> {
    let sum = match store.get_id(id) {
        Some(before) => (before + gradient)?,
        None => gradient,
    };
    store.insert_id(id, sum);
    Ok(())
}

/// The tape, if a gradient of any of the inputs is asked for.
fn recording<'a>(tape: Option<&'a Tape>, inputs: &[&Tensor]) -> Option<&'a Tape> {
    tape.filter(|_| inputs.iter().any(|input| input.track_op()))
}

/// `operation` of `x`: on the tape, or without one in candle's graph.
pub(super) fn apply1(
    tape: Option<&Tape>,
    x: &Tensor,
    operation: impl CustomOp1 + Send + Sync + 'static,
) -> Result<Tensor> {
    let Some(tape) = recording(tape, &[x]) else { return x.apply_op1(operation) };
    let output = with_storages([x], |[(x, layout)]| operation.cpu_fwd(x, layout))?;
    tape.record(&[x], output, move |inputs, output, gradient| Ok(vec![operation.bwd(&inputs[0], output, gradient)?]))
}

/// The same of two tensors.
pub(super) fn apply2(
    tape: Option<&Tape>,
    [a, b]: [&Tensor; 2],
    operation: impl CustomOp2 + Send + Sync + 'static,
) -> Result<Tensor> {
    let Some(tape) = recording(tape, &[a, b]) else { return a.apply_op2(b, operation) };
    let output = with_storages([a, b], |[a, b]| operation.cpu_fwd(a.0, a.1, b.0, b.1))?;
    tape.record(&[a, b], output, move |inputs, output, gradient| {
        let (a, b) = operation.bwd(&inputs[0], &inputs[1], output, gradient)?;
        Ok(vec![a, b])
    })
}

/// The same of three tensors.
pub(super) fn apply3(
    tape: Option<&Tape>,
    [a, b, c]: [&Tensor; 3],
    operation: impl CustomOp3 + Send + Sync + 'static,
) -> Result<Tensor> {
    let Some(tape) = recording(tape, &[a, b, c]) else { return a.apply_op3(b, c, operation) };
    let output = with_storages([a, b, c], |[a, b, c]| operation.cpu_fwd(a.0, a.1, b.0, b.1, c.0, c.1))?;
    tape.record(&[a, b, c], output, move |inputs, output, gradient| {
        let (a, b, c) = operation.bwd(&inputs[0], &inputs[1], &inputs[2], output, gradient)?;
        Ok(vec![a, b, c])
    })
}
