//! `create`, and what the other commands say of what was made.

use crate::support::{Home, MODELFILE, Server, checkpoint, create};

#[test]
fn a_folder_becomes_a_model() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    let folder = checkpoint(&home.path(""));
    let text = format!("FROM {}\n{MODELFILE}", folder.display());
    let file = home.write("Modelfile", &text);
    let create = ["create", "tiny", "-f", file.to_str().unwrap()];
    let done = home.run(&create);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{done}");
    let steps = done.plain_stderr();
    let steps: Vec<&str> = steps.lines().map(str::trim_end).collect();
    assert_eq!(steps.first(), Some(&"gathering model components"));
    assert_eq!(&steps[steps.len() - 2..], ["writing manifest", "success"], "{steps:?}");
    assert!(
        steps
            .iter()
            .any(|step| step.starts_with("copying file sha256:") && step.ends_with(" 100%"))
    );
    assert!(steps.iter().any(|step| step.starts_with("creating new layer sha256:")), "{steps:?}");

    let again = home.run(&create).plain_stderr();
    assert!(!again.contains("creating new layer"), "nothing was new: {again}");

    let show = |flag: &str| home.run(&["show", flag, "tiny"]).stdout;
    assert_eq!(show("--system"), "You are terse.");
    assert_eq!(show("--license"), "MIT\n");
    let modelfile = show("--modelfile");
    assert!(modelfile.contains("\nFROM tiny:latest\n"), "{modelfile}");
    assert!(modelfile.contains("\nMESSAGE assistant hello\n"), "{modelfile}");
    let all = home.run(&["show", "tiny"]).stdout;
    assert!(all.starts_with("  Model\n    architecture        llama"), "{all}");
    assert!(
        all.ends_with("  System\n    You are terse.    \n\n  License\n    MIT    \n\n"),
        "{all}"
    );
}

#[test]
fn a_folder_without_a_modelfile_is_enough() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    let folder = checkpoint(&home.path(""));
    let mut command = home.command(&["create", "here"]);
    command.current_dir(folder);
    let done = crate::support::finish(command, "");
    assert_eq!(done.code, Some(0), "{done}");
    assert!(home.run(&["list"]).stdout.contains("here:latest"));
}

#[test]
fn copies_and_removals() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    home.run(&["cp", "tiny", "other:v1"]).expect(0, "copied 'tiny' to 'other:v1'\n", "");
    let listed = home.run(&["ls", "OTHER"]).stdout;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let done = home.run(&["rm", "tiny", "nope", "other:v1"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), "deleted 'tiny'\n"));
    assert!(done.plain_stderr().ends_with("Error: model 'nope' not found\n"), "{done}");
    assert!(home.run(&["list"]).stdout.contains("other:v1"), "it stops at the first error");
}

#[test]
fn a_checkpoint_that_lies_is_refused() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    let folder = checkpoint(&home.path(""));
    let weights = folder.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let mut command = home.command(&["create", "broken"]);
    command.current_dir(&folder);
    let done = crate::support::finish(command, "");
    assert_eq!(done.code, Some(1), "{done}");
    let stderr = done.plain_stderr();
    assert!(stderr.contains("\nError: ") && stderr.contains("model.safetensors"), "{done}");
    home.run(&["list"]).expect(0, "NAME    ID    SIZE    MODIFIED \n", "");
}

#[test]
fn what_jobs_left_is_cleared_away_at_the_start() {
    let mut home = Home::new();
    let server = Server::start(&mut home);
    create(&home, "tiny");
    drop(server);
    let kept = home.stored_files();
    let stray = |name: &str, age_secs: u64| {
        let path = home.write(&format!(".ollama/models/blobs/{name}"), "stray");
        let at = std::time::SystemTime::now() - std::time::Duration::from_secs(age_secs);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        path
    };
    let old = stray(&format!("sha256-{}", "0".repeat(64)), 2 * 3600);
    let young = stray("new-1.tmp", 60);
    home.set("OLLAMA_NOPRUNE", "1");
    drop(Server::start(&mut home));
    assert!(old.exists(), "it was not wanted");
    home.set("OLLAMA_NOPRUNE", "0");
    let server = Server::start(&mut home);
    assert!(!old.exists() && young.exists());
    assert!(
        server.log().contains("cleared away what no model uses files=1 bytes=5"),
        "{}",
        server.log()
    );
    assert_eq!(home.stored_files(), kept + 1);
    assert_eq!(home.run(&["run", "tiny", "!say here"]).stdout, "here\n\n");
}

#[test]
fn models_that_come_with_the_program() {
    let mut home = Home::new();
    let folder = checkpoint(&home.path(""));
    let shipped = home.path("shipped");
    let words = [folder.to_str().unwrap(), shipped.to_str().unwrap()];
    let done = home.run(&["bundle", words[0], words[1], "pocket"]);
    let line = format!("bundled 'pocket' into {}\n", shipped.display());
    done.expect(0, &line, "");
    home.set("OLLMLX_BUILTIN_MODELS", words[1]);
    let _server = Server::start(&mut home);
    assert!(home.run(&["list"]).stdout.contains("\npocket:latest "));
    assert_eq!(home.run(&["run", "pocket", "!say here"]).stdout, "here\n\n");
    let done = home.run(&["rm", "pocket"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{done}");
    assert!(done.stderr.contains("\nhint: "), "{done}");
    assert_eq!(home.run(&["cp", "pocket", "mine"]).code, Some(0));
    assert_eq!(home.run(&["rm", "mine"]).stdout, "deleted 'mine'\n");
    let done = home.run(&["bundle", "/nowhere", words[1], "x"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{done}");
    assert!(done.stderr.contains("/nowhere"), "{done}");
}
