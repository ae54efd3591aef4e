"""Copying, spelling, reversing, counting, sorting, lists."""

from . import prose
from . import words as w
from .case import Case, answer, as_json, casual, exact, until, user


def payload(rng):
    """Something to copy."""
    kind = rng.randrange(9)
    if kind == 0:
        return prose.sentence(rng)
    if kind == 1:
        return " ".join(w.word(rng) for _ in range(rng.randint(1, 14)))
    if kind == 2:
        return " ".join(w.code(rng) for _ in range(rng.randint(1, 6)))
    if kind == 3:
        return ", ".join(w.word(rng) for _ in range(rng.randint(2, 10)))
    if kind == 4:
        return "".join(rng.choices(w.LOWER + w.LOWER.upper() + w.DIGITS + "-_./", k=rng.randint(3, 24)))
    if kind == 5:
        return " ".join(str(rng.randint(0, 10 ** rng.randint(1, 5))) for _ in range(rng.randint(2, 12)))
    if kind == 6:
        return f"{w.full_name(rng)}, {rng.randint(1, 200)} {w.made_up(rng).capitalize()} Street, {w.city(rng)}"
    if kind == 7:
        return prose.paragraph(rng, rng.randint(1, 5))
    return w.made_up(rng, rng.randint(2, 6))


COPY = (
    'Repeat exactly: {}|Repeat after me: {}|Copy this text: {}|Say "{}"|Write this again: {}|Repeat this word for word: {}|'
    "Please repeat:\n{}|Copy:\n{}|Echo {}|Write exactly this and nothing else: {}|Give me this text back: {}|"
    "Repeat the following:\n\n{}|Say this: {}|Type the following text: {}"
).split("|")


def copying(rng, held):
    def make():
        text = payload(rng)
        return ("copy", text), Case("copying", [user(rng.choice(COPY).format(text)), answer(text)], expect=exact(text))

    return until(held, make)


def letters(word):
    return "-".join(word)


SPELL = (
    'Spell "{}".|How do you spell {}?|Spell the word {}.|Spell {} letter by letter.|Please spell {}.|Can you spell {}?'
).split("|")


def spelling(rng, held):
    def make():
        word = w.word(rng)
        return ("word", word), Case(
            "spelling", [user(casual(rng, rng.choice(SPELL).format(word))), answer(letters(word))],
            expect=exact(letters(word)),
        )

    return until(held, make)


REVERSE = (
    'Reverse the word "{}".|Write {} backwards.|What is {} spelled backwards?|Reverse the letters of {}.|'
    "Write the word {} in reverse."
).split("|")
REVERSE_LIST = (
    "Reverse this list: {}|Write these words in reverse order: {}|Give me this list backwards: {}|"
    "Turn the order of this list around: {}"
).split("|")


def reversing(rng, held):
    def make():
        if rng.random() < 0.5:
            word = w.word(rng)
            back = word[::-1]
            ask = casual(rng, rng.choice(REVERSE).format(word))
            thinking = f"{word} is {letters(word)}. Backwards: {letters(back)}."
            aloud = f"{letters(back)}: {back}"
            case = Case("reversing", [user(ask), answer(back, thinking, aloud)], expect={"kind": "last", "value": back})
            return ("word", word), case
        items = distinct(rng, lambda: rng.choice(w.COMMON), rng.randint(3, 8))
        back = ", ".join(reversed(items))
        ask = rng.choice(REVERSE_LIST).format(", ".join(items))
        return ("reverse", *items), Case("reversing", [user(ask), answer(back)], expect=exact(back))

    return until(held, make)


def distinct(rng, make, count):
    items = []
    while len(items) < count:
        item = make()
        if item not in items:
            items.append(item)
    return items


LETTER_COUNT = (
    'How many times does the letter {l} occur in "{w}"?|How many {l}s are in {w}?|Count the letter {l} in the word {w}.|'
    "How often does {l} appear in {w}?|How many letters {l} are in the word {w}?"
).split("|")
LENGTH = "How many letters does {} have?|How long is the word {}?|Count the letters in {}.|How many letters are in {}?".split("|")
WORD_COUNT = (
    'How many words are in "{}"?|Count the words: {}|How many words does this have: {}|How many words are in this text? {}'
).split("|")
ITEM_COUNT = "How many items are in this list: {}|Count the items: {}|How many things are in this list? {}".split("|")


def numbered(items):
    return " ".join(f"{item} {index}" for index, item in enumerate(items, 1))


def counting(rng, held):
    def make():
        kind = rng.randrange(4)
        if kind == 0:
            word = w.word(rng)
            letter = rng.choice(word) if rng.random() < 0.85 else rng.choice(w.LOWER)
            count, steps = 0, []
            for one in word:
                count += one == letter
                steps.append(f"{one} {count}" if one == letter else one)
            ask = rng.choice(LETTER_COUNT).format(l=letter, w=word)
            thinking = f"{word}: {', '.join(steps)}. So {count}."
            key = ("letter", letter, word)
        elif kind == 1:
            word = w.word(rng)
            count = len(word)
            ask = casual(rng, rng.choice(LENGTH).format(word))
            thinking = f"{numbered(word)}. So {count}."
            key = ("length", word)
        elif kind == 2:
            text = prose.sentence(rng) if rng.random() < 0.5 else " ".join(w.word(rng) for _ in range(rng.randint(2, 12)))
            parts = text.split()
            count = len(parts)
            ask = rng.choice(WORD_COUNT).format(text)
            thinking = f"{numbered(part.strip('.,') for part in parts)}. So {count}."
            key = ("words", text)
        else:
            items = [rng.choice(w.COMMON) for _ in range(rng.randint(2, 12))]
            count = len(items)
            ask = rng.choice(ITEM_COUNT).format(", ".join(items))
            thinking = f"{numbered(items)}. So {count}."
            key = ("items", *items)
        aloud = f"{thinking[:-1].rsplit('. So ', 1)[0]}. The answer is {count}."
        reply = answer(f"The answer is {count}.", thinking, aloud)
        return key, Case("counting", [user(ask), reply], expect={"kind": "number", "value": str(count)})

    return until(held, make)


SORT_NUMBERS = (
    "Sort these numbers: {}|Sort from small to large: {}|Put these numbers in order: {}|Sort in ascending order: {}|"
    "Order these numbers from lowest to highest: {}"
).split("|")
SORT_DOWN = "Sort from large to small: {}|Sort in descending order: {}|Order these numbers from highest to lowest: {}".split("|")
SORT_WORDS = (
    "Sort these words: {}|Sort alphabetically: {}|Put these words in alphabetical order: {}|Order these words from A to Z: {}"
).split("|")


def sorting(rng, held):
    def make():
        kind = rng.randrange(3)
        if kind < 2:
            top = rng.choice([9, 20, 99, 99, 999])
            items = distinct(rng, lambda: rng.randint(0, top), rng.randint(3, 8))
            done = sorted(items, reverse=kind == 1)
            ask = rng.choice(SORT_DOWN if kind else SORT_NUMBERS)
        else:
            items = distinct(rng, lambda: rng.choice(w.COMMON), rng.randint(3, 7))
            done = sorted(items)
            ask = rng.choice(SORT_WORDS)
        text = ", ".join(map(str, done))
        ask = ask.format(", ".join(map(str, items)))
        return ("sort", *sorted(map(str, items))), Case("sorting", [user(ask), answer(text)], expect=exact(text))

    return until(held, make)


ORDINALS = "first second third fourth fifth sixth seventh eighth".split()
LIST_WRAP = (
    "What is the {} item in this list: {}|Which one is the {}: {}|Give me the {} item of: {}|From the list {}, what comes {}?"
).split("|")[:3]


def lists(rng, held):
    def make():
        items = distinct(rng, lambda: rng.choice(w.COMMON), rng.randint(3, 8))
        shown = ", ".join(items)
        kind = rng.randrange(6)
        if kind == 0:
            index = rng.randrange(len(items))
            ask, text = rng.choice(LIST_WRAP).format(ORDINALS[index], shown), items[index]
        elif kind == 1:
            ask, text = rng.choice(LIST_WRAP).format("last", shown), items[-1]
        elif kind == 2:
            gone = rng.choice(items)
            ask = f"Remove {gone} from this list: {shown}"
            text = ", ".join(item for item in items if item != gone)
        elif kind == 3:
            more = rng.choice(w.COMMON)
            ask, text = f"Add {more} to the end of this list: {shown}", f"{shown}, {more}"
        elif kind == 4:
            is_in = rng.random() < 0.5
            one = rng.choice(items) if is_in else rng.choice(w.COMMON)
            ask = rng.choice((f"Is {one} in this list: {shown}", f"Does this list contain {one}? {shown}"))
            text = f"Yes, {one} is in the list." if one in items else f"No, {one} is not in the list."
        else:
            style = rng.randrange(4)
            if style == 0:
                ask, text = f"Write this as a bullet list: {shown}", "\n".join(f"- {item}" for item in items)
            elif style == 1:
                ask = f"Number these items: {shown}"
                text = "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
            elif style == 2:
                ask, text = f"Write these words in capital letters: {shown}", shown.upper()
            else:
                ask = f"Write this as a JSON array: {shown}"
                text = "[" + ", ".join(f'"{item}"' for item in items) + "]"
                return ("list", ask), Case("lists", [user(ask), answer(text)], expect=as_json(items))
        return ("list", ask), Case("lists", [user(ask), answer(text)], expect=exact(text))

    return until(held, make)
