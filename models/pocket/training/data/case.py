"""What a case is, how it becomes text, and which side of the fence it stands on.

A case is a conversation that ends with the answer that is wanted. Each skill names the fact that a case is about (its
key); the key alone decides whether the case may be trained on or is held out, so the two sides cannot meet.
"""

import json
import random
import zlib
from dataclasses import dataclass, field

HELD_OUT_ONE_IN = 16

START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def is_held_out(*key):
    """Stable over runs and machines; `hash` is not."""
    return zlib.crc32(repr(key).encode()) % HELD_OUT_ONE_IN == 0


@dataclass
class Case:
    skill: str
    messages: list
    tools: list = None
    # How an answer is judged: {"kind": ..., "value": ...}; see evaluate.py.
    expect: dict = None
    # Earlier answers of the conversation are learnt too. Only for skills that never think.
    all_turns: bool = False
    # Rendered with `enable_thinking` false.
    quiet: bool = False
    extra: dict = field(default_factory=dict)

    def question(self):
        """The conversation up to the answer."""
        return self.messages[:-1]


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def tool_result(value):
    return {"role": "tool", "content": value if isinstance(value, str) else json.dumps(value)}


def answer(text, thinking=None, aloud=None, calls=None):
    """`aloud` is said instead of `text` where thinking is off: the steps that would have been thought."""
    message = {"role": "assistant", "content": text}
    if thinking:
        message["reasoning_content"] = thinking
    if aloud:
        message["aloud"] = aloud
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message


def exact(text):
    return {"kind": "exact", "value": text}


def contains(*texts):
    return {"kind": "contains", "value": list(texts)}


def as_json(value):
    return {"kind": "json", "value": value}


def call_of(name, arguments):
    return {"kind": "call", "value": {"name": name, "arguments": arguments}}


def calls_of(calls):
    return {"kind": "calls", "value": calls}


def render(case, generate=False):
    """Pieces (text, is_learnt) of the conversation, as chat_template.jinja writes it; a test holds the two together.

    With `generate`, the last message is left out and the text ends where the model begins to write.
    """
    messages = case.question() if generate else case.messages
    out = []

    def add(text, learnt=False):
        out.append((text, learnt))

    rest = messages
    prompt = ""
    if rest and rest[0]["role"] == "system":
        prompt, rest = rest[0]["content"], rest[1:]
    if case.tools:
        lines = "".join("\n" + dump(tool) for tool in case.tools)
        add(
            f"{START}system\n{prompt + chr(10) * 2 if prompt else ''}# Tools\n\nThese functions can be called:\n<tools>"
            f"{lines}\n</tools>\n\nTo call one, write its name and its arguments as JSON:\n<tool_call>\n"
            f'{{"name": <name>, "arguments": <arguments>}}\n</tool_call>{END}\n'
        )
    elif prompt:
        add(f"{START}system\n{prompt}{END}\n")
    last = max((i for i, message in enumerate(rest) if message["role"] == "user"), default=-1)
    for index, message in enumerate(rest):
        role = message["role"]
        if role == "tool":
            first = index == 0 or rest[index - 1]["role"] != "tool"
            final = index + 1 == len(rest) or rest[index + 1]["role"] != "tool"
            add(
                (f"{START}user" if first else "")
                + f"\n<tool_response>\n{message['content']}\n</tool_response>"
                + (f"{END}\n" if final else "")
            )
        elif role == "assistant":
            is_last = index + 1 == len(rest) and not generate
            # A call before its result stands without thoughts where they are off: nothing to learn from.
            learnt = is_last or case.all_turns or (index > last and not case.quiet)
            add(f"{START}assistant\n")
            thoughts = None if case.quiet else message.get("reasoning_content")
            content = message["content"]
            if is_last and case.quiet:
                # Written by the template, when it asks for an answer without thoughts.
                add("<think>\n\n</think>\n\n")
                content = message.get("aloud") or content
            elif thoughts and index > last:
                add(f"<think>\n{thoughts}\n</think>\n\n", learnt)
            text = content
            for number, call in enumerate(message.get("tool_calls") or []):
                call = call["function"]
                text += "\n" if text or number else ""
                text += f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {dump(call["arguments"])}}}\n</tool_call>'
            add(text + END, learnt)
            add("\n")
        else:
            add(f"{START}{role}\n{message['content']}{END}\n")
    if generate:
        add(f"{START}assistant\n" + ("<think>\n\n</think>\n\n" if case.quiet else ""))
    return out


def dump(value):
    return json.dumps(value, ensure_ascii=False)


def until(held, make):
    """The first case on the wanted side: `make` gives a key and whatever belongs to it."""
    while True:
        made = make()
        if is_held_out(*made[0]) == held:
            return made[1]


def casual(rng, question):
    """People type as they like."""
    roll = rng.random()
    if roll < 0.70:
        return question
    if roll < 0.80:
        return question[0].lower() + question[1:]
    if roll < 0.88:
        return question.rstrip("?.")
    if roll < 0.92:
        return rng.choice(["Hi! ", "Hello, ", "Please help: ", "One question: ", "Hey, "]) + question
    if roll < 0.96:
        return question + rng.choice([" Thanks!", " Please.", " Thank you."])
    return question.lower()


def rng_of(*seed):
    return random.Random(zlib.crc32(repr(seed).encode()))


def typed(rng, question):
    """As typed in a hurry: casual, and now and then with a slip in one word."""
    question = casual(rng, question)
    if rng.random() > 0.08:
        return question
    parts = question.split(" ")
    index = rng.randrange(len(parts))
    word = parts[index]
    if len(word) < 4 or not word.isalpha():
        return question
    at = rng.randrange(1, len(word) - 1)
    parts[index] = rng.choice(
        (word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    )
    return " ".join(parts)
