//! Templates that mean us no good.

use super::value::{Bytes, Map};
use super::*;

fn run(source: &str) -> Result<String, Failure> {
    let data = Map::of(&value::ANY_MAP, BTreeMap::<Bytes, Value>::new());
    let program = Program::parse(source, &[]).map_err(Failure::Template)?;
    let bytes = program.run(Value::Map(data))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[track_caller]
fn check(source: &str, is: impl Fn(&Failure) -> bool) {
    let shown: String = source.chars().take(60).collect();
    let failure = run(source).expect_err(&shown);
    assert!(is(&failure), "{shown}: {failure:?}");
}

fn says(what: &'static str) -> impl Fn(&Failure) -> bool {
    move |failure| matches!(failure, Failure::Template(why) if why.contains(what))
}

#[test]
fn runaway_templates_end() {
    let too_large = |failure: &Failure| matches!(failure, Failure::TooLarge { .. });
    check("{{range 100000}}{{range 100000}}{{end}}{{end}}", says("does not end within"));
    check("{{range 9999999999}}{{end}}", says("does not end within"));
    check(
        "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}",
        says("template depth (100)"),
    );
    check("{{range 99999}}{{printf \"%9999d\" 1}}{{end}}", too_large);
    check("{{$x := \"ab\"}}{{range 60}}{{$x = print $x $x}}{{end}}", |failure| {
        too_large(failure) || says("over the limit")(failure)
    });
    check(&format!("{{{{printf \"{}\" 1}}}}", "%999999[1]d".repeat(5000)), says("over the limit"));
}

#[test]
fn deep_templates_are_refused() {
    let deep = |open: &str, close: &str| open.repeat(3000) + &close.repeat(3000);
    check(&format!("{{{{{}}}}}", deep("(", "1)")), says("depth exceeded"));
    check(&deep("{{if true}}", "{{end}}"), says("depth exceeded"));
    check(&("{{if 0}}".to_owned() + &"{{else if 0}}".repeat(3000)), says("depth exceeded"));
    check(&"x".repeat(SOURCE_BYTES_MAX + 1), says("over the limit"));
    let most = 199;
    assert_eq!(run(&("{{if true}}".repeat(most) + "x" + &"{{end}}".repeat(most))).unwrap(), "x");
    let parens = "(print ".repeat(180) + "1" + &")".repeat(180);
    assert_eq!(run(&format!("{{{{{parens}}}}}")).unwrap(), "1");
    let nested = "{{if true}}".repeat(190) + "{{template \"x\" .}}" + &"{{end}}".repeat(190);
    check(&format!("{{{{define \"x\"}}}}{nested}{{{{end}}}}{nested}"), says("nested too deeply"));
}
