"""A sentence planted in a long text, found again."""

from . import prose
from . import words as w
from .case import Case, answer, contains, system, until, user

# (sentence, question, answer, value)
PLANTS = (
    ("The secret code of {n} is {v}.", "What is the secret code of {n}?", "The secret code of {n} is {v}.", w.code),
    ("The magic word is {v}.", "What is the magic word?", "The magic word is {v}.", w.word),
    ("{n} keeps the key in the {v}.", "Where does {n} keep the key?", "{n} keeps the key in the {v}.", lambda r: r.choice(w.PLACES)),
    ("The password of the {t} is {v}.", "What is the password of the {t}?", "The password of the {t} is {v}.", w.code),
    ("The phone number of {n} is {v}.", "What is the phone number of {n}?", "The phone number of {n} is {v}.", lambda r: "".join(r.choices(w.DIGITS, k=r.randint(4, 8)))),
    ("{n} was born in {v}.", "Where was {n} born?", "{n} was born in {v}.", w.city),
    ("The favourite animal of {n} is the {v}.", "What is the favourite animal of {n}?", "The favourite animal of {n} is the {v}.", lambda r: r.choice(w.ANIMALS)),
    ("The number of the {t} is {v}.", "What is the number of the {t}?", "The number of the {t} is {v}.", lambda r: str(r.randint(0, 99999))),
    ("The treasure is hidden under the {v}.", "Where is the treasure hidden?", "The treasure is hidden under the {v}.", lambda r: f"{r.choice(w.ADJECTIVES)} {r.choice(w.THINGS)}"),
    ("{n} will arrive at {v}.", "When will {n} arrive?", "{n} will arrive at {v}.", lambda r: f"{r.randint(1, 23)}:{r.randint(0, 59):02}"),
    ("The name of the ship is {v}.", "What is the name of the ship?", "The name of the ship is {v}.", lambda r: w.made_up(r, 3).capitalize()),
)
INTRO = (
    "Read this text and answer the question.", "Here is a text.", "Find the answer in this text.", "Text:", "Read:", "",
    "There is something to find in this text.",
)


def plant(rng, held):
    """(sentence, question, answer, value), from one side of the fence."""

    def make():
        sentence, question, reply, value = rng.choice(PLANTS)
        fields = {"n": w.name(rng), "t": rng.choice(w.THINGS), "v": value(rng)}
        texts = [text.format(**fields) for text in (sentence, question, reply)]
        return ("needle", texts[0]), texts + [str(fields["v"])]

    return until(held, make)


def needle(rng, held, sentences=None):
    # As many short as long ones, by their logarithm; 180 sentences are about 3,700 tokens.
    count = sentences or int(2 ** rng.uniform(2, 7.5))
    planted = {one[1]: one for one in (plant(rng, held) for _ in range(rng.choice([1, 2, 3])))}
    planted = list(planted.values())
    body = [prose.sentence(rng) for _ in range(count)]
    for one in planted:
        body.insert(rng.randint(0, len(body)), one[0])
    breaks = rng.random() < 0.4
    text = "".join(s + ("\n\n" if breaks and rng.random() < 0.15 else " ") for s in body).strip()
    first, intro = planted[0], rng.choice(INTRO)
    messages = [
        [user(f"{intro}\n\n{text}\n\n{first[1]}".strip())],
        [user(f"{first[1]}\n\n{text}")],
        [system(f"Answer from this text:\n\n{text}"), user(first[1])],
        [user(f"{intro}\n{text}".strip()), answer("I have read it. What do you want to know?"), user(first[1])],
    ][rng.randrange(4)]
    messages.append(answer(first[2]))
    if not held:
        for one in planted[1:]:
            messages += [user(one[1]), answer(one[2])]
    return Case("planted sentence", messages, expect=contains(first[3]), all_turns=True, extra={"sentences": count})
