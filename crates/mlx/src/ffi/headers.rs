//! Compares every line of the table with the headers that were installed with the library.

use super::{Early, Functions};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Return type and argument types, spelled as in C without names: `const int*`, `size_t`.
type Prototype = (String, Vec<String>);

#[test]
fn every_declaration_is_the_headers() {
    let prototypes = installed_prototypes();
    assert!(prototypes.len() > 400, "only {} prototypes were found", prototypes.len());
    let wrong: Vec<_> = Early::DECLARATIONS
        .iter()
        .chain(Functions::DECLARATIONS)
        .filter_map(|line| disagreement(line, &prototypes))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn disagreement(
    (name, arguments, result): &(&str, &[&str], &str),
    prototypes: &BTreeMap<String, Prototype>,
) -> Option<String> {
    let Some((c_result, c_arguments)) = prototypes.get(*name) else {
        return Some(format!("{name}: not in the headers"));
    };
    let ours: Vec<_> = arguments.iter().map(|ty| in_c(ty)).collect();
    let result = if result.is_empty() { "void".to_owned() } else { in_c(result) };
    let same = &ours == c_arguments && &result == c_result;
    (!same).then(|| format!("{name}: ours {result}({ours:?}), headers {c_result}({c_arguments:?})"))
}

/// A type of Rust as C spells it.
fn in_c(ty: &str) -> String {
    let ty = ty.trim();
    if let Some(inner) = ty.strip_prefix("*mut ") {
        return format!("{}*", in_c(inner));
    }
    if let Some(inner) = ty.strip_prefix("*const ") {
        return format!("const {}*", in_c(inner));
    }
    let scalar = match ty {
        "c_int" | "i32" => "int",
        "c_char" => "char",
        "c_void" => "void",
        "usize" => "size_t",
        "f32" => "float",
        "f64" => "double",
        "u8" => "uint8_t",
        "u64" => "uint64_t",
        "i64" => "int64_t",
        other => other,
    };
    scalar.to_owned()
}

fn installed_prototypes() -> BTreeMap<String, Prototype> {
    let report = crate::report();
    let opened = report.opened.unwrap_or_else(|error| panic!("{error}"));
    let library: &Path = &opened.files[0].1;
    let include = library.parent().and_then(Path::parent).unwrap().join("include");
    let mut prototypes = BTreeMap::new();
    for header in
        headers(&include.join("mlx/c")).into_iter().chain(headers(&include.join("ollmlx")))
    {
        prototypes.extend(parse(&fs::read_to_string(header).unwrap()));
    }
    prototypes
}

fn headers(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "h"))
        .collect()
}

/// All functions named `mlx_…` or `ollmlx_…` that a header declares.
fn parse(header: &str) -> Vec<(String, Prototype)> {
    let text = without_comments(header);
    let statements = text.split([';', '{', '}']);
    statements.filter_map(prototype).collect()
}

fn without_comments(text: &str) -> String {
    let mut clean = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        clean.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    clean.push_str(rest);
    let code = |line: &&str| !line.trim_start().starts_with('#');
    let lines = clean.lines().filter(code).map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join(" ")
}

fn prototype(statement: &str) -> Option<(String, Prototype)> {
    let statement = statement.trim();
    let statement = statement.rsplit("extern \"C\"").next()?.trim();
    if statement.starts_with("typedef") || !statement.ends_with(')') {
        return None;
    }
    let (head, arguments) = statement.split_once('(')?;
    let (result, name) = split_name(head.trim());
    if !name.trim_start_matches('_').starts_with("mlx_") && !name.starts_with("ollmlx_") {
        return None;
    }
    let arguments = split_arguments(arguments.strip_suffix(')')?);
    Some((name.to_owned(), (normal(result), arguments)))
}

/// `const int* axes` → (`const int*`, `axes`)
fn split_name(declaration: &str) -> (&str, &str) {
    let start = declaration.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + 1);
    (&declaration[..start], &declaration[start..])
}

fn split_arguments(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    let parts: Vec<_> = parts
        .iter()
        .map(|part| part.trim())
        .filter(|part| !part.is_empty() && *part != "void")
        .collect();
    parts.into_iter().map(argument).collect()
}

fn argument(text: &str) -> String {
    match normal(text) {
        pointer if pointer.starts_with("void (*") => "mlx_destructor".to_owned(),
        pointer if pointer.starts_with("int (*") => closure(&pointer),
        _ => normal(split_name(text).0),
    }
}

/// The only callback besides destructors that the table knows.
fn closure(pointer: &str) -> String {
    let known = "int (*fun)(mlx_vector_array*, const mlx_vector_array, void*)";
    if pointer == known { "mlx_closure_func".to_owned() } else { pointer.to_owned() }
}

/// One blank between words, none before `*`; `const` of what is passed by value means nothing.
fn normal(ty: &str) -> String {
    let ty = ty
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" *", "*")
        .replace("int32_t", "int");
    match ty.strip_prefix("const ") {
        Some(value) if !value.ends_with('*') => value.to_owned(),
        _ => ty,
    }
}

#[test]
fn a_wrong_declaration_is_noticed() {
    fn check(line: (&str, &[&str], &str), right: bool) {
        let header = "/** x */ int mlx_take(mlx_array* res, const int* axes, size_t axes_num, bool keep, const mlx_stream s);";
        let prototypes = parse(header).into_iter().collect();
        assert_eq!(disagreement(&line, &prototypes).is_none(), right, "{line:?}");
    }
    check(
        ("mlx_take", &["*mut mlx_array", "*const c_int", "usize", "bool", "mlx_stream"], "c_int"),
        true,
    );
    check(
        ("mlx_take", &["*mut mlx_array", "*mut c_int", "usize", "bool", "mlx_stream"], "c_int"),
        false,
    );
    check(
        ("mlx_take", &["*mut mlx_array", "*const c_int", "bool", "bool", "mlx_stream"], "c_int"),
        false,
    );
    check(("mlx_take", &["*mut mlx_array", "*const c_int", "usize", "bool"], "c_int"), false);
    check(
        ("mlx_take", &["*mut mlx_array", "*const c_int", "usize", "bool", "mlx_stream"], ""),
        false,
    );
    check(("mlx_give", &[], "c_int"), false);
}

/// `Dtype`'s numbers are those of the header's enumeration.
#[test]
fn element_types_are_numbered_as_in_the_header() {
    let report = crate::report();
    let opened = report.opened.unwrap_or_else(|error| panic!("{error}"));
    let tree = opened.files[0].1.parent().and_then(Path::parent).unwrap();
    let text = without_comments(&fs::read_to_string(tree.join("include/mlx/c/array.h")).unwrap());
    let list =
        text.split("enum mlx_dtype_ {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    let names: Vec<_> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    assert_eq!(names.len(), 14);
    for (number, name) in names.iter().enumerate() {
        let ours = crate::Dtype::from_raw(number as u32).to_string();
        assert_eq!(format!("MLX_{}", ours.to_uppercase()), **name);
    }
}
