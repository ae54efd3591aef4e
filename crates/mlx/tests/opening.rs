//! Where MLX is looked for and what is said when it cannot be used: this program copied to other places and run there.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a child found, and what it logged as errors.
struct Child {
    report: String,
    log: String,
}

/// Not a test: what the copies of this program run.
#[test]
#[ignore = "run by the tests of this file, in processes of their own"]
fn child() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(std::io::stderr)
        .init();
    match mlx::open() {
        Ok(library) => {
            let sum = mlx::ones(&[3], mlx::Dtype::F32).sum(&[], false).item::<f32>();
            println!("opened {:?} sum {:?}", library.opened(), sum);
        }
        Err(error) => println!("error: {error}"),
    }
    for attempt in mlx::report().attempts {
        println!("{}: {}", attempt.place.display(), attempt.outcome);
    }
}

/// A place with a copy of this program in `bin/`, far from the build tree.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::copy(std::env::current_exe().unwrap(), dir.path().join("bin/program")).unwrap();
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn run(&self, variables: &[(&str, &Path)]) -> Child {
        let mut command = Command::new(self.path("bin/program"));
        command.args(["--exact", "child", "--ignored", "--nocapture"]);
        command.env_remove("OLLMLX_MLX_PATH").env_remove("OLLAMA_LLM_LIBRARY");
        command.envs(variables.iter().map(|(key, value)| (key, value.as_os_str())));
        let output = output_when_closed(&mut command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let child = Child { report: text(&output.stdout), log: text(&output.stderr) };
        assert!(output.status.success(), "{}\n{}", child.report, child.log);
        child
    }
}

/// A program just written cannot be run while a child that another test forks meanwhile still holds the file open.
fn output_when_closed(command: &mut Command) -> Output {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match command.output() {
            Err(error)
                if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            output => return output.unwrap(),
        }
    }
}

fn check(child: &Child, report: &[&str], log: &[&str]) {
    report.iter().for_each(|words| {
        assert!(child.report.contains(words), "no `{words}` in:\n{}", child.report)
    });
    log.iter().for_each(|words| {
        assert!(child.log.contains(words), "no `{words}` in the log:\n{}", child.log)
    });
    if log.is_empty() {
        assert!(!child.log.contains("ERROR"), "{}", child.log);
    }
}

/// The tree that this test itself uses.
fn installed() -> PathBuf {
    let library = mlx::open().unwrap_or_else(|error| panic!("{error}"));
    library.opened().files[0].1.parent().and_then(Path::parent).unwrap().to_owned()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.path().is_dir() {
            true => copy_tree(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn library_name() -> &'static str {
    if cfg!(target_os = "macos") { "libollmlx_mlx.dylib" } else { "libollmlx_mlx.so" }
}

/// A library of a few lines of C++ under our library's name.
fn stub(place: &Place, source: &str) -> PathBuf {
    let (text, library) = (place.path("stub.cpp"), place.path(library_name()));
    fs::write(&text, source).unwrap();
    let status =
        Command::new("c++").args(["-shared", "-fPIC", "-o"]).args([&library, &text]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "c++ is one of the prerequisites of `cargo xtask mlx`"
    );
    library
}

fn stub_of_version(version: &str) -> String {
    format!(
        "struct Text {{ const char* text; }};
        extern \"C\" {{
        Text mlx_string_new() {{ return {{\"\"}}; }}
        const char* mlx_string_data(Text t) {{ return t.text; }}
        int mlx_string_free(Text) {{ return 0; }}
        int mlx_version(Text* t) {{ t->text = \"{version}\"; return 0; }}
        void mlx_set_error_handler(void*, void*, void*) {{}}
        }}"
    )
}

#[test]
fn without_a_library_the_way_to_get_one_is_named_and_nothing_is_logged() {
    let child = Place::new().run(&[]);
    check(
        &child,
        &[
            "error: no MLX library was found",
            "hint:",
            "`cargo xtask mlx`",
            "OLLMLX_MLX_PATH",
            "not there",
        ],
        &[],
    );
}

#[test]
fn a_tree_moved_beside_a_program_is_found() {
    let place = Place::new();
    copy_tree(&installed(), &place.path("lib/ollmlx/cpu"));
    let moved = place.path("lib/ollmlx/cpu/lib");
    let child = place.run(&[]);
    let files =
        ["libollmlx_mlx", "libmlxc", "libmlx"].map(|name| format!("{}/{name}.", moved.display()));
    check(&child, &["opened Opened", "sum Ok(3.0)", &files[0], &files[1], &files[2]], &[]);
    let restricted = place.run(&[("OLLAMA_LLM_LIBRARY", Path::new("cuda_v13"))]);
    check(&restricted, &["error: no MLX library was found", "ollmlx/cuda-13/lib"], &[]);
    assert!(!restricted.report.contains("ollmlx/cpu/"), "{}", restricted.report);
}

#[test]
fn a_named_path_comes_first_in_all_its_forms() {
    let tree = installed();
    let file = tree.join("lib").join(library_name());
    for named in [&*file, &tree.join("lib"), &tree, tree.parent().unwrap()] {
        let child = Place::new().run(&[("OLLMLX_MLX_PATH", named)]);
        check(&child, &["opened Opened", "sum Ok(3.0)"], &[]);
    }
}

#[test]
fn a_named_path_that_fails_is_an_error_in_the_loaders_own_words() {
    let place = Place::new();
    let nowhere = place.path("nowhere");
    check(
        &place.run(&[("OLLMLX_MLX_PATH", &nowhere)]),
        &["error: no MLX library was found"],
        &["ERROR", "OLLMLX_MLX_PATH cannot be used: not there", "nowhere"],
    );
    let text = place.path("text.so");
    fs::write(&text, "not a library, though it is long enough to have a header of its own")
        .unwrap();
    check(
        &place.run(&[("OLLMLX_MLX_PATH", &text)]),
        &["error: no MLX library was found", "text.so: "],
        &["ERROR", "OLLMLX_MLX_PATH cannot be used", "text.so"],
    );
}

#[test]
fn another_version_is_refused_by_its_manifest_and_by_its_own_word() {
    let place = Place::new();
    let tree = place.path("lib/ollmlx/cpu");
    copy_tree(&installed(), &tree);
    let manifest =
        fs::read_to_string(tree.join("manifest.json")).unwrap().replace("0.32.2", "0.31.9");
    fs::write(tree.join("manifest.json"), manifest).unwrap();
    let expected =
        ["is MLX 0.31.9, and this program is made for 0.32.2", "hint:", "`cargo xtask mlx`"];
    check(&place.run(&[]), &expected, &[]);
    let other = Place::new();
    let library = stub(&other, &stub_of_version("0.31.9"));
    check(&other.run(&[("OLLMLX_MLX_PATH", &library)]), &expected, &["ERROR", "0.31.9"]);
}

#[test]
fn a_library_that_lacks_functions_is_refused_with_their_names() {
    let place = Place::new();
    let library = stub(&place, &stub_of_version("0.32.2"));
    let expected = ["lacks ", "mlx_matmul", "ollmlx_cpu_primitive", "hint:"];
    check(&place.run(&[("OLLMLX_MLX_PATH", &library)]), &expected, &["ERROR", "mlx_matmul"]);
    let empty = Place::new();
    let library = stub(&empty, "");
    check(&empty.run(&[("OLLMLX_MLX_PATH", &library)]), &["lacks ", "mlx_version"], &["ERROR"]);
}
