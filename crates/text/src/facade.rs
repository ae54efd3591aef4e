//! The door to this crate: everything the engine needs of a model's text side, loaded once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use protocol::{Input, Think};

use crate::parsers::{Asked, Parser, Parsers};
use crate::template::go::literal;
use crate::{
    ChatTemplate, Conversation, Error, Files, ModelfileTemplate, NamedTemplate, Renderer, Result,
    Specials, Stream, Tokenizer,
};

/// A model's tokenizer, and how its prompts are written: by a built-in renderer, else by its TEMPLATE, else by the
/// template in its repository, else as plain text.
#[derive(Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    renderer: Option<String>,
    parsers: Parsers,
    /// What the TEMPLATE is, or why it is none.
    modelfile: Option<Result<Own>>,
}

/// A TEMPLATE in one of the two languages.
#[derive(Debug)]
enum Own {
    Go(ModelfileTemplate),
    Jinja(Box<ChatTemplate>),
}

/// Where a prompt comes from decides which special tokens are put around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// Rendered by the model's own template, which has written every special token itself.
    Chat,
    /// Plain text, or what a built-in renderer wrote, which need not begin with one: a begin token is put before it if the tokenizer wants one and the text has none.
    Plain,
    /// All that the tokenizer puts around a text, end tokens too: what embedders expect.
    Embedding,
}

impl Text {
    /// From a model's files by their name in the repository; unknown names are ignored.
    pub fn load(files: &BTreeMap<String, PathBuf>) -> Result<Text> {
        Text::from_files(&Files::open(files)?)
    }

    pub fn from_files(files: &Files) -> Result<Text> {
        let (tokenizer, template) = (Tokenizer::load(files)?, ChatTemplate::load(files)?);
        let source = template.as_ref().map(ChatTemplate::source);
        let parsers = Parsers::of_templates(source.as_deref());
        Ok(Text { tokenizer, template, renderer: None, parsers, modelfile: None })
    }

    /// With the model's PARSER and TEMPLATE, as far as they tell how replies are to be read.
    pub fn with_parser(self, parser: Option<&str>, template: Option<&str>) -> Text {
        let template = template.filter(|source| !self.names_its_template(source));
        Text { parsers: self.parsers.with_modelfile(parser, template), ..self }
    }

    /// With the model's TEMPLATE, which may be broken: then no conversation can be rendered. The plain one and the one
    /// that was found for the repository's template say nothing that the latter does not say better.
    pub fn with_template(self, source: Option<&str>) -> Text {
        let source = source.filter(|source| !is_plain(source) || self.template.is_none());
        let source = source.filter(|source| !self.names_its_template(source));
        let modelfile = source.map(|source| self.own(source));
        Text { modelfile, ..self }
    }

    /// Whether a TEMPLATE is what the repository's own template amounts to.
    fn names_its_template(&self, source: &str) -> bool {
        let (named, own) = (NamedTemplate::of_template(source), self.template.as_ref());
        named.is_some() && own.is_some_and(|own| own.named() == named)
    }

    fn own(&self, source: &str) -> Result<Own> {
        if is_jinja(source) {
            let named = self.tokenizer.named_tokens().clone();
            return ChatTemplate::from_source(source, named)
                .map(|template| Own::Jinja(Box::new(template)));
        }
        go(source).map(Own::Go)
    }

    /// With the model's RENDERER, which may be unknown: then no conversation can be rendered.
    pub fn with_renderer(self, renderer: Option<String>) -> Text {
        Text { renderer, ..self }
    }

    /// The prompt as the tokenizer gets it.
    pub fn render(&self, input: &Input, think: &Think) -> Result<String> {
        match input {
            Input::Raw { prompt } => Ok(prompt.clone()),
            Input::Infill { prompt, suffix } => self.infill(prompt, suffix, think),
            Input::Chat { messages, tools, template } => {
                let tools = &self.parsers.tools(tools);
                let conversation = Conversation { messages, tools, think };
                match template {
                    Some(source) => self.own(source)?.render(conversation),
                    None => self.render_own(conversation),
                }
            }
        }
    }

    fn infill(&self, prompt: &str, suffix: &str, think: &Think) -> Result<String> {
        match &self.modelfile {
            Some(Ok(Own::Go(template))) if template.uses("suffix") => {
                template.infill(prompt, suffix, think)
            }
            Some(Err(error)) => Err(error.clone()),
            _ => Err(Error::Unsupported {
                what: "this model cannot fill in the middle of a text".to_owned(),
            }),
        }
    }

    fn render_own(&self, conversation: Conversation<'_>) -> Result<String> {
        match (&self.renderer, &self.modelfile, &self.template) {
            (Some(name), ..) => match Renderer::named(name) {
                Some(renderer) => renderer.render(conversation),
                None => Err(Error::UnknownRenderer { name: name.clone() }),
            },
            (None, Some(Ok(own)), _) => own.render(conversation),
            (None, Some(Err(error)), _) => Err(error.clone()),
            (None, None, Some(template)) => template.render(conversation),
            (None, None, None) => go(PLAIN)?.render(conversation),
        }
    }

    /// How the prompt rendered from `input` is to be encoded.
    pub fn prompt_kind(&self, input: &Input) -> PromptKind {
        let by_jinja = match input {
            Input::Chat { template: Some(own), .. } => is_jinja(own),
            Input::Chat { template: None, .. } if self.renderer.is_some() => false,
            Input::Chat { template: None, .. } => match &self.modelfile {
                Some(own) => matches!(own, Ok(Own::Jinja(_))),
                None => self.template.is_some(),
            },
            Input::Raw { .. } | Input::Infill { .. } => false,
        };
        if by_jinja { PromptKind::Chat } else { PromptKind::Plain }
    }

    pub fn encode_prompt(&self, prompt: &str, kind: PromptKind) -> Result<Vec<u32>> {
        match kind {
            PromptKind::Chat => self.tokenizer.encode(prompt, false),
            PromptKind::Plain => self.tokenizer.encode_beginning(prompt),
            PromptKind::Embedding => self.tokenizer.encode(prompt, true),
        }
    }

    /// For the reply to `input`, whose prompt this is. What is no conversation is answered by plain text.
    pub fn parser(&self, input: &Input, think: &Think, prompt: &str) -> Parser {
        match input {
            Input::Raw { .. } | Input::Infill { .. } => Parser::plain(),
            Input::Chat { messages, tools, template } => {
                let template = template.as_deref();
                self.parsers.parser(&Asked { messages, tools, think, prompt, template })
            }
        }
    }

    /// A decoder that shows the special tokens which this parser has to see.
    pub fn decoder_for(&self, parser: &Parser) -> Stream {
        let ids = parser.specials().iter().filter_map(|token| self.tokenizer.token_id(token));
        self.decoder().showing(ids.collect())
    }

    /// A decoder for one generated sequence. Special tokens are left out of the text.
    pub fn decoder(&self) -> Stream {
        self.decoder_with(Specials::Skip)
    }

    pub fn decoder_with(&self, specials: Specials) -> Stream {
        self.tokenizer.stream(specials)
    }

    /// The tokens that end a reply, ascending.
    pub fn ends(&self) -> &[u32] {
        self.tokenizer.ends()
    }

    /// One more than the largest token id. A model may have more logits than that.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The bytes a token stands for, which need not be UTF-8; empty for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.tokenizer.token_bytes(id)
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }
}

impl Own {
    fn render(&self, conversation: Conversation<'_>) -> Result<String> {
        match self {
            Own::Go(template) => template.render(conversation),
            Own::Jinja(template) => template.render(conversation),
        }
    }
}

/// Whether a TEMPLATE, in whichever language, can be used at all; if not, why.
pub fn check_template(source: &str) -> std::result::Result<(), String> {
    if is_jinja(source) {
        let checked = ChatTemplate::from_source(source, BTreeMap::new());
        return checked.map(|_| ()).map_err(|error| error.to_string());
    }
    ModelfileTemplate::parse(source).map(|_| ())
}

/// A text in double quotes as Go's `%q` prints it, which many of Ollama's messages do.
pub fn quoted_as_go(text: &str) -> String {
    literal::quote(text.as_bytes())
}

/// The template of models that have none.
const PLAIN: &str = "{{ .Prompt }}";

fn is_plain(source: &str) -> bool {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    bare(source) == bare(PLAIN)
}

/// By what every Jinja template has and no Go template can.
fn is_jinja(source: &str) -> bool {
    source.contains("{%")
}

fn go(source: &str) -> Result<ModelfileTemplate> {
    ModelfileTemplate::parse(source).map_err(|why| Error::Modelfile { why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Message;

    fn text(chat_template: Option<&str>) -> Text {
        let config = serde_json::json!({"bos_token": "<s>", "chat_template": chat_template});
        let tokenizer = serde_json::json!({
            "added_tokens": [{"id": 3, "content": "<s>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false}],
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
        });
        Text::from_files(&Files::from_texts([
            ("tokenizer.json", tokenizer.to_string()),
            ("tokenizer_config.json", config.to_string()),
        ]))
        .unwrap()
    }

    fn chat(template: Option<&str>) -> Input {
        let message = Message { content: "ab".to_owned(), ..Message::default() };
        let template = template.map(str::to_owned);
        Input::Chat { messages: vec![message], tools: Vec::new(), template }
    }

    #[track_caller]
    fn check(text: &Text, input: &Input, prompt: &str, ids: &[u32]) {
        let rendered = text.render(input, &Think::Unset).unwrap();
        let encoded = text.encode_prompt(&rendered, text.prompt_kind(input)).unwrap();
        assert_eq!((rendered.as_str(), encoded.as_slice()), (prompt, ids));
    }

    #[test]
    fn a_begin_token_comes_once_wherever_it_comes_from() {
        let raw = |prompt: &str| Input::Raw { prompt: prompt.to_owned() };
        let plain = text(None);
        check(&plain, &raw("ab"), "ab", &[3, 0, 1]);
        check(&plain, &raw("<s>ab"), "<s>ab", &[3, 0, 1]);
        check(&plain, &chat(None), "ab", &[3, 0, 1]);
        check(&plain, &chat(Some("{{ .Prompt }}")), "ab", &[3, 0, 1]);
        check(&plain, &chat(Some("{% if true %}c{% endif %}")), "c", &[2]);
        let with_bos = text(Some("{{ bos_token }}{{ messages[0].content }}"));
        check(&with_bos, &chat(None), "<s>ab", &[3, 0, 1]);
        check(&text(Some("{{ messages[0].content }}")), &chat(None), "ab", &[0, 1]);
    }

    #[test]
    fn a_renderer_comes_before_the_template() {
        let with = |name: &str| text(Some("{{ 1 }}")).with_renderer(Some(name.to_owned()));
        let rendered = with("glm-4.7").render(&chat(None), &Think::Off).unwrap();
        assert_eq!(rendered, "[gMASK]<sop><|user|>ab<|assistant|></think>");
        assert_eq!(with("glm-4.7").prompt_kind(&chat(None)), PromptKind::Plain);
        check(&with("glm-4.7"), &chat(Some("{% if true %}c{% endif %}")), "c", &[2]);
        let error = with("deepseek3").render(&chat(None), &Think::Unset).unwrap_err();
        assert_eq!(error.to_string(), "unknown renderer \"deepseek3\"");
        check(&with("deepseek3"), &Input::Raw { prompt: "a".to_owned() }, "a", &[3, 0]);
    }

    #[test]
    fn a_template_of_the_modelfile_comes_before_the_repositorys() {
        let with = |template: &str| text(Some("c{# #}")).with_template(Some(template));
        check(&with("{{ .Prompt }}c"), &chat(None), "abc", &[3, 0, 1, 2]);
        check(&with("{% if true %}b{% endif %}"), &chat(None), "b", &[1]);
        check(&with(" {{.Prompt}}"), &chat(None), "c", &[2]);
        check(&with("{{ .Prompt }}c"), &chat(Some("b{{ .Prompt }}")), "bab", &[3, 1, 0, 1]);
        let both = with("{{ .Prompt }}c").with_renderer(Some("glm-4.7".to_owned()));
        assert!(both.render(&chat(None), &Think::Off).unwrap().starts_with("[gMASK]"));
        for (broken, words) in [
            (with("{{ .Prompt"), "template: :1: unclosed action"),
            (
                with("{{ .Prompt.x }}"),
                "template: :1:10: executing \"\" at <.Prompt.x>: can't evaluate field x in type interface {}",
            ),
        ] {
            let error = broken.render(&chat(None), &Think::Unset).unwrap_err();
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn the_repositorys_template_comes_before_what_was_found_for_it() {
        let own = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }}\n{% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}</s>\n{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}ASSISTANT:";
        let with = |own: &str, template: &str| text(Some(own)).with_template(Some(template));
        let vicuna = text(Some(own)).template().and_then(ChatTemplate::named).unwrap().template;
        check(&with("c{# #}", vicuna), &chat(None), "USER: ab\nASSISTANT:", &[3, 0, 1]);
        check(&with(own, vicuna), &chat(None), "<s>USER: ab\nASSISTANT:", &[3, 0, 1]);
        assert_eq!(with(own, vicuna).prompt_kind(&chat(None)), PromptKind::Chat);
        assert_eq!(with("c{# #}", vicuna).prompt_kind(&chat(None)), PromptKind::Plain);
    }

    #[test]
    fn gaps_are_filled_by_templates_that_name_the_suffix() {
        let infill = Input::Infill { prompt: "a".to_owned(), suffix: "b".to_owned() };
        let with = |template: &str| text(Some("c")).with_template(Some(template));
        check(&with("{{ .Suffix }}c{{ .Prompt }}"), &infill, "bca", &[3, 1, 2, 0]);
        for none in [text(Some("c")), with("{{ .Prompt }}")] {
            let error = none.render(&infill, &Think::Unset).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        }
    }
}
