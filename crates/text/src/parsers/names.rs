//! Names of tools as identifiers, which gpt-oss is told its tools by, and back.

use protocol::Tool;

/// Tools that the model knows from its training.
const BUILT_IN: &[&str] = &["browser.open", "browser.search", "browser.find", "python"];

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// As the client wrote it, and as the model is told.
    pairs: Vec<(String, String)>,
}

impl Names {
    pub fn new(tools: &[Tool]) -> Names {
        let mut names = Names::default();
        for name in tools.iter().map(|tool| &tool.function.name).filter(|name| !name.is_empty()) {
            let told = names.free(name);
            names.pairs.push((name.clone(), told));
        }
        names
    }

    /// The same tools under the names that the model is told.
    pub fn rename(&self, tools: &mut [Tool]) {
        let named = tools.iter_mut().filter(|tool| !tool.function.name.is_empty());
        for (tool, (_, told)) in named.zip(&self.pairs) {
            tool.function.name.clone_from(told);
        }
    }

    /// What the client calls the tool that the model calls so.
    pub fn original<'a>(&'a self, told: &'a str) -> &'a str {
        // Of two equal ones the later replaces the earlier.
        let pair = self.pairs.iter().rev().find(|(_, known)| known == told);
        pair.map_or(told, |(name, _)| name)
    }

    fn free(&self, name: &str) -> String {
        if BUILT_IN.contains(&name) {
            return name.to_owned();
        }
        let first = identifier(name);
        let numbered = (2_u32..).map(|number| format!("{first}_{number}"));
        let mut candidates = std::iter::once(first.clone()).chain(numbered);
        let is_free = |told: &String| !self.pairs.iter().any(|(_, known)| known == told);
        candidates.find(is_free).unwrap_or(first)
    }
}

fn identifier(name: &str) -> String {
    let letter = |c: char| match c {
        ' ' | '-' | '.' => Some('_'),
        c if c.is_alphanumeric() || matches!(c, '_' | '$') => Some(c),
        _ => None,
    };
    let mut identifier: String = name.chars().filter_map(letter).collect();
    if identifier.is_empty() {
        return "unnamed".to_owned();
    }
    if identifier.starts_with(|c: char| c.is_ascii_digit()) {
        identifier.insert(0, '_');
    }
    identifier
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn names_become_identifiers_and_names_again() {
        let given =
            ["get weather", "get-weather", "get.weather", "1st", "日本!", "!", "browser.open", "f"];
        let told = [
            "get_weather",
            "get_weather_2",
            "get_weather_3",
            "_1st",
            "日本",
            "unnamed",
            "browser.open",
            "f",
        ];
        let tool = testing::tools().remove(0);
        let mut tools: Vec<Tool> = given
            .iter()
            .map(|name| {
                let mut tool = tool.clone();
                tool.function.name = (*name).to_owned();
                tool
            })
            .collect();
        let names = Names::new(&tools);
        names.rename(&mut tools);
        assert_eq!(tools.iter().map(|tool| tool.function.name.as_str()).collect::<Vec<_>>(), told);
        assert_eq!(told.map(|told| names.original(told)), given);
        assert_eq!(names.original("unknown"), "unknown");
    }
}
