//! The prompt, in a terminal.

use rustix::process::Signal;

use crate::support::{Home, Server, create, signal};
use crate::terminal::{CTRL_C, CTRL_D, CTRL_J, ENTER, Terminal, UP};

const PROMPT: &str = ">>> ";

fn begin(home: &Home, arguments: &[&str]) -> Terminal {
    let mut terminal = Terminal::start(home.command(arguments));
    // What the model's own messages are is shown before the first prompt.
    terminal.expect(">>> hi\nhello\n\n");
    terminal.expect(PROMPT);
    terminal
}

fn say(terminal: &mut Terminal, line: &str, reply: &str) {
    terminal.type_in(line);
    terminal.type_in(ENTER);
    terminal.expect(reply);
    terminal.expect(PROMPT);
}

#[test]
fn a_conversation() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let mut terminal = begin(&home, &["run", "tiny"]);
    say(&mut terminal, "!say good morning", "\ngood morning\n\n");
    terminal.type_in(&format!("\"\"\"two{ENTER}"));
    terminal.expect("... ");
    say(&mut terminal, "!say lines\"\"\"", "\nlines\n\n");
    terminal.type_in(&format!("joined{CTRL_J}!say by hand{ENTER}"));
    terminal.expect("\nby hand\n\n");
    terminal.expect(PROMPT);
    say(&mut terminal, "/nope", "Unknown command '/nope'. Type /? for help\n");
    say(&mut terminal, "!fail", "error: ");
    say(&mut terminal, "!say still here", "\nstill here\n\n");
    terminal.type_in(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));
    let history = std::fs::read_to_string(home.path(".ollama/history")).unwrap();
    let expected = "!say good morning\n\"\"\"two\n!say lines\"\"\"\njoined !say by hand\n/nope\n!fail\n!say still here\n";
    assert_eq!(history, expected);
}

#[test]
fn settings_and_what_they_change() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let mut terminal = begin(&home, &["run", "tiny"]);
    for (line, reply) in [
        ("/set verbose", "Set 'verbose' mode.\n"),
        ("!say x", "eval count:           1 token(s)\n"),
        ("/set quiet", "Set 'quiet' mode.\n"),
        ("/set parameter num_predict 2", "Set parameter 'num_predict' to '2'\n"),
        ("anything", "\nalpha bravo\n\n"),
        ("/set parameter nope 2", "Couldn't set parameter: \"unknown parameter 'nope'\"\n"),
        ("/set system Be kind.", "Set system message.\n"),
        ("/show system", "\nBe kind.\n\n"),
        ("/show parameters", "User defined parameters:\n  num_predict                    2\n\n"),
        ("/show license", "\nMIT\n"),
        ("/show info", "  Model\n    architecture        llama"),
        ("/set format json", "Set format to 'json' mode.\n"),
        ("/set noformat", "Disabled format.\n"),
        (
            "/set think",
            "warning: model \"tiny\" does not support thinking output\nSet 'think' mode.\n",
        ),
        ("anything", "error: "),
        ("/set nothink", "Set 'nothink' mode.\n"),
        ("anything", "\nalpha bravo\n\n"),
        ("/?", "Use \"\"\" to begin a multi-line message.\n\n"),
        ("/list", "tiny:latest"),
        ("/save bad name", "Usage:\n  /save <modelname>\n"),
        ("/save bad!", "error: The model name 'bad!' is invalid\n"),
        ("/save saved", "Created new model 'saved'\n"),
        ("/clear", "Cleared session context\n"),
        ("/load nope", "Couldn't find model 'nope'\n"),
        ("/load saved", "Loading model 'saved'\n"),
        ("/show system", "\nBe kind.\n\n"),
    ] {
        say(&mut terminal, line, reply);
    }
    terminal.type_in(&format!("/bye{ENTER}"));
    assert_eq!(terminal.ends().code(), Some(0));
    assert!(home.run(&["show", "--modelfile", "saved"]).stdout.contains("MESSAGE user anything\n"));
}

#[test]
fn interrupts() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let mut terminal = begin(&home, &["run", "tiny"]);
    terminal.type_in(CTRL_C);
    terminal.expect("Use Ctrl + d or /bye to exit.\n");
    terminal.expect(PROMPT);
    terminal.type_in("half a li");
    terminal.expect("half a li");
    terminal.type_in(CTRL_C);
    terminal.expect(PROMPT);
    say(&mut terminal, "!say after", "\nafter\n\n");
    terminal.type_in(&format!("!sleep 50 !long 10000{ENTER}"));
    terminal.expect("\nalpha bravo");
    // The test's terminal controls no session, so the key is sent as the signal it stands for.
    signal(terminal.child.id(), Signal::INT);
    terminal.expect(PROMPT);
    say(&mut terminal, "!say again", "\nagain\n\n");
    terminal.type_in(&format!("\"\"\"never{ENTER}"));
    terminal.expect("... ");
    terminal.type_in(CTRL_C);
    terminal.expect(PROMPT);
    say(&mut terminal, "!say done", "\ndone\n\n");
    terminal.type_in(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn history_is_kept_unless_unwanted() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    home.write(".ollama/history", "!say of old\n");
    let mut terminal = begin(&home, &["run", "tiny"]);
    terminal.type_in(&format!("{UP}{ENTER}"));
    terminal.expect("\nof old\n\n");
    terminal.expect(PROMPT);
    say(&mut terminal, "/set nohistory", "");
    say(&mut terminal, "!say secret", "\nsecret\n\n");
    terminal.type_in(CTRL_D);
    terminal.ends();
    let history = std::fs::read_to_string(home.path(".ollama/history")).unwrap();
    assert_eq!(history, "!say of old\n!say of old\n/set nohistory\n");

    home.set("OLLAMA_NOHISTORY", "1");
    let mut terminal = begin(&home, &["run", "tiny"]);
    say(&mut terminal, "!say more secrets", "\nmore secrets\n\n");
    terminal.type_in(CTRL_D);
    terminal.ends();
    assert_eq!(std::fs::read_to_string(home.path(".ollama/history")).unwrap(), history);
}

#[test]
fn the_users_editor_goes_on_with_the_line() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let editor = home.write("editor", "#!/bin/sh\nprintf '!say edited' > \"$1\"\n");
    home.set("OLLAMA_EDITOR", &format!("/bin/sh {}", editor.display()));
    let mut terminal = begin(&home, &["run", "tiny"]);
    terminal.type_in("begun\x07");
    terminal.expect("!say edited");
    terminal.type_in(ENTER);
    terminal.expect("\nedited\n\n");
    terminal.expect(PROMPT);
    terminal.type_in(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn a_killed_runner_costs_one_reply() {
    let mut home = Home::new();
    let server = Server::start(&mut home);
    create(&home, "tiny");
    let mut terminal = begin(&home, &["run", "tiny"]);
    terminal.type_in(&format!("!sleep 50 !long 10000{ENTER}"));
    terminal.expect("\nalpha bravo");
    signal(server.runners()[0], Signal::KILL);
    terminal.expect("error: ");
    terminal.expect(PROMPT);
    say(&mut terminal, "!say on we go", "\non we go\n\n");
    terminal.type_in(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));
}

/// Faster than the prompt comes back.
#[test]
fn what_is_typed_ahead_is_not_lost() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let mut terminal = begin(&home, &["run", "tiny"]);
    terminal.type_in(&format!("/set quiet{ENTER}!say ahead{ENTER}"));
    terminal.expect("Set 'quiet' mode.\n");
    terminal.expect("\nahead\n\n");
    terminal.expect(PROMPT);
    terminal.type_in(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));
}

#[test]
fn thinking_and_wrapping() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let mut terminal = Terminal::start(home.command(&["run", "tiny", "!long 30"]));
    // In a terminal with nothing piped in, a prompt on the command line is answered once.
    let shown = terminal.expect("\n\n");
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
    assert!(shown.lines().filter(|line| !line.is_empty()).count() >= 2, "{shown}");
    assert_eq!(terminal.ends().code(), Some(0));
}
