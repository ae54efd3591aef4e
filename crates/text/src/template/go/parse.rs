//! Words become a tree, with Go's grammar and messages. Nesting is limited: the tree is walked by recursion.

use std::collections::BTreeMap;

use super::lex::{Item, Kind, Lexer};
use super::literal::{Number, quote, unquote};
use super::syntax::{Action, Branch, Call, Command, List, Node, Pipe, Term, TermKind};

/// Blocks and parentheses inside each other; real templates have up to ten. Price: stack.
const DEPTH_MAX: usize = 200;

pub(super) type Trees = BTreeMap<String, List>;

/// The main tree is the one without a name. Errors are Go's text.
pub(super) fn parse(source: &str, functions: &[&str]) -> Result<Trees, String> {
    let mut parser = Parser {
        lexer: Lexer::new(source),
        functions,
        trees: Trees::new(),
        tokens: [const { None }; 3],
        peeked: 0,
        scope: Scope::new(),
        depth: 0,
    };
    let root = parser.root()?;
    parser.add(String::new(), root)?;
    Ok(parser.trees)
}

/// What each tree has of its own.
struct Scope {
    variables: Vec<String>,
    ranges: usize,
    action_line: usize,
}

impl Scope {
    fn new() -> Scope {
        Scope { variables: vec!["$".to_owned()], ranges: 0, action_line: 0 }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    functions: &'a [&'a str],
    trees: Trees,
    /// Words read ahead; the first slot also tells the line of errors.
    tokens: [Option<Item>; 3],
    peeked: usize,
    scope: Scope,
    depth: usize,
}

/// What a list may end with.
enum Ending {
    End,
    Else,
}

impl Ending {
    fn as_str(&self) -> &'static str {
        match self {
            Ending::End => "{{end}}",
            Ending::Else => "{{else}}",
        }
    }
}

enum Parsed {
    Node(Node),
    Ending(Ending),
}

impl Parser<'_> {
    fn next(&mut self) -> Item {
        if self.peeked > 0 {
            self.peeked -= 1;
        } else {
            self.tokens[0] = Some(self.lexer.item());
        }
        self.token(self.peeked)
    }

    fn peek(&mut self) -> Item {
        if self.peeked == 0 {
            self.peeked = 1;
            self.tokens[0] = Some(self.lexer.item());
        }
        self.token(self.peeked - 1)
    }

    fn token(&self, index: usize) -> Item {
        let nothing = || Item { kind: Kind::Eof, pos: 0, text: String::new(), line: 0 };
        self.tokens[index].clone().unwrap_or_else(nothing)
    }

    fn back(&mut self) {
        self.peeked += 1;
    }

    /// Puts words back before the one that was read last; the first of them comes first again.
    fn back_with(&mut self, items: &[Item]) {
        self.peeked = items.len() + 1;
        for (slot, item) in self.tokens[1..].iter_mut().zip(items.iter().rev()) {
            *slot = Some(item.clone());
        }
    }

    fn next_word(&mut self) -> Item {
        loop {
            let item = self.next();
            if item.kind != Kind::Space {
                return item;
            }
        }
    }

    fn peek_word(&mut self) -> Item {
        let item = self.next_word();
        self.back();
        item
    }

    fn error<T>(&self, what: impl AsRef<str>) -> Result<T, String> {
        Err(format!("template: :{}: {}", self.token(0).line, what.as_ref()))
    }

    fn unexpected<T>(&self, item: &Item, context: &str) -> Result<T, String> {
        if item.kind != Kind::Error {
            return self.error(format!("unexpected {} in {context}", shown(item)));
        }
        let started = self.scope.action_line;
        let extra = match (started, item.text.ends_with(" action")) {
            _ if started == 0 || started == item.line => String::new(),
            (_, true) => format!(" started at :{started}"),
            (_, false) => format!(" in action started at :{started}"),
        };
        self.error(format!("{}{extra}", item.text))
    }

    fn expect(&mut self, kinds: &[Kind], context: &str) -> Result<Item, String> {
        let item = self.next_word();
        if kinds.contains(&item.kind) { Ok(item) } else { self.unexpected(&item, context) }
    }

    fn add(&mut self, name: String, list: List) -> Result<(), String> {
        match self.trees.get(&name) {
            Some(known) if !known.is_blank() && list.is_blank() => Ok(()),
            Some(known) if !known.is_blank() => self.error(format!(
                "template: multiple definition of template {}",
                quote(name.as_bytes())
            )),
            _ => {
                self.trees.insert(name, list);
                Ok(())
            }
        }
    }

    fn root(&mut self) -> Result<List, String> {
        let mut list = List::default();
        while self.peek().kind != Kind::Eof {
            if self.peek().kind == Kind::LeftDelim {
                let delim = self.next();
                if self.next_word().kind == Kind::Define {
                    self.definition()?;
                    continue;
                }
                self.back_with(&[delim]);
            }
            match self.text_or_action()? {
                Parsed::Node(node) => list.nodes.push(node),
                Parsed::Ending(ending) => {
                    return self.error(format!("unexpected {}", ending.as_str()));
                }
            }
        }
        Ok(list)
    }

    fn definition(&mut self) -> Result<(), String> {
        let context = "define clause";
        let item = self.expect(&[Kind::String, Kind::RawString], context)?;
        let outer = std::mem::replace(&mut self.scope, Scope::new());
        let name = self.unquoted(&item)?;
        self.expect(&[Kind::RightDelim], context)?;
        let list = self.closed_list(context)?;
        self.scope = outer;
        self.add(name, list)
    }

    fn closed_list(&mut self, context: &str) -> Result<List, String> {
        match self.list()? {
            (list, Ending::End) => Ok(list),
            (_, ending) => self.error(format!("unexpected {} in {context}", ending.as_str())),
        }
    }

    fn unquoted(&self, item: &Item) -> Result<String, String> {
        match unquote(&item.text) {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            None => self.error("invalid syntax"),
        }
    }

    fn list(&mut self) -> Result<(List, Ending), String> {
        let mut list = List::default();
        while self.peek_word().kind != Kind::Eof {
            match self.text_or_action()? {
                Parsed::Node(node) => list.nodes.push(node),
                Parsed::Ending(ending) => return Ok((list, ending)),
            }
        }
        self.error("unexpected EOF")
    }

    fn text_or_action(&mut self) -> Result<Parsed, String> {
        let item = self.next_word();
        match item.kind {
            Kind::Text => Ok(Parsed::Node(Node::Text(item.text))),
            Kind::LeftDelim => {
                self.scope.action_line = item.line;
                let parsed = self.deeper(Parser::action);
                self.scope.action_line = 0;
                parsed
            }
            _ => self.unexpected(&item, "input"),
        }
    }

    fn deeper<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.depth >= DEPTH_MAX {
            return self.error("max expression depth exceeded");
        }
        self.depth += 1;
        let parsed = part(self);
        self.depth -= 1;
        parsed
    }

    fn action(&mut self) -> Result<Parsed, String> {
        let item = self.next_word();
        Ok(Parsed::Node(match item.kind {
            Kind::Block => self.block()?,
            Kind::Break => self.leave("{{break}}", Node::Break)?,
            Kind::Continue => self.leave("{{continue}}", Node::Continue)?,
            Kind::Else => return self.otherwise(),
            Kind::End => {
                self.expect(&[Kind::RightDelim], "end")?;
                return Ok(Parsed::Ending(Ending::End));
            }
            Kind::If => Node::If(self.control("if")?),
            Kind::Range => Node::Range(self.control("range")?),
            Kind::With => Node::With(self.control("with")?),
            Kind::Template => self.template()?,
            _ => {
                self.back();
                let pos = self.peek().pos;
                Node::Action(Action { pos, pipe: self.pipe("command", Kind::RightDelim)? })
            }
        }))
    }

    fn leave(&mut self, what: &str, node: Node) -> Result<Node, String> {
        let item = self.next_word();
        if item.kind != Kind::RightDelim {
            return self.unexpected(&item, what);
        }
        match self.scope.ranges {
            0 => self.error(format!("{what} outside {{{{range}}}}")),
            _ => Ok(node),
        }
    }

    fn otherwise(&mut self) -> Result<Parsed, String> {
        if !matches!(self.peek_word().kind, Kind::If | Kind::With) {
            self.expect(&[Kind::RightDelim], "else")?;
        }
        Ok(Parsed::Ending(Ending::Else))
    }

    fn control(&mut self, context: &str) -> Result<Branch, String> {
        let variables = self.scope.variables.len();
        let pipe = self.pipe(context, Kind::RightDelim)?;
        let in_range = usize::from(context == "range");
        self.scope.ranges += in_range;
        let (list, ending) = self.list()?;
        self.scope.ranges -= in_range;
        let otherwise = match ending {
            Ending::End => None,
            Ending::Else => Some(self.else_list(context)?),
        };
        self.scope.variables.truncate(variables);
        Ok(Branch { pipe, list, otherwise })
    }

    fn else_list(&mut self, context: &str) -> Result<List, String> {
        let chained = match (context, self.peek().kind) {
            ("if", Kind::If) => Some(Node::If as fn(Branch) -> Node),
            ("with", Kind::With) => Some(Node::With as fn(Branch) -> Node),
            _ => None,
        };
        if let Some(node) = chained {
            self.next();
            let branch = self.deeper(|parser| parser.control(context))?;
            return Ok(List { nodes: vec![node(branch)] });
        }
        match self.list()? {
            (list, Ending::End) => Ok(list),
            (_, ending) => self.error(format!("expected end; found {}", ending.as_str())),
        }
    }

    fn block(&mut self) -> Result<Node, String> {
        let context = "block clause";
        let item = self.next_word();
        let name = self.template_name(&item, context)?;
        let pipe = self.pipe(context, Kind::RightDelim)?;
        let outer = std::mem::replace(&mut self.scope, Scope::new());
        let list = self.closed_list(context)?;
        self.scope = outer;
        self.add(name.clone(), list)?;
        Ok(Node::Template(Call { pos: item.pos, name, pipe: Some(pipe) }))
    }

    fn template(&mut self) -> Result<Node, String> {
        let context = "template clause";
        let item = self.next_word();
        let name = self.template_name(&item, context)?;
        let mut pipe = None;
        if self.next_word().kind != Kind::RightDelim {
            self.back();
            pipe = Some(self.pipe(context, Kind::RightDelim)?);
        }
        Ok(Node::Template(Call { pos: item.pos, name, pipe }))
    }

    fn template_name(&self, item: &Item, context: &str) -> Result<String, String> {
        match item.kind {
            Kind::String | Kind::RawString => self.unquoted(item),
            _ => self.unexpected(item, context),
        }
    }

    fn pipe(&mut self, context: &str, end: Kind) -> Result<Pipe, String> {
        let mut pipe = Pipe { pos: self.peek_word().pos, ..Pipe::default() };
        self.declarations(&mut pipe, context)?;
        loop {
            let item = self.next_word();
            match item.kind {
                kind if kind == end => {
                    self.check_pipe(&pipe, context)?;
                    return Ok(pipe);
                }
                kind if begins_term(kind) => {
                    self.back();
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return self.unexpected(&item, context),
            }
        }
    }

    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), String> {
        loop {
            let variable = self.peek_word();
            if variable.kind != Kind::Variable {
                return Ok(());
            }
            self.next();
            let after = self.peek();
            let next = self.peek_word();
            let mut declare = |parser: &mut Self| {
                parser.next_word();
                pipe.variables.push(first_name(&variable.text));
                parser.scope.variables.push(variable.text.clone());
                pipe.variables.len()
            };
            match next.kind {
                Kind::Assign | Kind::Declare => {
                    declare(self);
                    pipe.assigns = next.kind == Kind::Assign;
                    return Ok(());
                }
                Kind::Char if next.text == "," => {
                    let count = declare(self);
                    if context != "range" || count >= 2 {
                        return self.error(format!("too many declarations in {context}"));
                    }
                    let more = [Kind::Variable, Kind::RightDelim, Kind::RightParen];
                    if !more.contains(&self.peek_word().kind) {
                        return self.error("range can only initialize variables");
                    }
                }
                _ if after.kind == Kind::Space => {
                    self.back_with(&[variable, after]);
                    return Ok(());
                }
                _ => {
                    self.back_with(&[variable]);
                    return Ok(());
                }
            }
        }
    }

    fn check_pipe(&self, pipe: &Pipe, context: &str) -> Result<(), String> {
        if pipe.commands.is_empty() {
            return self.error(format!("missing value for {context}"));
        }
        let constant = |command: &Command| {
            use TermKind::{Bool, Dot, Nil, Number, Text};
            let first = command.terms.first().map(|term| &term.kind);
            matches!(first, Some(Bool(_) | Dot | Nil | Number(_) | Text { .. }))
        };
        match pipe.commands.iter().skip(1).position(constant) {
            Some(at) => self.error(format!("non executable command in pipeline stage {}", at + 2)),
            None => Ok(()),
        }
    }

    fn command(&mut self) -> Result<Command, String> {
        let pos = self.peek_word().pos;
        let mut terms = Vec::new();
        loop {
            self.peek_word();
            terms.extend(self.operand()?);
            let item = self.next();
            match item.kind {
                Kind::Space => continue,
                Kind::RightDelim | Kind::RightParen => self.back(),
                Kind::Pipe => {}
                _ => return self.unexpected(&item, "operand"),
            }
            break;
        }
        if terms.is_empty() {
            return self.error("empty command");
        }
        Ok(Command { pos, terms })
    }

    fn operand(&mut self) -> Result<Option<Term>, String> {
        let Some(term) = self.term()? else { return Ok(None) };
        let field = self.peek();
        if field.kind != Kind::Field {
            return Ok(Some(term));
        }
        let mut names = Vec::new();
        while self.peek().kind == Kind::Field {
            names.push(self.next().text[1..].to_owned());
        }
        let kind = match term.kind {
            TermKind::Field(mut all) => {
                all.append(&mut names);
                TermKind::Field(all)
            }
            TermKind::Variable(mut all) => {
                all.append(&mut names);
                TermKind::Variable(all)
            }
            TermKind::Chain(..) | TermKind::Identifier(_) | TermKind::Pipe(_) => {
                TermKind::Chain(Box::new(term), names)
            }
            _ => {
                let term = quote(term.to_string().as_bytes());
                return self.error(format!("unexpected . after term {term}"));
            }
        };
        Ok(Some(Term { pos: field.pos, kind }))
    }

    fn term(&mut self) -> Result<Option<Term>, String> {
        let item = self.next_word();
        let kind = match item.kind {
            Kind::Identifier => {
                if !self.functions.contains(&item.text.as_str()) {
                    let name = quote(item.text.as_bytes());
                    return self.error(format!("function {name} not defined"));
                }
                TermKind::Identifier(item.text)
            }
            Kind::Dot => TermKind::Dot,
            Kind::Nil => TermKind::Nil,
            Kind::Variable => self.known_variable(&item)?,
            Kind::Field => TermKind::Field(vec![item.text[1..].to_owned()]),
            Kind::Bool => TermKind::Bool(item.text == "true"),
            Kind::CharConstant => self.number(Number::character(&item.text))?,
            Kind::Complex => self.number(Number::complex(&item.text))?,
            Kind::Number => self.number(Number::real(&item.text))?,
            Kind::LeftParen => {
                let context = "parenthesized pipeline";
                let pipe = self.deeper(|parser| parser.pipe(context, Kind::RightParen))?;
                TermKind::Pipe(pipe)
            }
            Kind::String | Kind::RawString => match unquote(&item.text) {
                Some(value) => TermKind::Text { literal: item.text, value },
                None => return self.error("invalid syntax"),
            },
            _ => {
                self.back();
                return Ok(None);
            }
        };
        Ok(Some(Term { pos: item.pos, kind }))
    }

    fn known_variable(&self, item: &Item) -> Result<TermKind, String> {
        let name = first_name(&item.text);
        match self.scope.variables.contains(&name) {
            true => Ok(TermKind::Variable(vec![name])),
            false => self.error(format!("undefined variable {}", quote(name.as_bytes()))),
        }
    }

    fn number(&self, number: Result<Number, String>) -> Result<TermKind, String> {
        number.map(TermKind::Number).or_else(|why| self.error(why))
    }
}

fn first_name(variable: &str) -> String {
    variable.split('.').next().unwrap_or_default().to_owned()
}

fn begins_term(kind: Kind) -> bool {
    use Kind::*;
    matches!(
        kind,
        Bool | CharConstant
            | Complex
            | Dot
            | Field
            | Identifier
            | Number
            | Nil
            | RawString
            | String
            | Variable
            | LeftParen
    )
}

/// As messages show a word.
fn shown(item: &Item) -> String {
    match item.kind {
        Kind::Eof => "EOF".to_owned(),
        Kind::Error => item.text.clone(),
        kind if kind > Kind::Keyword => format!("<{}>", item.text),
        _ if item.text.len() > 10 => {
            let start: String = item.text.chars().take(10).collect();
            format!("{}...", quote(start.as_bytes()))
        }
        _ => quote(item.text.as_bytes()),
    }
}
