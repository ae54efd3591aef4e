"""How often each skill is met, and the streams of documents and of held-out cases."""

from . import about, needle, numbers, prose, records, strings, talk, tools, world
from .case import END_OF_TEXT, render, rng_of, system

# Skill: (weight by documents, maker). Copying, retrieval and calls are frequent: they need heads that form late.
MIXTURE = {
    "copying": (9, strings.copying),
    "spelling": (4, strings.spelling),
    "reversing": (4, strings.reversing),
    "counting": (4, strings.counting),
    "sorting": (4, strings.sorting),
    "lists": (4, strings.lists),
    "arithmetic": (14, numbers.arithmetic),
    "word problems": (3, numbers.word_problems),
    "comparing": (4, numbers.comparing),
    "units": (3, numbers.units),
    "dates": (4, numbers.dates),
    "json": (12, records.extraction),
    "tool calls": (9, tools.calls),
    "several calls": (2, tools.several_calls),
    "tool results": (5, tools.results),
    "reading": (4, prose.reading),
    "series": (2, numbers.series),
    "memory": (8, talk.memory),
    "system prompt": (4, talk.following),
    "unknown": (5, talk.unknown),
    "small talk": (3, talk.small_talk),
    "world": (5, world.facts),
    "several": (1, world.several),
    "about ollmlx": (13, about.about),
    "planted sentence": (5, needle.needle),
}
NAMES = list(MIXTURE)
WEIGHTS = [weight for weight, _ in MIXTURE.values()]
PLAIN_SHARE = 0.02
NO_CALL_SHARE = 0.06
QUIET_SHARE = 0.4
# A system prompt that asks for nothing special.
GENERIC_SHARE = 0.12
# Questions that come after a turn or two about something else.
LATER_SHARE = 0.12


def training_case(rng):
    name = rng.choices(NAMES, WEIGHTS)[0]
    case = MIXTURE[name][1](rng, False)
    if case.tools is None and len(case.messages) == 2 and rng.random() < NO_CALL_SHARE and name in (
        "world", "about ollmlx", "small talk", "copying"
    ):
        case = tools.no_call(rng, case)
    if not case.all_turns and case.messages[0]["role"] == "user" and rng.random() < LATER_SHARE:
        case.messages = talk.distraction(rng) + case.messages
    if case.messages[0]["role"] == "user" and rng.random() < GENERIC_SHARE:
        case.messages = [system(rng.choice(talk.GENERIC))] + case.messages
    case.quiet = rng.random() < QUIET_SHARE
    return case


def document(rng):
    """Pieces (text, is_learnt) of one training document."""
    if rng.random() < PLAIN_SHARE:
        text = prose.story(rng) if rng.random() < 0.4 else prose.paragraph(rng, rng.randint(2, 12))
        return [(text + END_OF_TEXT, True)]
    return render(training_case(rng))


# The sets that tests use: name, maker, cases.
def held_out_sets(count):
    def some(maker, **more):
        return lambda rng: maker(rng, True, **more)

    sets = {name: some(maker) for name, (_, maker) in MIXTURE.items() if name not in ("several", "arithmetic", "planted sentence")}
    sets["arithmetic"] = some(numbers.arithmetic, two_digit=True)
    sets["ollmlx commands"] = some(about.commands)
    for sentences, label in ((4, "100"), (24, "500"), (48, "1000"), (98, "2000")):
        sets[f"planted sentence {label}"] = some(needle.needle, sentences=sentences)
    for name, maker in sets.items():
        rng, cases, seen = rng_of("held out", name), [], set()
        tries = 0
        while len(cases) < count and tries < 50 * count:
            tries += 1
            case = maker(rng)
            case.skill = name
            # Half without thoughts.
            case.quiet = len(cases) % 2 == 1
            key = repr(case.question())
            if key not in seen:
                seen.add(key)
                cases.append(case)
        yield name, cases
