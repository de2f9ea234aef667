//! Where training computes, and in which number format.

use candle_core::{DType, Device};

use crate::{
    error::{Error, Result, first_line},
    ops::has_bf16_products,
};

/// A device and the number format of the activations on it. Weights, gradients of weights and the optimizer's moments
/// are `f32` everywhere. On the CPU activations are too, and `bf16` is the format to which the factors of products with weights are
/// rounded.
#[derive(Debug, Clone)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// The number format.
    pub dtype: DType,
}

impl Default for Compute {
    /// The CPU in `f32`: the fused operations.
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }
}

impl Compute {
    /// The device that `--device` names: `cpu`, `cuda`, `cuda:N` or `metal`.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such device, or the program was built without support for it; and if the device
    /// does not compute in `dtype`.
    pub fn open(device: &str, dtype: DType) -> Result<Self> {
        let name = device;
        let open = |opened: candle_core::Result<Device>, feature: &str| {
            opened.map_err(|error| {
                use candle_core::Error::{NotCompiledWithCudaSupport, NotCompiledWithMetalSupport};
                let expected = match error {
                    NotCompiledWithCudaSupport | NotCompiledWithMetalSupport => {
                        format!(
                            "cpu, since this nimbert-train was built without {feature} (cargo --features {feature})"
                        )
                    }
                    _ => format!("a device that can be used, but: {}", first_line(&error)),
                };
                Error::setting("--device", expected, name)
            })
        };
        let unknown = || Err(Error::setting("--device", "cpu, cuda, cuda:N or metal", name));
        let device = match device.split_once(':').unwrap_or((device, "0")) {
            ("cpu", "0") => Device::Cpu,
            ("cuda", ordinal) => match ordinal.parse::<u16>() {
                Ok(ordinal) => open(Device::new_cuda(ordinal.into()), "cuda")?,
                Err(_) => return unknown(),
            },
            ("metal", "0") => open(Device::new_metal(0), "metal")?,
            _ => return unknown(),
        };
        let compute = Self { device, dtype };
        match dtype {
            _ if !compute.device.is_cpu() || compute.is_fused() => Ok(compute),
            DType::BF16 => {
                let expected = "fp32 on this processor, which has no products of bf16 (avx512_bf16)";
                Err(Error::setting("--compute-dtype", expected, "bf16"))
            }
            _ => Err(Error::setting("--compute-dtype", "fp32 or bf16 on the CPU", "fp16")),
        }
    }

    /// Whether the fused operations run.
    pub fn is_fused(&self) -> bool {
        self.device.is_cpu() && (self.dtype == DType::F32 || self.rounds_products())
    }

    /// Whether the factors of products are rounded to bfloat16 while all else is `f32`.
    pub(crate) fn rounds_products(&self) -> bool {
        self.device.is_cpu() && self.dtype == DType::BF16 && has_bf16_products()
    }
}

/// The factor by which a loss is multiplied before its backward pass in half precision, so that small gradients do not
/// become 0 (Micikevicius et al., arXiv 1710.03740). It is halved whenever a gradient overflows, and doubled after many
/// steps in which none did.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LossScale {
    /// The factor.
    pub factor: f64,
    /// Steps since it last changed.
    steps: u32,
}

impl LossScale {
    /// Steps without overflow after which the factor is doubled.
    const GROWTH_STEPS: u32 = 2000;

    /// The first factor for a number format: 1 where there is nothing to win.
    pub fn new(dtype: DType) -> Self {
        // bf16 has the range of f32.
        let factor = if dtype == DType::F16 { f64::from(1 << 16) } else { 1.0 };
        Self { factor, steps: 0 }
    }

    /// Whether a gradient that is not finite may be the factor's fault.
    pub fn can_shrink(&self) -> bool {
        self.factor > 1.0
    }

    /// After a step whose gradient was not finite.
    pub fn shrink(&mut self) {
        *self = Self { factor: self.factor / 2.0, steps: 0 };
    }

    /// After a step whose gradient was finite.
    pub fn grow(&mut self, dtype: DType) {
        self.steps += 1;
        if dtype == DType::F16 && self.steps == Self::GROWTH_STEPS {
            *self = Self { factor: self.factor * 2.0, steps: 0 };
        }
    }
}

impl Default for LossScale {
    fn default() -> Self {
        Self::new(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error_that_says_why() {
        let message = |device: &str, dtype| Compute::open(device, dtype).unwrap_err().to_string();
        assert!(
            message("gpu", DType::F32).contains("expected cpu, cuda, cuda:N or metal"),
            "{}",
            message("gpu", DType::F32)
        );
        assert!(message("cuda:x", DType::F32).contains("cuda:N"));
        #[cfg(not(feature = "cuda"))]
        assert!(message("cuda:1", DType::BF16).contains("built without cuda"), "{}", message("cuda:1", DType::BF16));
        #[cfg(not(feature = "metal"))]
        assert!(message("metal", DType::F32).contains("built without metal"));
        assert!(message("cpu", DType::F16).contains("fp32 or bf16 on the CPU"));
        assert!(Compute::open("cpu", DType::F32).unwrap().is_fused());
        match has_bf16_products() {
            true => assert!(Compute::open("cpu", DType::BF16).unwrap().is_fused()),
            false => assert!(message("cpu", DType::BF16).contains("avx512_bf16")),
        }
    }

    #[test]
    fn the_loss_scale_halves_at_an_overflow_and_doubles_after_many_good_steps() {
        let mut scale = LossScale::new(DType::F16);
        scale.shrink();
        assert_eq!(scale.factor, 32768.0);
        (0..LossScale::GROWTH_STEPS).for_each(|_| scale.grow(DType::F16));
        assert_eq!(scale.factor, 65536.0);
        assert!(!LossScale::new(DType::BF16).can_shrink());
    }
}
