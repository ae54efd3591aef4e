"""Plain English by a grammar: sentences with varied build, short stories, and long texts to hide things in."""

from . import words as w


def noun_phrase(rng):
    roll = rng.random()
    noun = rng.choice((w.ANIMALS, w.JOBS, w.THINGS, w.THINGS)[rng.randrange(4)])
    if roll < 0.35:
        return f"the {noun}"
    if roll < 0.75:
        return f"the {rng.choice(w.ADJECTIVES)} {noun}"
    if roll < 0.88:
        return w.an(f"{rng.choice(w.ADJECTIVES)} {noun}")
    return f"the {noun} from the {rng.choice(w.PLACES)}"


def person(rng):
    roll = rng.random()
    if roll < 0.4:
        return rng.choice(w.NAMES)
    return f"the {rng.choice(w.JOBS)}" if roll < 0.7 else f"the {rng.choice(w.ADJECTIVES)} {rng.choice(w.JOBS)}"


def place(rng):
    return rng.choice(("in", "near", "behind", "beside", "on the way to")) + " the " + rng.choice(w.PLACES)


def clause(rng):
    return f"{person(rng)} {rng.choice(w.PAST)} {noun_phrase(rng)}"


def up(text):
    return text[0].upper() + text[1:]


def sentence(rng):
    c = rng.choice
    kind = rng.randrange(14)
    if kind == 0:
        return up(f"{clause(rng)} {place(rng)}.")
    if kind == 1:
        return up(f"{person(rng)} {c(w.VERBS)} {noun_phrase(rng)} {c(w.ADVERBS)}.")
    if kind == 2:
        return f"In the {c(w.PLACES)} there was {w.an(c(w.ADJECTIVES))} {c(w.THINGS)}."
    if kind == 3:
        return f"When {clause(rng)}, {person(rng)} was {c(w.ADJECTIVES)}."
    if kind == 4:
        return up(f"{clause(rng)}, but {person(rng)} {c(w.PAST)} {noun_phrase(rng)}.")
    if kind == 5:
        return f"It was {w.an(c(w.ADJECTIVES))} day, and {person(rng)} stayed {place(rng)}."
    if kind == 6:
        return up(f"{person(rng)} said that {noun_phrase(rng)} was too {c(w.ADJECTIVES)}.")
    if kind == 7:
        return f"Every {c(('morning', 'evening', 'week', 'summer', 'winter'))} {person(rng)} {c(w.VERBS)} {noun_phrase(rng)}."
    if kind == 8:
        return f"There are {rng.randint(2, 20)} {w.plural(c(w.THINGS))} {place(rng)}."
    if kind == 9:
        return up(f"{noun_phrase(rng)} is more {c(w.ADJECTIVES)} than {noun_phrase(rng)}.")
    if kind == 10:
        return up(f"{clause(rng)} because it was {c(w.ADJECTIVES)}.")
    if kind == 11:
        return f"On {c(w.WEEKDAYS)} {clause(rng)}."
    if kind == 12:
        return f"Nobody {place(rng)} {c(w.PAST)} {noun_phrase(rng)}."
    return f"If the weather is {c(w.WEATHER)}, {person(rng)} {c(w.VERBS)} {noun_phrase(rng)}."


def paragraph(rng, count):
    return " ".join(sentence(rng) for _ in range(count))


def story(rng, hero=None, who=None):
    c = rng.choice
    who = who or c(w.ANIMALS)
    hero = hero or w.name(rng)
    friend = c(w.ANIMALS)
    thing, where = c(w.THINGS), c(w.PLACES)
    adjective = c(w.ADJECTIVES)
    return " ".join(
        (
            c((
                f"Once there was {w.an(adjective)} {who} named {hero}.",
                f"{hero} was {w.an(adjective)} {who} who lived near the {where}.",
                f"Long ago, {w.an(adjective)} {who} called {hero} lived in {w.an(c(w.PLACES))}.",
            )),
            c((
                f"One day {hero} found {w.an(c(w.COLOURS))} {thing} in the {where}.",
                f"One morning {hero} lost {w.an(c(w.COLOURS))} {thing} near the {where}.",
                f"Every day {hero} looked for {w.an(c(w.COLOURS))} {thing} in the {where}.",
            )),
            c((
                f"A {c(w.ADJECTIVES)} {friend} came by and asked for the {thing}.",
                f"Then {w.an(friend)} came and wanted to help.",
                f"A {friend} from the {c(w.PLACES)} had seen it all.",
            )).replace("A o", "An o").replace("A e", "An e").replace("A a", "An a").replace("A u", "A u"),
            c((
                f"{hero} shared the {thing}, and they became friends.",
                f"Together they carried the {thing} home and laughed.",
                f"They looked at the {thing} together until the evening.",
            )),
            c((
                f"From then on {hero} was never alone.",
                "And that was a good day.",
                f"So the {who} and the {friend} learned to help each other.",
            )),
        )
    )


BASE = (
    "see find like carry follow watch paint sell buy open close clean repair move hide hold push pull draw build bring take "
    "lose want need remember forget describe wash break count"
).split()


def reading(rng, held):
    """Questions about one of several happenings."""
    from .case import Case, answer, contains, until, user

    def make():
        count = rng.randint(2, 12)
        happened, names, things = [], set(), set()
        while len(happened) < count:
            name, index = w.name(rng), rng.randrange(len(BASE))
            thing = f"{rng.choice(w.ADJECTIVES)} {rng.choice(w.THINGS)}"
            if name not in names and thing not in things:
                names.add(name)
                things.add(thing)
                happened.append((name, index, thing, rng.choice(w.PLACES)))
        told = [f"{name} {w.PAST[index]} the {thing} in the {place}." for name, index, thing, place in happened]
        for _ in range(rng.randint(0, 6)):
            other = sentence(rng)
            if not any(name in other for name in names):
                told.insert(rng.randint(0, len(told)), other)
        name, index, thing, place = rng.choice(happened)
        kind = rng.randrange(3)
        ask = (
            f"Who {w.PAST[index]} the {thing}?", f"What did {name} {BASE[index]}?", f"Where did {name} {BASE[index]} the {thing}?",
        )[kind]
        text = (f"{name} {w.PAST[index]} the {thing}.",) * 2 + (f"In the {place}.",)
        shown = " ".join(told)
        question = rng.choice((f"{shown}\n\n{ask}", f"{ask}\n\n{shown}", f"Text: {shown}\nQuestion: {ask}", f"{shown} {ask}"))
        case = Case("reading", [user(question), answer(text[kind])], expect=contains((name, thing, place)[kind]))
        return ("reading", name, thing), case

    return until(held, make)
