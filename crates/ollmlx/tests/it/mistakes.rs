//! Wrong command lines, absent servers, addresses and stores that cannot be used.

use serde_json::json;

use crate::http::post;
use crate::support::{Home, Server, checkpoint, create};

fn check(arguments: &[&str], stderr: &str) {
    let mut home = Home::new();
    home.set("OLLAMA_HOST", "127.0.0.1:9");
    home.set("OLLMLX_AUTOSTART", "0");
    home.run(arguments).expect(1, "", stderr);
}

#[test]
fn wrong_command_lines() {
    check(&["nope"], "Error: unknown command \"nope\" for \"ollmlx\"\n");
    check(
        &["lisst"],
        "Error: unknown command \"lisst\" for \"ollmlx\"\nhint: did you mean `list`?\n",
    );
    check(&["list", "--nope"], "Error: unknown flag: --nope\n");
    check(&["show", "-x", "m"], "Error: unknown shorthand flag: 'x' in -x\n");
    check(&["cp", "a"], "Error: accepts 2 arg(s), received 1\n");
    check(&["run"], "Error: requires at least 1 arg(s), only received 0\n");
    check(
        &["run", "m", "--think=lots"],
        "Error: invalid value for --think: \"lots\" (must be true, false, high, medium, low, or max)\n",
    );
    check(
        &["run", "m", "--keepalive", "10"],
        "Error: time: missing unit in duration \"10\"\n\
         hint: a duration is a number with its unit, like `10m` or `1h30m`\n",
    );
}

#[test]
fn nobody_listens() {
    let off = "Error: could not connect to ollmlx server, run 'ollmlx serve' to start it\n";
    for arguments in [
        &["list"][..],
        &["ps"],
        &["show", "m"],
        &["run", "m", "x"],
        &["cp", "a", "b"],
        &["rm", "a"],
        &["stop", "a"],
        &["create", "a"],
    ] {
        check(arguments, off);
    }
}

#[test]
fn addresses_that_cannot_be() {
    let mut home = Home::new();
    home.set("OLLAMA_HOST", "ftp://example.com");
    home.run(&["list"]).expect(
        1,
        "",
        "Error: `ftp` is no scheme a server can be reached by\n\
         hint: set OLLAMA_HOST to an address like `127.0.0.1:11434` or `https://example.com`\n",
    );
    // A label this long cannot be in the DNS, whoever is asked.
    let nowhere = format!("http://{}.invalid:1", "x".repeat(64));
    home.set("OLLAMA_HOST", &nowhere);
    let done = home.run(&["list"]);
    assert_eq!(done.code, Some(1), "{done}");
    let error = format!("Error: cannot reach the server at {nowhere}: ");
    assert!(done.stderr.starts_with(&error), "{done}");
    assert!(done.stderr.ends_with("\nhint: OLLAMA_HOST says where the server is\n"), "{done}");
    home.set("OLLAMA_HOST", "127.0.0.1:notaport");
    home.set("OLLMLX_AUTOSTART", "0");
    let done = home.run(&["--version"]);
    let warning = "WARN invalid port, using default port=notaport default=11434\n";
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), warning));
}

#[test]
fn the_manual() {
    let home = Home::new();
    for arguments in [&["--help"][..], &["run", "--help"], &["help", "create"], &[]] {
        let done = home.run(arguments);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(done.stdout.contains("Usage: ollmlx"), "{}", done.stdout);
        assert!(!done.stdout.contains("bundle"), "hidden commands show: {}", done.stdout);
    }
}

#[test]
fn a_reader_that_leaves_is_no_crash() {
    let home = Home::new();
    let mut command = home.command(&["--help"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = crate::support::wait(child);
    assert_eq!(done.stderr, "");
}

#[test]
fn a_store_that_is_no_folder() {
    let mut home = Home::new();
    let file = home.write("file", "");
    home.set("OLLAMA_MODELS", file.to_str().unwrap());
    home.set("OLLAMA_HOST", "127.0.0.1:0");
    let done = home.run(&["serve"]);
    assert_eq!(done.code, Some(1), "{done}");
    let last: Vec<&str> = done.stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert!(last[0].starts_with("Error: ") && last[0].contains("file"), "{done}");
    assert!(last[1].starts_with("hint: "), "{done}");
}

/// A place where even root cannot make folders.
#[test]
fn a_store_that_cannot_be_written() {
    let unwritable = if cfg!(target_os = "macos") { "/dev/models" } else { "/proc/models" };
    let mut home = Home::new();
    home.set("OLLAMA_MODELS", unwritable);
    let _server = Server::start(&mut home);
    home.run(&["list"]).expect(0, "NAME    ID    SIZE    MODIFIED \n", "");
    let folder = checkpoint(&home.path(""));
    let file = home.write("Modelfile", &format!("FROM {}\n", folder.display()));
    let done = home.run(&["create", "m", "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done}");
    let stderr = done.plain_stderr();
    let error = stderr.lines().find(|line| line.starts_with("Error: ")).unwrap_or_default();
    assert!(error.contains(unwritable), "{done}");
    let hint = "hint: set OLLAMA_MODELS to a directory that you may write to";
    assert!(stderr.contains(hint), "{done}");
}

/// What no model could answer is refused at once: nothing is loaded for it.
#[test]
fn forms_that_cannot_be() {
    let mut home = Home::new();
    let server = Server::start(&mut home);
    create(&home, "tiny");
    let never = json!({"type": "string", "minLength": 3, "maxLength": 2});
    let unknown = json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true});
    let said = json!([{"role": "user", "content": "x"}]);
    for (path, body, why) in [
        ("/api/generate", json!({"prompt": "x", "format": never}), "minLength"),
        (
            "/api/generate",
            json!({"prompt": "x", "format": {"regex": "a(b"}}),
            "the format cannot be used",
        ),
        ("/api/chat", json!({"messages": said, "format": unknown}), "`uniqueItems`"),
    ] {
        let mut body = body;
        body["model"] = "tiny".into();
        let answer = post(&server, path, &body);
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(answer.body.contains(why), "{path}: {}", answer.body);
        assert_eq!(server.runners(), [] as [u32; 0], "{path}");
    }
}
