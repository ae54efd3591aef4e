//! Checkpoints in f32, for tests that cannot do with less.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::path::Path;

/// The same weights stored as f32, which bf16 fits into exactly: what is then computed in f32 must follow the reference.
pub fn widen(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = Vec::new();
    for (name, tensor) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        assert_eq!(tensor["dtype"], "BF16", "{name}");
        let [from, to] =
            [0, 1].map(|end| 8 + length + tensor["data_offsets"][end].as_u64().unwrap() as usize);
        let start = data.len();
        data.extend(bytes[from..to].chunks(2).flat_map(|half| [0, 0, half[0], half[1]]));
        tensor["dtype"] = "F32".into();
        tensor["data_offsets"] = vec![start, data.len()].into();
    }
    let header = serde_json::to_vec(&header).unwrap();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat())
        .unwrap();
}
