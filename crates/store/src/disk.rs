//! Free space and permission to write.

use crate::{Result, Store};

impl Store {
    /// What a file of ours may still take on the disk the root is (or will be) on.
    pub fn free_bytes(&self) -> Result<u64> {
        unimplemented!()
    }

    /// Tries to write, and removes what it wrote.
    pub fn check_writable(&self) -> Result<()> {
        unimplemented!()
    }
}
