//! The worker alone, for the tests and benchmarks of this crate; the product's is `tollgate pack-worker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pack_host::worker::serve()
}
