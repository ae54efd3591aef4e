//! `{% generation %}` marks what the assistant wrote, for training. For rendering it is a block like any other, with
//! its own scope.

/// The same template, line by line, with `with` blocks in place of `generation` blocks; and with one kind of line end.
pub(super) fn plain_blocks(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let (before, block) = rest.split_at(start + 2);
        out.push_str(before);
        rest = block;
        if let Some((name, replacement)) = generation_word(block) {
            let at = block.len() - block.trim_start_matches(is_filler).len();
            out.push_str(&block[..at]);
            out.push_str(replacement);
            rest = &block[at + name.len()..];
        }
    }
    out.push_str(rest);
    out
}

fn generation_word(block: &str) -> Option<(&'static str, &'static str)> {
    let inside = block.trim_start_matches(is_filler);
    let words = [("generation", "with"), ("endgeneration", "endwith")];
    words.into_iter().find(|(name, _)| {
        let rest = inside.strip_prefix(name).map(|rest| rest.trim_start_matches(is_filler));
        rest.is_some_and(|rest| rest.starts_with("%}"))
    })
}

/// White space and its control characters.
fn is_filler(character: char) -> bool {
    matches!(character, '-' | '+') || character.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_blocks_change() {
        let check = |source: &str, expected: &str| assert_eq!(plain_blocks(source), expected);
        check("a{%- generation -%}b{% endgeneration%}c", "a{%- with -%}b{% endwith%}c");
        check("{%\n generation\n%}", "{%\n with\n%}");
        check(
            "{% set generation = 1 %}{{ generation }}",
            "{% set generation = 1 %}{{ generation }}",
        );
        check("{% generation_x %} generation {%", "{% generation_x %} generation {%");
        check("a\r\nb\rc", "a\nb\nc");
    }
}
