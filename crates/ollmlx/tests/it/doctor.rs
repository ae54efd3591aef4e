//! `doctor`: the table, its exit code, and a library that crashes.

use std::net::TcpListener;

use crate::support::{Done, Home, Server};

fn line<'a>(done: &'a Done, subject: &str) -> &'a str {
    let is = |line: &&str| line.get(9..).is_some_and(|rest| rest.starts_with(subject));
    done.stdout.lines().find(is).unwrap_or_else(|| panic!("no line about {subject}: {done}"))
}

/// Needs MLX; `cargo xtask mlx` makes it.
#[test]
fn a_machine_that_is_fine() {
    let mut home = Home::new();
    let server = Server::start(&mut home);
    let done = home.run(&["doctor"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done}");
    for subject in [
        "machine",
        "instructions",
        "kernels",
        "MLX",
        "arithmetic",
        "store",
        "builtin models",
        "server",
    ] {
        line(&done, subject);
    }
    assert!(line(&done, "MLX").starts_with("ok "), "{done}");
    assert!(line(&done, "arithmetic").contains("known answers are right"), "{done}");
    assert!(line(&done, "store").contains("~/.ollama/models, "), "{done}");
    assert!(line(&done, "builtin models").starts_with("warning  "), "{done}");
    let answers = format!("answers at {} (Ollama API ", server.address);
    assert!(line(&done, "server").contains(&answers), "{done}");
    let unfine = done.stdout.lines().filter(|line| line.starts_with("warning")).count();
    assert_eq!(done.stdout.matches(" hint: ").count(), unfine, "{done}");
}

/// Needs MLX; `cargo xtask mlx` makes it.
#[test]
fn the_model_that_comes_with_it_answers() {
    let mut home = Home::real();
    home.set("OLLAMA_HOST", "127.0.0.1:9");
    let done = home.run(&["doctor"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done}");
    assert!(line(&done, "builtin models").contains("pocket"), "{done}");
    let text = line(&done, "pocket");
    assert!(text.starts_with("ok ") && text.contains("12 + 30 = 42."), "{done}");
}

#[test]
fn what_is_wrong_is_told_with_hints() {
    let mut home = Home::new();
    let unwritable = if cfg!(target_os = "macos") { "/dev/models" } else { "/proc/models" };
    home.set("OLLAMA_MODELS", unwritable);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    home.set("OLLAMA_HOST", &silent.local_addr().unwrap().to_string());
    let answering = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut client, _) = silent.accept().unwrap();
        let _ = client.read(&mut [0; 1024]);
        client.write_all(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let done = home.run(&["doctor"]);
    answering.join().unwrap();
    assert_eq!((done.code, done.stderr.as_str()), (Some(1), ""), "{done}");
    assert!(line(&done, "store").starts_with("problem  "), "{done}");
    assert!(line(&done, "server").starts_with("problem  "), "{done}");
    assert!(
        done.stdout.contains("hint: end it, or choose another address with OLLAMA_HOST"),
        "{done}"
    );
}

#[test]
fn an_instruction_set_that_is_forced() {
    let mut home = Home::new();
    home.set("OLLAMA_HOST", "127.0.0.1:9");
    home.set("OLLMLX_NUM_THREADS", "3");
    home.set("OLLMLX_CPU_ISA", "scalar");
    let done = home.run(&["doctor"]);
    assert!(
        line(&done, "kernels").ends_with("scalar, 3 threads, forced by OLLMLX_CPU_ISA"),
        "{done}"
    );
    home.set("OLLMLX_CPU_ISA", "mmx");
    let done = home.run(&["doctor"]);
    assert!(line(&done, "kernels").starts_with("warning  "), "{done}");
    assert!(done.stdout.contains("hint: unset OLLMLX_CPU_ISA"), "{done}");
}

/// A file that is no library where the user says MLX is, and no other variant allowed.
#[test]
fn no_mlx() {
    let mut home = Home::new();
    let folder = home.write("mlx/lib/broken", "no library").parent().unwrap().to_owned();
    home.set("OLLMLX_MLX_PATH", folder.to_str().unwrap());
    home.set("OLLAMA_LLM_LIBRARY", "cuda-12");
    home.set("OLLAMA_HOST", "127.0.0.1:9");
    let done = home.run(&["doctor"]);
    assert_eq!(done.code, Some(1), "{done}");
    assert!(line(&done, "MLX").starts_with("problem  "), "{done}");
    assert!(done.stdout.contains(folder.to_str().unwrap()), "the places looked at: {done}");
    assert!(line(&done, "server").contains("none at 127.0.0.1:9"), "{done}");
    assert!(line(&done, "machine").len() > 20, "the rest is told all the same: {done}");
}

/// A library that ends its process when it is opened. Needs a C++ compiler, as MLX's provisioning does.
#[test]
fn a_library_that_crashes_costs_a_line() {
    let mut home = Home::new();
    let source = home.write(
        "mlx/crash.cpp",
        "#include <cstdlib>\nnamespace { struct Crash { Crash() { std::abort(); } } crash; }\n",
    );
    let name = if cfg!(target_os = "macos") { "libollmlx_mlx.dylib" } else { "libollmlx_mlx.so" };
    let library = home.path("mlx").join(name);
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let built = std::process::Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.is_ok_and(|status| status.success()), "no C++ compiler");
    home.set("OLLMLX_MLX_PATH", library.to_str().unwrap());
    home.set("OLLAMA_HOST", "127.0.0.1:9");
    let done = home.run(&["doctor"]);
    assert_eq!(done.code, Some(1), "{done}");
    let text = line(&done, "MLX");
    assert!(
        text.starts_with("problem  ") && text.contains("ended the process with signal 6"),
        "{done}"
    );
    // A warning where the disk is nearly full.
    let store = line(&done, "store");
    assert!(!store.starts_with("problem"), "the rest is told all the same: {done}");
}

/// Needs MLX; `cargo xtask mlx` makes it.
#[test]
fn a_place_that_the_user_named_in_vain() {
    let mut home = Home::new();
    home.set("OLLMLX_MLX_PATH", "/nowhere");
    home.set("OLLAMA_HOST", "127.0.0.1:9");
    let done = home.run(&["doctor"]);
    assert_eq!(done.code, Some(0), "{done}");
    assert!(line(&done, "MLX").starts_with("warning  "), "{done}");
    assert!(
        done.stdout.contains("hint: OLLMLX_MLX_PATH names a place that cannot be used"),
        "{done}"
    );
}
