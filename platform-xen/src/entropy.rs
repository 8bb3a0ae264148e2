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
