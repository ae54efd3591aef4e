//! What a template tells about a model's answers: the tags around thoughts and before calls of tools.

use crate::template::go::syntax::{Branch, List, Node, Pipe, TermKind};

/// The last `.Thinking` inside a `range .Messages`: the first and last text of the list it stands in.
pub(super) fn thinking(root: &List) -> Option<(String, String)> {
    let mut tags = (String::new(), String::new());
    visit(root, false, &mut tags);
    (!tags.0.is_empty() || !tags.1.is_empty()).then_some(tags)
}

fn visit(list: &List, in_messages: bool, tags: &mut (String, String)) {
    for node in &list.nodes {
        let pipe = match node {
            Node::Action(action) => Some(&action.pipe),
            Node::If(branch) | Node::With(branch) => Some(&branch.pipe),
            Node::Template(call) => call.pipe.as_ref(),
            _ => None,
        };
        if in_messages && pipe.is_some_and(|pipe| begins_with(pipe, "Thinking")) {
            take_tags(list, tags);
        }
        let (branch, in_messages) = match node {
            Node::If(branch) | Node::With(branch) => (branch, in_messages),
            Node::Range(branch) => (branch, begins_with(&branch.pipe, "Messages")),
            _ => continue,
        };
        visit(&branch.list, in_messages, tags);
        branch.otherwise.iter().for_each(|list| visit(list, in_messages, tags));
    }
}

fn take_tags(list: &List, tags: &mut (String, String)) {
    if let Some(Node::Text(text)) = list.nodes.first() {
        tags.0 = text.trim().to_owned();
    }
    if let Some(Node::Text(text)) = list.nodes.last() {
        tags.1 = text.trim().to_owned();
    }
}

/// Whether a field of this name, or below it, stands in the pipe.
fn begins_with(pipe: &Pipe, name: &str) -> bool {
    pipe.commands.iter().flat_map(|command| &command.terms).any(|term| match &term.kind {
        TermKind::Field(names) => names.first().is_some_and(|first| first == name),
        TermKind::Pipe(pipe) => begins_with(pipe, name),
        _ => false,
    })
}

/// The first text inside the first `if .ToolCalls`, up to where JSON begins.
pub(super) fn tool(root: &List) -> Option<String> {
    let calls = find_calls(root)?;
    let Found::Text(text) = first_text(&calls.list) else { return None };
    let text = text.replace("\r\n", "\n");
    let tag = text.split('{').next().unwrap_or_default().trim();
    (!tag.is_empty()).then(|| tag.to_owned())
}

fn find_calls(list: &List) -> Option<&Branch> {
    list.nodes.iter().find_map(|node| match node {
        Node::If(branch) if names_calls(&branch.pipe) => Some(branch),
        Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
            find_calls(&branch.list).or_else(|| branch.otherwise.as_ref().and_then(find_calls))
        }
        _ => None,
    })
}

fn names_calls(pipe: &Pipe) -> bool {
    let mut terms = pipe.commands.iter().flat_map(|command| &command.terms);
    terms.any(|term| match &term.kind {
        TermKind::Field(names) => names.iter().any(|name| name == "ToolCalls"),
        _ => false,
    })
}

enum Found<'a> {
    Text(&'a str),
    /// The search ends without one.
    End,
    Nothing,
}

fn first_text(list: &List) -> Found<'_> {
    for node in &list.nodes {
        match node {
            Node::Text(text) if text.trim().is_empty() => {}
            Node::Text(text) => return Found::Text(text),
            Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
                let inside = [Some(&branch.list), branch.otherwise.as_ref()];
                let mut texts = inside.into_iter().flatten().map(first_text);
                let found = texts.find(|found| matches!(found, Found::Text(_)));
                return found.unwrap_or(Found::End);
            }
            Node::Action(_) => return Found::End,
            Node::Template(_) | Node::Break | Node::Continue => {}
        }
    }
    Found::Nothing
}
