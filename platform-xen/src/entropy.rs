//! Random numbers from the processor.

use core::arch::x86_64::{_rdrand64_step, _rdseed64_step};
use core::fmt;

use rand_core::{TryCryptoRng, TryRng};

/// How often an instruction is tried that has no number ready; Intel's guide calls ten failures a broken device.
const TRIES: usize = 32;

/// The processor's random number generator: RDSEED where there is one, else RDRAND.
#[derive(Clone, Copy, Debug)]
pub struct Entropy {
    seed: bool,
}

/// There are no random numbers to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntropyError {
    /// The processor has, or the `cpuid=` line of the xl file leaves, neither RDSEED nor RDRAND.
    NoInstruction,
    /// The instruction is there but delivers nothing.
    Exhausted,
}

impl fmt::Display for EntropyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EntropyError::NoInstruction => {
                "no source of random numbers: this processor offers neither RDSEED nor RDRAND to the domain"
            }
            EntropyError::Exhausted => "no random numbers: the processor's generator delivers none",
        })
    }
}

impl core::error::Error for EntropyError {}

impl Entropy {
    /// Finds the generator.
    ///
    /// # Errors
    ///
    /// If the processor offers the domain neither RDSEED nor RDRAND.
    pub fn new() -> Result<Entropy, EntropyError> {
        let cpuid = raw_cpuid::CpuId::new();
        let seed = cpuid.get_extended_feature_info().is_some_and(|info| info.has_rdseed());
        let rand = cpuid.get_feature_info().is_some_and(|info| info.has_rdrand());
        match seed || rand {
            true => Ok(Entropy { seed }),
            false => Err(EntropyError::NoInstruction),
        }
    }
}

#[target_feature(enable = "rdseed")]
fn rdseed() -> Option<u64> {
    let mut value = 0;
    (_rdseed64_step(&mut value) == 1).then_some(value)
}

#[target_feature(enable = "rdrand")]
fn rdrand() -> Option<u64> {
    let mut value = 0;
    (_rdrand64_step(&mut value) == 1).then_some(value)
}

impl TryRng for Entropy {
    type Error = EntropyError;

    fn try_next_u32(&mut self) -> Result<u32, EntropyError> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, EntropyError> {
        for _ in 0..TRIES {
            let value = match self.seed {
                // SAFETY: `new` has found the instruction.
                true => unsafe { rdseed() },
                // SAFETY: `new` has found the instruction.
                false => unsafe { rdrand() },
            };
            if let Some(value) = value {
                return Ok(value);
            }
            core::hint::spin_loop();
        }
        Err(EntropyError::Exhausted)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Entropy {}

/// Of `rand_core` 0.9.
impl rand_core_0_9::TryRngCore for Entropy {
    type Error = EntropyError;

    fn try_next_u32(&mut self) -> Result<u32, EntropyError> {
        TryRng::try_next_u32(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, EntropyError> {
        TryRng::try_next_u64(self)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), EntropyError> {
        TryRng::try_fill_bytes(self, dst)
    }
}

impl rand_core_0_9::TryCryptoRng for Entropy {}

/// Of `rand_core` 0.6.
///
/// # Panics
///
/// All but `try_fill_bytes` panic where the processor's generator delivers nothing: this version has no errors for them.
impl rand_core_0_6::RngCore for Entropy {
    fn next_u32(&mut self) -> u32 {
        TryRng::try_next_u32(self).unwrap_or_else(|error| panic!("{error}"))
    }

    fn next_u64(&mut self) -> u64 {
        TryRng::try_next_u64(self).unwrap_or_else(|error| panic!("{error}"))
    }

    fn fill_bytes(&mut self, dst: &mut [u8]) {
        TryRng::try_fill_bytes(self, dst).unwrap_or_else(|error| panic!("{error}"));
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), rand_core_0_6::Error> {
        let code = rand_core_0_6::Error::CUSTOM_START;
        TryRng::try_fill_bytes(self, dst)
            .map_err(|error| core::num::NonZeroU32::MIN.saturating_add(code - 1 + error as u32).into())
    }
}

impl rand_core_0_6::CryptoRng for Entropy {}

/// The source of the crate `getrandom`, 0.3 and 0.4, for guests that are compiled with
/// `--cfg getrandom_backend="custom"`.
#[cfg(feature = "guest")]
mod custom {
    use getrandom::Error;

    use super::*;

    /// # Safety
    ///
    /// `len` bytes at `dest` can be written; they may be uninitialized.
    // SAFETY: the name is getrandom's for this function, with this signature (getrandom 0.4, "Custom backend"; 0.3 has
    // the same, with an error of the same layout).
    #[unsafe(no_mangle)]
    unsafe extern "Rust" fn __getrandom_v03_custom(dest: *mut u8, len: usize) -> Result<(), Error> {
        // SAFETY: as the caller promises; zeroed first, since a slice is of initialized bytes.
        let bytes = unsafe {
            dest.write_bytes(0, len);
            core::slice::from_raw_parts_mut(dest, len)
        };
        let mut entropy = Entropy::new().map_err(|_| Error::UNSUPPORTED)?;
        entropy.try_fill_bytes(bytes).map_err(|_| Error::UNEXPECTED)
    }
}
