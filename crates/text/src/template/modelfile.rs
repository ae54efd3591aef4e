//! A Modelfile's TEMPLATE: a conversation becomes its prompt by Ollama's rules, on Go's template language.
//!
//! A template names what it wants. One that names `.Messages` runs once over the whole conversation; one with `.Suffix`
//! fills in; one from the time before runs for each pair of question and answer, the last time only up to where the
//! answer stands. What a template says about the model (its variables, the tags of thoughts and calls) is read here.

mod functions;
mod shapes;
mod tags;
mod values;

use std::collections::BTreeSet;

use protocol::{Message, Role, Think};

use super::Conversation;
use super::go::syntax::{Action, Branch, Command, List, Node, Pipe, Term, TermKind};
use super::go::value::Value;
use super::go::{Failure, Program};
use crate::{Error, Result};

/// A TEMPLATE, ready to run.
pub struct ModelfileTemplate {
    program: Program,
    /// Up to the first `.Response`.
    start: List,
    variables: BTreeSet<String>,
}

impl std::fmt::Debug for ModelfileTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelfileTemplate").field("variables", &self.variables).finish()
    }
}

impl ModelfileTemplate {
    /// An error is the text Go has for it, with the line: `template: :1: unclosed action`.
    pub fn parse(source: &str) -> std::result::Result<ModelfileTemplate, String> {
        let mut program = Program::parse(source, functions::FUNCTIONS)?;
        let mut variables = BTreeSet::new();
        program.trees.values().for_each(|tree| names_of_list(tree, &mut variables));
        if !variables.contains("messages") && !variables.contains("response") {
            let root = program.trees.entry(String::new()).or_default();
            root.nodes.push(response(source.len()));
        }
        let mut start = program.root().cloned().unwrap_or_default();
        cut_list(&mut start, &mut false);
        Ok(ModelfileTemplate { program, start, variables })
    }

    /// Whether the template names this field or variable; in lower case.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Around thoughts, if the template shows them: the opening and the closing tag, of which one may be empty.
    pub fn thinking_tags(&self) -> Option<(String, String)> {
        self.program.root().and_then(tags::thinking)
    }

    /// What stands before calls of tools: a tag, or `{` if calls are plain JSON.
    pub fn tool_tag(&self) -> String {
        self.program.root().and_then(tags::tool).unwrap_or_else(|| "{".to_owned())
    }

    pub fn render(&self, conversation: Conversation<'_>) -> Result<String> {
        let (system, messages) = values::collate(conversation.messages);
        if !self.uses("messages") {
            return self.turns(&messages, conversation.think);
        }
        let list = values::messages(&messages);
        let fields = [
            ("System", Value::text(system)),
            ("Messages", list),
            ("Tools", values::tools(conversation.tools)),
            ("Response", Value::text("")),
        ];
        self.run(None, values::data(fields, conversation.think)).map(text_of)
    }

    /// A text to be continued in its middle.
    pub fn infill(&self, prompt: &str, suffix: &str, think: &Think) -> Result<String> {
        let fields = [
            ("Prompt", Value::text(prompt)),
            ("Suffix", Value::text(suffix)),
            ("Response", Value::text("")),
        ];
        self.run(None, values::data(fields, think)).map(text_of)
    }

    /// One run for each pair of question and answer.
    fn turns(&self, messages: &[Message], think: &Think) -> Result<String> {
        let mut out = Vec::new();
        let mut turn = Turn::default();
        for message in messages {
            match message.role {
                Role::System => {
                    if !turn.prompt.is_empty() || !turn.response.is_empty() {
                        out.extend(self.run(None, turn.take(think))?);
                    }
                    turn.system.clone_from(&message.content);
                }
                Role::User => {
                    if !turn.response.is_empty() {
                        out.extend(self.run(None, turn.take(think))?);
                    }
                    turn.prompt.clone_from(&message.content);
                }
                Role::Assistant => turn.response.clone_from(&message.content),
                Role::Tool | Role::Other(_) => {}
            }
            within(out.len())?;
        }
        out.extend(self.run(Some(&self.start), turn.take(think))?);
        within(out.len())?;
        Ok(text_of(out))
    }

    fn run(&self, root: Option<&List>, data: Value) -> Result<Vec<u8>> {
        let done = match root {
            Some(root) => self.program.run_tree(root, data),
            None => self.program.run(data),
        };
        done.map_err(|failure| match failure {
            Failure::Template(why) => Error::Modelfile { why },
            Failure::TooLarge { size, limit } => {
                Error::TooLarge { what: "a rendered prompt in bytes", size, limit }
            }
        })
    }
}

fn within(size: usize) -> Result<()> {
    let limit = crate::tokenizer::TEXT_BYTES_MAX;
    match size > limit {
        true => Err(Error::TooLarge { what: "a rendered prompt in bytes", size, limit }),
        false => Ok(()),
    }
}

/// A template may cut a character in two.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Default)]
struct Turn {
    system: String,
    prompt: String,
    response: String,
}

impl Turn {
    fn take(&mut self, think: &Think) -> Value {
        let Turn { system, prompt, response } = std::mem::take(self);
        let fields = [
            ("System", Value::text(system)),
            ("Prompt", Value::text(prompt)),
            ("Response", Value::text(response)),
        ];
        values::data(fields, think)
    }
}

/// `{{ .Response }}`
fn response(pos: usize) -> Node {
    let term = Term { pos, kind: TermKind::Field(vec!["Response".to_owned()]) };
    let command = Command { pos, terms: vec![term] };
    Node::Action(Action { pos, pipe: Pipe { pos, commands: vec![command], ..Pipe::default() } })
}

fn names_of_list(list: &List, names: &mut BTreeSet<String>) {
    for node in &list.nodes {
        match node {
            Node::Action(action) => names_of_pipe(&action.pipe, names),
            Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
                names_of_pipe(&branch.pipe, names);
                names_of_list(&branch.list, names);
                branch.otherwise.iter().for_each(|list| names_of_list(list, names));
            }
            Node::Template(call) => call.pipe.iter().for_each(|pipe| names_of_pipe(pipe, names)),
            Node::Text(_) | Node::Break | Node::Continue => {}
        }
    }
}

fn names_of_pipe(pipe: &Pipe, names: &mut BTreeSet<String>) {
    for term in pipe.commands.iter().flat_map(|command| &command.terms) {
        match &term.kind {
            TermKind::Field(own) | TermKind::Variable(own) => {
                names.extend(own.iter().map(|name| name.to_lowercase()));
            }
            TermKind::Pipe(pipe) => names_of_pipe(pipe, names),
            _ => {}
        }
    }
}

/// Removes everything behind the first `.Response`, wherever that stands.
fn cut_list(list: &mut List, cut: &mut bool) {
    list.nodes.retain_mut(|node| !*cut && cut_node(node, cut));
}

/// Whether the node stays.
fn cut_node(node: &mut Node, cut: &mut bool) -> bool {
    match node {
        Node::Action(action) => cut_pipe(&mut action.pipe, cut),
        Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
            cut_branch(branch, cut);
            true
        }
        Node::Text(_) | Node::Template(_) | Node::Break | Node::Continue => true,
    }
}

fn cut_branch(branch: &mut Branch, cut: &mut bool) {
    cut_list(&mut branch.list, cut);
    if let Some(otherwise) = &mut branch.otherwise {
        cut_list(otherwise, cut);
    }
}

fn cut_pipe(pipe: &mut Pipe, cut: &mut bool) -> bool {
    for command in &mut pipe.commands {
        command.terms.retain_mut(|term| !*cut && cut_term(term, cut));
        if command.terms.is_empty() {
            return false;
        }
    }
    true
}

fn cut_term(term: &mut Term, cut: &mut bool) -> bool {
    match &mut term.kind {
        TermKind::Field(names) => {
            *cut = names.iter().any(|name| name == "Response");
            true
        }
        TermKind::Pipe(pipe) => cut_pipe(pipe, cut),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
