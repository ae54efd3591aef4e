"""A small world: facts that everybody knows, asked in many ways. Held out are wordings, not facts."""

from . import words as w
from .case import Case, answer, casual, contains, typed, until, user

CAPITALS = dict(
    pair.split(":") for pair in (
        "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Poland:Warsaw Greece:Athens "
        "Ireland:Dublin England:London Egypt:Cairo Kenya:Nairobi Japan:Tokyo China:Beijing Norway:Oslo Sweden:Stockholm "
        "Denmark:Copenhagen Finland:Helsinki Iceland:Reykjavik Estonia:Tallinn Latvia:Riga Lithuania:Vilnius Hungary:Budapest "
        "Bulgaria:Sofia Romania:Bucharest Serbia:Belgrade Croatia:Zagreb Turkey:Ankara Russia:Moscow Ukraine:Kyiv "
        "Canada:Ottawa Peru:Lima Colombia:Bogota Ecuador:Quito Cuba:Havana Chile:Santiago Ghana:Accra Senegal:Dakar "
        "Tunisia:Tunis Morocco:Rabat Vietnam:Hanoi Thailand:Bangkok Indonesia:Jakarta Belgium:Brussels Switzerland:Bern "
        "Australia:Canberra Jamaica:Kingston Iran:Tehran Iraq:Baghdad Nepal:Kathmandu Bangladesh:Dhaka Qatar:Doha"
    ).split()
)
SOUNDS = dict(pair.split(":") for pair in "dog:barks cat:meows cow:moos horse:neighs sheep:bleats pig:grunts duck:quacks lion:roars wolf:howls bee:buzzes frog:croaks snake:hisses".split())
LEGS = {2: "hen duck goose owl eagle swan penguin parrot", 4: "cat dog horse cow sheep pig fox wolf bear mouse frog lion elephant", 6: "ant bee beetle butterfly", 8: "spider", 0: "snake shark salmon"}
YOUNG = dict(pair.split(":") for pair in "cat:kitten dog:puppy cow:calf sheep:lamb horse:foal goat:kid pig:piglet duck:duckling bear:cub lion:cub swan:cygnet".split())
OPPOSITES = [pair.split(":") for pair in "big:small tall:short long:short hot:cold fast:slow old:young happy:sad light:dark hard:soft wet:dry full:empty rich:poor strong:weak early:late up:down left:right day:night open:closed clean:dirty loud:quiet wide:narrow high:low good:bad true:false first:last near:far heavy:light sweet:sour smooth:rough thick:thin".split()]
OPPOSITES = [pair for pair in OPPOSITES if pair != ["long", "short"] and pair != ["heavy", "light"]]
COLOUR_OF = dict(pair.split(":") for pair in "grass:green snow:white coal:black blood:red milk:white lemons:yellow bananas:yellow chocolate:brown carrots:orange ravens:black tomatoes:red frogs:green".split())
MADE = dict(pair.split(":") for pair in "bread:flour cheese:milk butter:milk wine:grapes glass:sand paper:wood honey:nectar chocolate:cocoa".split())
WORKS = {"teacher": "teaches", "baker": "bakes bread", "farmer": "grows food", "pilot": "flies planes", "sailor": "sails ships", "doctor": "treats sick people", "cook": "prepares meals", "painter": "paints", "singer": "sings", "writer": "writes books", "gardener": "looks after gardens", "driver": "drives", "carpenter": "works with wood", "fisher": "catches fish", "tailor": "sews clothes"}
MANY = (
    ("days", "a week", 7), ("months", "a year", 12), ("hours", "a day", 24), ("minutes", "an hour", 60), ("seconds", "a minute", 60),
    ("letters", "the English alphabet", 26), ("sides", "a triangle", 3), ("sides", "a square", 4), ("wheels", "a bicycle", 2),
    ("planets", "the solar system", 8), ("seasons", "a year", 4), ("weeks", "a year", 52), ("strings", "a violin", 4), ("continents", "the world", 7),
)
SINGLE = (
    ("the largest planet", "Jupiter"), ("the smallest planet", "Mercury"), ("the planet closest to the sun", "Mercury"),
    ("the largest ocean", "the Pacific Ocean"), ("the highest mountain", "Mount Everest"), ("the largest animal", "the blue whale"),
    ("the tallest animal", "the giraffe"), ("the fastest land animal", "the cheetah"), ("the largest bird", "the ostrich"),
    ("the red planet", "Mars"), ("the star closest to the earth", "the sun"), ("the first month of the year", "January"),
    ("the last month of the year", "December"), ("the shortest month", "February"), ("the first day of the week", "Monday"),
    ("the largest country", "Russia"), ("the largest desert of sand", "the Sahara"), ("the coldest continent", "Antarctica"),
    ("the first letter of the alphabet", "A"), ("the last letter of the alphabet", "Z"), ("the smallest prime number", "2"),
    ("the square root of 81", "9"), ("the symbol of gold", "Au"), ("the symbol of iron", "Fe"), ("the symbol of oxygen", "O"),
    ("the formula of water", "H2O"), ("the boiling point of water", "100 degrees Celsius"), ("the freezing point of water", "0 degrees Celsius"),
)


def capital_facts():
    for land, city in CAPITALS.items():
        yield ("capital", land), (
            f"What is the capital of {land}?|Name the capital of {land}.|Which city is the capital of {land}?|{land}'s capital?|"
            f"Capital of {land}?|Tell me the capital of {land}.|Do you know the capital of {land}?|What is {land}'s capital city?|"
            f"I would like to know the capital of {land}.|The capital of {land} is which city?"
        ), f"The capital of {land} is {city}.", city
        yield ("land", city), (
            f"{city} is the capital of which country?|Which country has the capital {city}?|Of which country is {city} the capital?|"
            f"What country is {city} the capital of?"
        ), f"{city} is the capital of {land}.", land


def animal_facts():
    for animal, sound in SOUNDS.items():
        yield ("sound", animal), f"What sound does {w.an(animal)} make?|Which sound does a {animal} make?|What does a {animal} do when it is loud?|What noise does the {animal} make?|How does a {animal} sound?", f"A {animal} {sound}.", sound
        yield ("who", sound), f"Which animal {sound}?|What animal {sound}?|Name an animal that {sound}.|Who {sound}?", f"A {animal} {sound}.", animal
    for legs, animals in LEGS.items():
        for animal in animals.split():
            yield ("legs", animal), f"How many legs does {w.an(animal)} have?|How many legs has {w.an(animal)}?|Number of legs of {w.an(animal)}?|Tell me how many legs {w.an(animal)} has.|{w.an(animal).capitalize()} has how many legs?", f"{w.an(animal).capitalize()} has {legs or 'no'} legs.", str(legs or "no")
    for animal, young in YOUNG.items():
        yield ("young", animal), f"What is a young {animal} called?|What do you call a baby {animal}?|How is a young {animal} called?|Name of a baby {animal}?|What is the young of a {animal}?", f"A young {animal} is called a {young}.", young


def word_facts():
    for one, other in OPPOSITES:
        for a, b in ((one, other), (other, one)):
            yield ("opposite", a), f"What is the opposite of {a}?|Opposite of {a}?|Name the opposite of {a}.|Give me the opposite of \"{a}\".|What word means the opposite of {a}?|Which word is the opposite of {a}?", f"The opposite of {a} is {b}.", b
    for thing, colour in COLOUR_OF.items():
        be = "are" if thing.endswith("s") and thing != "grass" else "is"
        yield ("colour", thing), f"What colour {be} {thing}?|Which colour {'have' if be == 'are' else 'has'} {thing}?|Tell me the colour of {thing}.|What is the colour of {thing}?|Colour of {thing}?", f"{thing.capitalize()} {be} {colour}.", colour
    for thing, source in MADE.items():
        yield ("made", thing), f"What is {thing} made from?|From what is {thing} made?|What do you make {thing} from?|What do you need to make {thing}?", f"{thing.capitalize()} is made from {source}.", source
    for job, work in WORKS.items():
        yield ("job", job), f"What does {w.an(job)} do?|What is the work of {w.an(job)}?|Tell me what {w.an(job)} does.|What is {w.an(job)}?|What do you know about the work of {w.an(job)}?", f"{w.an(job).capitalize()} {work}.", work
    for noun in w.ANIMALS + w.THINGS:
        yield ("plural", noun), f"What is the plural of {noun}?|Plural of {noun}?|Give me the plural of {noun}.|How do you write more than one {noun}?|One {noun}, two ...?", f"The plural of {noun} is {w.plural(noun)}.", w.plural(noun)


def number_facts():
    for what, where, count in MANY:
        yield ("many", what, where), f"How many {what} are in {where}?|How many {what} does {where} have?|How many {what} are there in {where}?|Number of {what} in {where}?|{where.capitalize()} has how many {what}?|Tell me how many {what} {where} has.", f"{where[0].upper() + where[1:]} has {count} {what}.", str(count)
    for what, which in SINGLE:
        yield ("single", what), f"What is {what}?|Which is {what}?|Name {what}.|Tell me {what}.|Do you know {what}?|Can you tell me what {what} is?|{what.capitalize()}?|I want to know {what}.", f"{what[0].upper() + what[1:]} is {which}.", which
    for kind, members in (("animal", w.ANIMALS), ("fruit", w.FRUITS), ("vegetable", w.VEGETABLES), ("colour", [c for c in w.COLOURS if c != "orange"]), ("month", w.MONTHS), ("weekday", w.WEEKDAYS), ("number", [])):
        for member in members:
            yield ("kind", member), f"Is {member} an animal, a fruit, a vegetable or something else?|What kind of thing is {member}?|What is {w.an(member)}?" if kind in ("animal", "fruit", "vegetable") and member not in ("orange",) else f"What kind of thing is {member}?|What kind of word is {member}?|What is {member}?", f"{member.capitalize()} is {w.an(kind)}.", f"is {w.an(kind)}"


FACTS = [(key, asks.split("|"), text, value) for group in (capital_facts, animal_facts, word_facts, number_facts) for key, asks, text, value in group()]
# Plurals and kinds are many and alike: half the questions are about the others.
RARE = [fact for fact in FACTS if fact[0][0] not in ("plural", "kind")]


def facts(rng, held):
    def make():
        key, asks, text, value = rng.choice(RARE if rng.random() < 0.8 else FACTS)
        ask = rng.choice(asks)
        # Wordings are held out; each fact is known by its others.
        return ("world", ask), Case("world", [user(typed(rng, ask)), answer(text)], expect=contains(value))

    return until(held, make)


def several(rng, held):
    """Name some of a kind."""

    def make():
        kind, members = rng.choice((("animals", w.ANIMALS), ("fruits", w.FRUITS), ("vegetables", w.VEGETABLES), ("colours", w.COLOURS), ("weekdays", w.WEEKDAYS), ("months", w.MONTHS), ("jobs", w.JOBS)))
        count = rng.randint(2, 7)
        number = rng.choice((str(count), "two three four five six seven".split()[count - 2]))
        ask = rng.choice((f"Name {number} {kind}.", f"Give me {number} {kind}.", f"List {number} {kind}.", f"Tell me {number} {kind}."))
        chosen = members[:count] if kind in ("weekdays", "months") else members[:count]
        wrap = casual(rng, ask)
        return ("several", wrap), Case("world", [user(wrap), answer(w.listed(chosen).capitalize() + "." if kind not in ("weekdays", "months") else w.listed(chosen) + ".")], expect=contains(*chosen))

    return until(held, make)
