//! What the fuzz targets use besides the public interface.

pub use crate::back::fuzzing::Wire;
pub use crate::mss::Flows;
pub use crate::path_mtu::Paths;
