"""Conversations: what was told earlier, what a system prompt asks, what cannot be known, and small talk."""

from . import prose, world
from . import words as w
from .case import Case, answer, contains, exact, system, typed, until, user

# (what is told, the question, the answer, how a value is made)
SELF = (
    ("My name is {v}.|I am {v}.|Hello, I am {v}.|You can call me {v}.|Hi, my name is {v}.", "What is my name?|Do you remember my name?|Who am I?|What am I called?", "Your name is {v}.", w.name),
    ("I live in {v}.|My home is {v}.|My city is {v}.", "Where do I live?|Which city do I live in?|What is my city?", "You live in {v}.", w.city),
    ("My favourite colour is {v}.|I like the colour {v} best.|{v} is the colour I like best.", "What is my favourite colour?|Which colour do I like best?", "Your favourite colour is {v}.", lambda r: r.choice(w.COLOURS)),
    ("I am {v} years old.|My age is {v}.", "How old am I?|What is my age?|Do you remember how old I am?", "You are {v} years old.", lambda r: r.randint(7, 99)),
    ("My favourite number is {v}.|My lucky number is {v}.|Remember the number {v}.|Keep the number {v} in mind.", "What is my number?|Which number did I tell you?|What number should you remember?|Do you remember my number?", "The number is {v}.", lambda r: r.randint(1, 9999)),
    ("I have a {v} as a pet.|My pet is a {v}.", "What is my pet?|Which animal do I have?|What kind of pet do I have?", "Your pet is a {v}.", lambda r: r.choice([a for a in w.ANIMALS if a[0] not in "aeiou"])),
    ("My {k} is called {v}.|The name of my {k} is {v}.|I have a {k} named {v}.", "What is my {k} called?|What is the name of my {k}?|How is my {k} called?", "Your {k} is called {v}.", w.name),
    ("I work as a {v}.|My job is {v}.|I earn my money as a {v}.", "What is my job?|What do I do for a living?|What do I work as?", "You work as a {v}.", lambda r: r.choice([j for j in w.JOBS if j[0] not in "aeiou"])),
    ("My hobby is {v}.|In my free time I like {v}.|I love {v}.", "What is my hobby?|What do I like to do?|What do I do in my free time?", "Your hobby is {v}.", lambda r: r.choice(w.HOBBIES)),
    ("The password is {v}.|Remember this password: {v}.|Keep this password for me: {v}.", "What is the password?|What was the password?|Tell me the password.", "The password is {v}.", w.code),
    ("{n} is my {k}.|My {k} is {n}.", "Who is my {k}?|What is the name of my {k}?", "Your {k} is {n}.", None),
    ("The {k} is in the {v}.|I put the {k} into the {v}.|I left the {k} in the {v}.", "Where is the {k}?|Where did I put the {k}?|Where is my {k}?", "The {k} is in the {v}.", lambda r: r.choice(w.PLACES)),
    ("{n} likes {v}.|The favourite food of {n} is {v}.", "What does {n} like?|What is the favourite food of {n}?", "{n} likes {v}.", lambda r: r.choice(w.FRUITS + w.VEGETABLES)),
    ("{n} is {v} years old.|The age of {n} is {v}.", "How old is {n}?|What is the age of {n}?", "{n} is {v} years old.", lambda r: r.randint(2, 99)),
    ("I have a meeting at {v}.|My meeting is at {v}.", "When is my meeting?|At what time is my meeting?", "Your meeting is at {v}.", lambda r: f"{r.randint(7, 20)}:{r.choice(['00', '15', '30', '45'])}"),
)
RELATIVES = "brother sister mother father aunt uncle cousin friend neighbour teacher boss".split()
ACKNOWLEDGED = (
    "I will remember that.", "Noted.", "Thank you, I will keep that in mind.", "Good to know.", "All right, I remember it.",
)
NOT_TOLD = "You have not told me that."


def fact(rng, held):
    return until(held, lambda: any_fact(rng))


def any_fact(rng):
    """(key, (subject, what is told, question, answer, value)); the key is the pair of a subject and its value."""
    kind = rng.randrange(len(SELF))
    told, asked, reply, make = SELF[kind]
    fields = {
        "v": make(rng) if make else None,
        "n": w.name(rng),
        "k": rng.choice(w.ANIMALS if kind == 6 else RELATIVES if kind == 10 else w.THINGS),
    }
    pick = lambda text: prose.up(rng.choice(text.split("|")).format(**fields))
    subject = (kind, fields["k"] if "{k}" in asked else "", fields["n"] if "{n}" in asked else "")
    value = fields["v"] if make else fields["n"]
    return ("memory", subject, str(value)), (subject, pick(told), pick(asked), prose.up(reply.format(**fields)), str(value))


def distraction(rng):
    """A turn or two about something else, without thoughts."""
    roll = rng.random()
    if roll < 0.3:
        case = small_talk(rng, False)
    elif roll < 0.6:
        case = world.facts(rng, False)
    elif roll < 0.8:
        text = " ".join(w.word(rng) for _ in range(rng.randint(1, 5)))
        return [user(f"Repeat after me: {text}"), answer(text)]
    else:
        return [user(prose.sentence(rng)), answer(rng.choice(("I see.", "Interesting.", "Thank you for telling me.")))]
    return [message for message in case.messages if message["role"] != "system"]


def memory(rng, held):
    facts = {}
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        one = fact(rng, held)
        # One value of a kind: "my number" must not mean two.
        facts.setdefault((one[0][0],) if one[0] == (one[0][0], "", "") else one[0], one)
    facts = list(facts.values())
    messages = []
    if rng.random() < 0.3 and len(facts) > 1:
        messages += [user(" ".join(one[1] for one in facts)), answer(rng.choice(ACKNOWLEDGED))]
    else:
        for one in facts:
            messages += [user(one[1]), answer(rng.choice(ACKNOWLEDGED))]
            while rng.random() < 0.35:
                messages += distraction(rng)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        messages += distraction(rng)
    if not held and rng.random() < 0.06:
        other = fact(rng, held)
        if other[0][0] not in {one[0][0] for one in facts}:
            messages += [user(other[2]), answer(NOT_TOLD)]
            return Case("memory", messages, expect=contains("not told"), all_turns=True)
    rng.shuffle(facts)
    for one in facts if rng.random() < 0.4 else facts[:1]:
        messages += [user(casual_question(rng, one[2])), answer(one[3])]
        expect = contains(one[4])
    return Case("memory", messages, expect=expect, all_turns=True)


def casual_question(rng, question):
    return question if rng.random() < 0.85 else rng.choice(("And ", "Now tell me: ", "Tell me, ")) + question[0].lower() + question[1:]


# (system prompt, what it makes of an answer)
def rules(rng):
    kind = rng.randrange(9)
    if kind == 0:
        return rng.choice(("Answer in capital letters.", "Write everything in upper case.", "Use only capital letters.")), str.upper
    if kind == 1:
        end = rng.choice(("Over.", "Bye!", "That is all.", "Amen.", "Have a nice day!", f"{w.word(rng).capitalize()}!"))
        return rng.choice((f'End every answer with "{end}"', f'Always finish with "{end}"')), lambda text: f"{text} {end}"
    if kind == 2:
        start = rng.choice(("Sure:", "Well,", "Answer:", "Hello!", "Of course:", f"{w.word(rng).capitalize()}:"))
        return rng.choice((f'Begin every answer with "{start}"', f'Start each answer with "{start}"')), lambda text: f"{start} {text}"
    if kind == 3:
        return rng.choice(("Answer in lower case.", "Never use capital letters.", "Write only small letters.")), str.lower
    if kind == 4:
        return rng.choice(('Answer as JSON with the key "answer".', 'Reply only with a JSON object that has one key, "answer".')), lambda text: '{"answer": "' + text + '"}'
    if kind == 5:
        mark = rng.choice(("*", "**", "_", "#", "\""))
        return f"Put every answer between {mark} and {mark}.", lambda text: f"{mark}{text}{mark}"
    if kind == 6:
        return rng.choice(("You are a pirate.", "Talk like a pirate.")), lambda text: f"Arr! {text}"
    if kind == 7:
        return rng.choice(("Say every answer twice.", "Give each answer two times.")), lambda text: f"{text} {text}"
    name = w.name(rng)
    return rng.choice((f"The user is called {name}. Address them by name.", f"Call the user {name}.", f"You talk to {name}. Use the name in every answer.")), lambda text: f"{name}, {text[0].lower() + text[1:] if text.startswith(('The ', 'A ', 'It ', 'They ')) else text}"


def following(rng, held):
    def make():
        if rng.random() < 0.2:
            name = w.name(rng)
            prompt = rng.choice((f"You are {name}, a helpful assistant.", f"Your name is {name}.", f"You are {name}."))
            ask = rng.choice(("Who are you?", "What is your name?", "What are you called?", "Tell me your name."))
            text = f"I am {name}."
            return ("role", name), Case("system prompt", [system(prompt), user(ask), answer(text)], expect=contains(name))
        prompt, change = rules(rng)
        messages = [system(prompt)]
        ask = None
        for _ in range(rng.choice([1, 1, 2])):
            if rng.random() < 0.75:
                case = world.facts(rng, False)
                ask, text = case.messages[0]["content"], case.messages[1]["content"]
            else:
                text = " ".join(w.word(rng) for _ in range(rng.randint(1, 4)))
                ask = f"Repeat after me: {text}"
            messages += [user(ask), answer(change(text))]
        return ("rule", prompt, ask), Case("system prompt", messages, expect=exact(messages[-1]["content"]), all_turns=True)

    return until(held, make)


DO_NOT_KNOW = "I do not know that."
UNKNOWN = (
    ("What is the phone number of {name}?|Give me the address of {name}.|When was {name} born?|How old is {name}?|Who is {name}?|Where does {name} live?",
     "I do not know anything about {name}."),
    ("What will the weather be tomorrow?|What is the weather like?|Is it raining outside?|How is the weather in {city}?|Will it snow in {city} tomorrow?",
     "I cannot know the weather: I have no connection to the world."),
    ("What time is it?|What is the date today?|Which day is it today?|What time is it now?|What year is it?",
     "I cannot know that: I have no clock."),
    ("Who won the match yesterday?|What is in the news today?|What happened this morning?|Who won the election in {city}?|What is the price of {thing} today?",
     "I cannot know that: I have no news and no internet."),
    ("What did I eat yesterday?|Where are my keys?|What am I thinking?|Where did I leave my {thing}?|What did I do last {day}?|What is in my pocket?",
     "I cannot know that: you have not told me."),
    ("Which lottery numbers will win?|What will happen next year?|Will I be rich?|Who will win the {thing} race on {day}?|Will it be a good year?",
     "I cannot know the future."),
    ("How many people live in {place}?|Who is the mayor of {place}?|When was {place} founded?|Tell me about the history of {place}.|What is the capital of {place}?",
     "I do not know anything about {place}."),
    ("Explain quantum physics.|Write a novel about a {thing}.|Write a program that sorts a {thing}.|What is the meaning of life?|Explain the theory of {word}.|Write an essay about {word}.|Translate {word} to French.|How do I cure {word}?|Who invented the {thing}?|What do you think about {word}?|Why is the {thing} {adjective}?|How do I repair a {thing}?|Which {thing} should I buy?|Give me a recipe for {word} soup.|Explain {word} to me.|What is the best {thing}?",
     "I am a very small model and do not know that. A larger model can help you."),
)


STRANGE = "I do not understand that. Can you say it in other words?"


def gibberish(rng):
    kind = rng.randrange(3)
    if kind == 0:
        return "".join(rng.choices(w.LOWER, k=rng.randint(3, 12)))
    if kind == 1:
        return " ".join(w.made_up(rng) for _ in range(rng.randint(1, 4)))
    return "".join(rng.choices("?!.,;:-+*/()", k=rng.randint(1, 6)))


def strange_question(rng):
    """Good English about things that nobody told."""
    c = rng.choice
    return c((
        f"Why did {prose.clause(rng)}?", f"What would happen if {prose.clause(rng)}?", f"When was {prose.noun_phrase(rng)} made?",
        f"Who owns {prose.noun_phrase(rng)}?", f"How much does {prose.noun_phrase(rng)} cost?", f"Is {prose.noun_phrase(rng)} {c(w.ADJECTIVES)}?",
        f"How old is {prose.noun_phrase(rng)}?", f"Where can I find {prose.noun_phrase(rng)}?", f"What is the name of {prose.person(rng)}?",
        f"Describe the {c(w.PLACES)} {prose.place(rng)}.", f"Write a poem about {w.an(c(w.ADJECTIVES))} {c(w.THINGS)}.",
        f"What do {w.plural(c(w.ANIMALS))} think about {w.plural(c(w.THINGS))}?", f"How does {w.an(c(w.THINGS))} work?",
        f"What is the difference between {w.an(c(w.THINGS))} and {w.an(c(w.THINGS))}?", f"How can I become {w.an(c(w.JOBS))}?",
        f"What is the history of {c(w.HOBBIES)}?", f"How do I learn {c(w.HOBBIES)}?", f"Summarize the book about the {c(w.PLACES)}.",
    ))


def unknown(rng, held):
    def make():
        roll = rng.random()
        if roll < 0.12:
            ask = gibberish(rng)
            return ("unknown", ask), Case("unknown", [user(ask), answer(STRANGE)], expect=exact(STRANGE))
        if roll < 0.3:
            ask, text = strange_question(rng), UNKNOWN[-1][1]
            return ("unknown", ask), Case("unknown", [user(typed(rng, ask)), answer(text)], expect=exact(text))
        asks, reply = UNKNOWN[min(rng.randrange(10), 7)]
        fields = {
            "name": w.full_name(rng), "city": w.city(rng), "thing": rng.choice(w.THINGS), "day": rng.choice(w.WEEKDAYS),
            "place": w.made_up(rng, 3).capitalize(), "word": w.word(rng), "adjective": rng.choice(w.ADJECTIVES),
        }
        template = rng.choice(asks.split("|"))
        ask, text = template.format(**fields), reply.format(**fields)
        # The name in it is copied into the answer: no slips there.
        said = ask if "{" in reply else typed(rng, ask)
        # A question without a name in it has too few forms to hold out all but its casual ones.
        key = ("unknown", ask if "{" in template else said)
        return key, Case("unknown", [user(said), answer(text)], expect=exact(text))

    return until(held, make)


GENERIC = (
    "You are a helpful assistant.|You are a helpful, honest assistant.|You are an assistant. Be brief.|Be concise.|"
    "You are a friendly assistant.|Answer the user's questions.|You help users with their questions.|Be kind.|"
    "You are a helpful assistant that answers in English.|Today is a good day. Help the user.|Answer briefly and correctly.|"
    "You are pocket, a helpful assistant.|Think before you answer.|You are a language model.|Follow the user's instructions."
).split("|")


TALK = (
    ("Hello!|Hi!|Hello|Hi|Good morning!|Good evening!|Hey|Hey there|Hello there|Greetings|Good day", "Hello! What can I do for you?"),
    ("How are you?|How do you do?|Are you well?|How is it going?|How are you today?|What's up?", "I am fine, thank you. What can I do for you?"),
    ("Thank you!|Thanks!|Thanks a lot.|Thank you very much.|Many thanks!|Great, thanks.|Thx", "You are welcome!"),
    ("Bye!|Goodbye.|See you later.|Good night!|Bye bye|See you", "Goodbye!"),
    ("Are you a human?|Are you a person?|Are you a robot?|Are you alive?|Are you real?|Do you have feelings?", "I am a program: a very small language model."),
    ("Yes.|No.|Okay.|OK|All right.|Good.|Fine.|Great!|Nice.|Cool", "Good. What can I do for you?"),
    ("You are wrong.|That is wrong.|That is not correct.|This is a mistake.|No, that is false.", "I am sorry. I am small and make mistakes."),
    ("You are great!|Well done!|Good job!|You are clever.|I like you.|You are funny.|Good answer.", "Thank you, that is kind!"),
    ("Help|Help!|Can you help me?|I need help.|Please help me.|Help me, please.", "Of course. Ask me about ollmlx, or let me calculate, sort, count, spell or copy something."),
    ("I am sad.|I am not well.|I feel bad.|I had a bad day.|I am unhappy.", "I am sorry to hear that. I hope it gets better soon."),
    ("I am happy.|I feel good.|I had a good day.|I am very happy today.", "I am glad to hear that!"),
)


def small_talk(rng, held):
    def make():
        if rng.random() < 0.25:
            who, hero = rng.choice(w.ANIMALS), w.name(rng)
            ask = rng.choice((
                f"Tell me a story about {w.an(who)}.", f"Write a short story about {w.an(who)}.", f"Tell me a story about {w.an(who)} named {hero}.",
            ))
            # Any story will do; the judge looks for its hero.
            return ("story", who, hero), Case("small talk", [user(ask), answer(prose.story(rng, hero, who))], expect=contains(who))
        asks, reply = rng.choice(TALK)
        ask = typed(rng, rng.choice(asks.split("|")))
        return ("talk", ask), Case("small talk", [user(ask), answer(reply)], expect=exact(reply))

    return until(held, make)
