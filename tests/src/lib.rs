//! Everything that crosses a crate boundary is tested in `it`, against the real binary. This library is empty.
