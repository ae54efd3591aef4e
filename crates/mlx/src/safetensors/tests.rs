use super::*;
use crate::{eval, memory};
use std::io::Write;

/// A file with this header and that many bytes of tensors, 0, 1, 2, …
fn write(header: &str, data_bytes: usize) -> tempfile::NamedTempFile {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data_bytes).map(|i| i as u8));
    write_bytes(&bytes)
}

fn write_bytes(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// The file is refused, naming itself and saying `expected`.
fn check(file: &tempfile::NamedTempFile, expected: &str) {
    let error = SafeTensors::open(file.path()).err().expect("a bad file was accepted").to_string();
    assert!(error.contains(expected), "{error}");
    assert!(error.contains(&*file.path().to_string_lossy()) && error.contains("hint:"), "{error}");
}

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;

#[test]
fn truncated_and_lying_lengths() {
    check(&write_bytes(&[]), "0 bytes are too few");
    check(&write_bytes(&[1, 2, 3]), "3 bytes are too few");
    check(&write_bytes(&u64::MAX.to_le_bytes()), "more than the 100000000 allowed");
    check(&write_bytes(&(200_000_000_u64).to_le_bytes()), "more than the 100000000 allowed");
    let lying = [&999_u64.to_le_bytes()[..], b"{}"].concat();
    check(&write_bytes(&lying), "claims 999 bytes and the file has 2 after");
    check(&write(GOOD, 21), "tensor `b` lies at 16..22 and the file has 21");
    check(&write(GOOD, 0), "and the file has 0");
}

#[test]
fn headers_that_are_no_header() {
    check(&write("not json", 0), "not the JSON");
    check(&write("[]", 0), "does not begin with `{`");
    check(&write("{\"a\":", 0), "not the JSON");
    check(&write("", 0), "does not begin with `{`");
    check(&write(r#"{"__metadata__":{"a":1}}"#, 0), "`__metadata__` is not an object of texts");
    check(&write(r#"{"a":3}"#, 0), "tensor `a`: its entry is no object");
    check(&write(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#, 4), "no `dtype`");
    check(
        &write(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4),
        "no list of whole numbers",
    );
    check(
        &write(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, 4),
        "no two whole numbers",
    );
    check(
        &write(r#"{"a":{"dtype":"F32","shape":[3000000000],"data_offsets":[0,4]}}"#, 4),
        "too large",
    );
    let deep = format!(r#"{{"a":{{"dtype":"U8","shape":{:?},"data_offsets":[0,1]}}}}"#, [1; 17]);
    check(&write(&deep, 1), "too many dimensions");
}

#[test]
fn tensors_that_lie() {
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |entry: String| format!(r#"{{"a":{entry}}}"#);
    let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
    check(&write(&one(entry("Q4", "[1]", 0, 4)), 4), "has the type `Q4`");
    check(&write(&one(entry("F32", "[1]", 4, 0)), 4), "lies at 4..0");
    check(&write(&one(entry("F32", "[1]", 0, u64::MAX)), 4), "lies at 0..18446744073709551615");
    check(&write(&one(entry("F32", "[2]", 0, 4)), 4), "has 4 bytes and its shape and type need 8");
    check(&write(&one(entry("F16", "[1]", 0, 4)), 4), "has 4 bytes and its shape and type need 2");
    let most = "[2147483647,2147483647,2147483647,2147483647]";
    check(&write(&one(entry("F32", most, 0, 4)), 4), "too large");
    check(
        &write(&two(entry("U8", "[4]", 0, 4), entry("U8", "[4]", 3, 7)), 7),
        "`a` and `b` overlap",
    );
    check(
        &write(&two(entry("U8", "[4]", 0, 4), entry("U8", "[4]", 0, 4)), 4),
        "`a` and `b` overlap",
    );
    check(
        &write(&two(entry("U8", "[2]", 0, 2), entry("U8", "[2]", 4, 6)), 6),
        "2 bytes belong to no tensor",
    );
    check(&write(GOOD, 30), "8 bytes belong to no tensor");
    let twice = format!(r#"{{"a":{},"a":{}}}"#, entry("U8", "[1]", 0, 1), entry("U8", "[1]", 1, 2));
    check(&write(&twice, 2), "`a` stands in the header twice");
}

#[test]
fn a_missing_file_says_so() {
    let error = SafeTensors::open("/nowhere/model.safetensors").err().unwrap().to_string();
    assert!(
        error.contains("/nowhere/model.safetensors") && error.contains("cannot be read"),
        "{error}"
    );
}

#[test]
fn a_good_file_is_listed_and_read() {
    let file = write(GOOD, 22);
    let tensors = SafeTensors::open(file.path()).unwrap();
    assert_eq!(tensors.metadata()["format"], "pt");
    let listed: Vec<_> =
        tensors.tensors().map(|(name, t)| (name, t.dtype, t.shape.clone(), t.nbytes())).collect();
    assert_eq!(listed, [("a", Dtype::F32, vec![2, 2], 16), ("b", Dtype::Bf16, vec![3], 6)]);
    assert_eq!(tensors.bytes("b").unwrap(), [16, 17, 18, 19, 20, 21]);
    let array = tensors.array("a").unwrap();
    assert_eq!((array.shape(), array.dtype()), (&[2, 2][..], Dtype::F32));
    assert_eq!(array.to_bytes().unwrap(), tensors.bytes("a").unwrap());
    let error = tensors.array("c").unwrap_err().to_string();
    assert!(error.contains("no tensor `c`"), "{error}");
    drop(tensors);
    assert_eq!(
        array.to_bytes().unwrap()[..4],
        [0, 1, 2, 3],
        "the array outlives the file's handle"
    );
}

/// Real sizes: 64 MiB are not copied, unaligned ones are, and what MLX writes reaches neither file nor other arrays.
#[test]
fn values_lie_in_the_mapping_and_never_in_the_file() {
    const MIB: usize = 1 << 20;
    let size = 64 * MIB;
    let header =
        format!(r#"{{"w":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{size}]}}}}"#, size / 4);
    let padding = " ".repeat((8 - header.len() % 8) % 8);
    let file = write(&(header.clone() + &padding), size);
    let tensors = SafeTensors::open(file.path()).unwrap();
    let before = tensors.bytes("w").unwrap().to_vec();
    let held = memory::active_bytes();
    let array = tensors.array("w").unwrap();
    if crate::device() == crate::Device::Cpu {
        assert!(memory::active_bytes() < held + 32 * MIB, "a second copy was made");
        assert!(memory::mapped_bytes() >= size, "an array in a file is counted");
    }
    // The only reference goes into the operation: MLX may write the sum over the summands.
    let sum = array + 1.0;
    eval(&[&sum]).unwrap();
    drop(sum);
    assert!(tensors.bytes("w").unwrap() == before, "a result was written into the file's pages");
    assert!(
        tensors.array("w").unwrap().to_bytes().unwrap() == before,
        "a second array sees the first one's result"
    );
    assert!(std::fs::read(file.path()).unwrap().ends_with(&before), "the file was changed");
    let odd = write(&(header + &padding + " "), size);
    assert!(
        SafeTensors::open(odd.path()).unwrap().array("w").unwrap().to_bytes().unwrap() == before
    );
}
