//! How many threads a runner computes with. Linux tells the threads of other processes; where it does not, there is
//! nothing to see. Needs MLX; `cargo xtask mlx` makes it.

use serde_json::{Value, json};

use crate::http::post;
use crate::support::{Home, Server};

/// The kernels' threads, with the one that calls them.
fn threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    1 + names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("kernels-"))).count()
}

fn check(environment: &str, options: &Value, expected: usize) {
    let mut home = Home::real();
    home.set("OLLMLX_NUM_THREADS", environment);
    // On a GPU there would be no kernels to count.
    home.set("OLLAMA_LLM_LIBRARY", "cpu");
    let server = Server::start(&mut home);
    let mut options = options.clone();
    options["num_predict"] = 1.into();
    let body = json!({"model": "pocket", "prompt": "Hi", "stream": false, "options": options});
    let answer = post(&server, "/api/generate", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let runners = server.runners();
    assert_eq!(runners.len(), 1, "{runners:?}");
    assert_eq!(threads(runners[0]), expected, "{environment} {options}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux tells")]
fn a_runner_has_as_many_threads_as_were_asked_for() {
    check("3", &json!({}), 3);
    check("3", &json!({"num_thread": 5}), 5);
    check("2", &json!({"num_thread": 1}), 1);
    // Nought leaves the choice to the program.
    check("4", &json!({"num_thread": 0}), 4);
}
