//! The parsers that a Modelfile's PARSER may name, and where a reply begins with each of them.

use protocol::Role;

use super::declared::Declared;
use super::glimmer::{self, Glimmer};
use super::harmony::{self, Harmony};
use super::names::Names;
use super::shape::{Shape, Start};
use super::{
    Asked, Parser, cohere, deepseek, function_gemma, gemma, glm, laguna, lfm2, ministral, olmo,
    qwen,
};

pub struct Family {
    pub name: &'static str,
    pub can_call_tools: bool,
    pub can_think: bool,
    /// Whether the model is told its tools under other names.
    pub(super) renames_tools: bool,
    make: Make,
}

#[derive(Clone, Copy)]
enum Make {
    Shape(fn(&Asked<'_>) -> Shape, &'static [&'static str]),
    Harmony,
    Glimmer,
}

const fn family(
    name: &'static str,
    does: (bool, bool),
    shape: fn(&Asked<'_>) -> Shape,
    specials: &'static [&'static str],
) -> Family {
    Family {
        name,
        can_call_tools: does.0,
        can_think: does.1,
        renames_tools: false,
        make: Make::Shape(shape, specials),
    }
}

const NEITHER: (bool, bool) = (false, false);
const TOOLS: (bool, bool) = (true, false);
const THINKING: (bool, bool) = (false, true);
const BOTH: (bool, bool) = (true, true);

pub const FAMILIES: &[Family] = &[
    family("passthrough", NEITHER, |_| Shape::of(Vec::new()), &[]),
    family("qwen3", TOOLS, |_| Shape::of(vec![qwen::json_calls()]), qwen::PRESERVED),
    family(
        "qwen3-thinking",
        BOTH,
        |asked| qwen::json(thinks_or(asked.thinks_unless_told())),
        qwen::PRESERVED,
    ),
    family("qwen3-coder", TOOLS, |_| Shape::of(vec![qwen::function_calls()]), qwen::PRESERVED),
    family("qwen3.5", BOTH, |asked| qwen::xml(unless_told(asked)), qwen::PRESERVED),
    family("ornith", BOTH, |asked| qwen::xml(unless_told(asked)), qwen::PRESERVED),
    family("qwen3-vl-instruct", TOOLS, |_| Shape::of(vec![qwen::json_calls()]), qwen::PRESERVED),
    family("qwen3-vl-thinking", BOTH, |asked| qwen::json(always(asked)), qwen::PRESERVED),
    family("ministral", TOOLS, |_| ministral::shape(), ministral::PRESERVED),
    family(
        "cogito",
        BOTH,
        |asked| {
            deepseek::cogito(thinks_or(
                if_asked(asked) == Start::Thoughts && asked.tools.is_empty(),
            ))
        },
        deepseek::PRESERVED_COGITO,
    ),
    family("deepseek3", BOTH, |asked| deepseek::shape(if_asked(asked)), deepseek::PRESERVED),
    family("olmo3", TOOLS, |_| olmo::shape(), olmo::PRESERVED),
    family(
        "olmo3-think",
        THINKING,
        |asked| olmo::thinking(always(asked)),
        olmo::PRESERVED_THINKING,
    ),
    family("nemotron-3-nano", BOTH, |asked| qwen::xml(unless_told(asked)), qwen::PRESERVED),
    family("nemotron-3.5-nano", BOTH, |asked| qwen::xml(unless_told(asked)), qwen::PRESERVED),
    family("functiongemma", TOOLS, |_| function_gemma::shape(), function_gemma::PRESERVED),
    family(
        "glm-4.7",
        BOTH,
        |asked| {
            glm::shape(if asked.thinks_unless_told() { Start::Thoughts } else { Start::Either })
        },
        glm::PRESERVED,
    ),
    family("glm-ocr", TOOLS, |_| glm::shape(Start::Either), glm::PRESERVED),
    family("gemma4", BOTH, |asked| gemma4(asked, asked.thinks_if_asked()), gemma::PRESERVED),
    family("gemma4-no-thinking", TOOLS, |asked| gemma4(asked, false), gemma::PRESERVED),
    family(
        "lfm2",
        TOOLS,
        |asked| lfm2::shape(Start::Content, &Declared::new(asked.tools)),
        lfm2::PRESERVED,
    ),
    family("lfm2-thinking", BOTH, lfm2_thinking, lfm2::PRESERVED),
    family(
        "laguna",
        BOTH,
        |asked| laguna(asked, asked.last().is_some_and(|last| last.role == Role::Assistant)),
        laguna::PRESERVED,
    ),
    family("poolside-v1", BOTH, |asked| laguna(asked, false), laguna::PRESERVED),
    family(
        "cohere",
        BOTH,
        |asked| cohere::shape(unless_told(asked), !asked.goes_on()),
        cohere::PRESERVED,
    ),
    Family {
        name: "glimmer",
        can_call_tools: true,
        can_think: true,
        renames_tools: false,
        make: Make::Glimmer,
    },
    Family {
        name: "harmony",
        can_call_tools: true,
        can_think: true,
        renames_tools: true,
        make: Make::Harmony,
    },
];

impl Family {
    pub fn named(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    pub(super) fn parser(&self, asked: &Asked<'_>) -> Parser {
        let declared = Declared::new(asked.tools);
        match self.make {
            Make::Shape(shape, specials) => Parser::shaped(shape(asked), asked.tools, specials),
            Make::Harmony => {
                let machine = Harmony::new(asked.last(), Names::new(asked.tools));
                let thoughts = machine.thoughts();
                let parser = Parser::new(machine, harmony::PRESERVED.iter().copied());
                Parser { thoughts, ..parser }
            }
            Make::Glimmer => {
                let machine = Glimmer::new(declared, asked.thinks_unless_told());
                Parser::new(machine, glimmer::PRESERVED.iter().copied())
            }
        }
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Family").field(&self.name).finish()
    }
}

fn thinks_or(thinks: bool) -> Start {
    if thinks { Start::Thoughts } else { Start::Content }
}

fn always(asked: &Asked<'_>) -> Start {
    thinks_or(!asked.goes_on())
}

fn unless_told(asked: &Asked<'_>) -> Start {
    thinks_or(asked.thinks_unless_told() && !asked.goes_on())
}

fn if_asked(asked: &Asked<'_>) -> Start {
    thinks_or(asked.thinks_if_asked() && !asked.goes_on())
}

/// After a tool's answer the prompt has opened the thoughts.
fn gemma4(asked: &Asked<'_>, thinks: bool) -> Shape {
    let behind_tool = asked.last().is_some_and(|last| last.role == Role::Tool);
    gemma::shape(thinks_or(thinks && behind_tool), !thinks)
}

fn lfm2_thinking(asked: &Asked<'_>) -> Shape {
    let may_think = if_asked(asked) == Start::Thoughts;
    let start = if may_think { Start::Either } else { Start::Content };
    lfm2::shape(start, &Declared::new(asked.tools))
}

fn laguna(asked: &Asked<'_>, goes_on: bool) -> Shape {
    let thinks = asked.thinks_if_asked();
    laguna::shape(thinks_or(thinks && !goes_on), thinks, &Declared::new(asked.tools))
}
