"""Words and names. Ours, common English, and made-up ones from syllables: an unknown name must be no surprise."""

NAMES = (
    "Anna Ben Carla David Elena Felix Grace Henry Ida Jonas Karin Leo Maria Nils Olga Paul Quinn Rosa Simon Tara Ulrich "
    "Vera Will Xenia Yusuf Zoe Amir Bella Carlos Dina Emil Fatima George Hana Ivan Julia Kofi Lena Marco Nadia Oscar "
    "Priya Ravi Sofia Tom Uma Victor Wanda Yara Zack Alice Bruno Clara Dmitri Eva Frank Gina Hugo Ines Jack Kim Luca "
    "Mina Noah Otto Petra Rita Sam Theo Ursula Vince Wei Yuki Aisha Boris Chen Daria Eli Fiona Greta Hassan Irene Jamal "
    "Kira Lars Mei Nora Omar Pia Ruth Sven Tina Vlad Wilma Alma Bo Celia Dan Erik Flora Gabe Heidi Igor Jill Kurt Lily "
    "Max Nina Owen Pam Rex Sara Tim Uwe Viola Walt Ada Bert Cleo Doris Ed Faye Gus Hope Ian Joy Karl Lucy Mark Nell Olaf "
    "Peter Rose Sid Tess Vito Wendy Mira Tobias Selma Arthur Hilda Martin Edith Robert Laura Oliver Emma"
).split()

SURNAMES = (
    "Baker Miller Stone Wood Hill Rivers Fisher Cook Smith Taylor Weaver Mason Potter Carter Hunter Brown Green White "
    "Black Gray Young King Bishop Field Brook Marsh Lake Snow Frost Winter Summers May Day Bell Wolf Fox Hart Finch Crane "
    "Swan Drake Reed Rush Thorn Berry Ash Elm Oak Birch Lind Berg Holm Strand Dahl Falk Lund Moreau Rossi Silva Costa "
    "Novak Kovac Petrov Tanaka Sato Kim Park Singh Patel Khan Ali Okoye Mensah Diaz Lopez Garcia"
).split()

CITIES = (
    "Oslo Paris Rome Berlin Madrid Lisbon Vienna Prague Warsaw Athens Dublin London Cairo Lagos Nairobi Tokyo Osaka Seoul "
    "Beijing Delhi Mumbai Jakarta Manila Sydney Perth Auckland Toronto Montreal Boston Chicago Denver Dallas Miami Seattle "
    "Houston Lima Bogota Quito Havana Santiago Hamburg Munich Cologne Zurich Geneva Basel Milan Turin Naples Venice "
    "Florence Lyon Nice Porto Seville Bergen Malmo Helsinki Tallinn Riga Vilnius Krakow Budapest Sofia Belgrade Zagreb "
    "Split Istanbul Ankara Dubai Doha Accra Dakar Tunis Rabat Kyoto Hanoi Bangkok Lahore Dhaka Brisbane Hobart Ottawa "
    "Calgary Austin Portland Phoenix Atlanta Bristol Leeds York Oxford Cardiff Glasgow Edinburgh Cork Galway Ghent "
    "Antwerp Utrecht Leiden Bremen Leipzig Dresden Graz Salzburg Brno Gdansk Bilbao Valencia"
).split()

ANIMALS = (
    "cat dog horse cow sheep goat pig hen duck goose rabbit fox wolf bear deer mouse rat bat owl eagle hawk crow robin "
    "sparrow swan seal whale dolphin shark salmon trout frog toad snake lizard turtle ant bee wasp spider beetle moth "
    "butterfly snail crab lobster lion tiger leopard zebra giraffe elephant monkey camel donkey badger otter beaver "
    "squirrel hedgehog penguin parrot"
).split()

FRUITS = "apple pear plum peach cherry grape lemon orange banana melon mango fig kiwi lime apricot papaya".split()
VEGETABLES = "carrot potato onion cabbage leek bean pea beet radish turnip tomato pumpkin spinach celery garlic".split()
COLOURS = "red blue green yellow black white brown gray pink purple orange golden silver violet".split()
THINGS = (
    "table chair lamp book pen pencil cup plate spoon fork knife bottle box bag basket door window mirror clock bed sofa "
    "shelf carpet key lock coin ring hat coat shoe glove scarf umbrella wheel bicycle car boat ship train plane kite ball "
    "drum flute guitar piano violin bell candle lantern rope ladder hammer saw nail brush bucket map letter stamp paper "
    "camera phone radio engine bridge tower wall fence gate garden house barn mill well kettle pan bowl jar blanket pillow "
    "curtain drawer desk button needle thread ticket wallet helmet tent stove"
).split()
PLACES = (
    "kitchen garden forest river lake mountain valley village town harbour beach island field meadow market school "
    "library museum station church castle park street square bakery shop office farm barn mill cave desert hill bridge "
    "tower attic cellar courtyard orchard workshop theatre hospital airport"
).split()
JOBS = (
    "teacher doctor baker farmer fisher painter writer singer dancer driver pilot sailor builder carpenter gardener nurse "
    "lawyer judge clerk cook waiter tailor potter miller smith hunter guard soldier student engineer scientist librarian "
    "musician actor plumber electrician mechanic shepherd"
).split()
HOBBIES = (
    "chess tennis painting swimming reading cooking gardening running singing dancing sailing fishing knitting skiing "
    "cycling hiking drawing climbing baking football pottery photography juggling astronomy rowing"
).split()
ADJECTIVES = (
    "old young small big tall short long narrow wide quiet loud bright dark warm cold soft hard heavy light clean dusty "
    "happy sad calm angry kind brave clever gentle proud honest tired hungry busy lazy lucky strange simple plain rich "
    "poor fresh dry wet smooth rough round flat sharp slow quick early late empty full strong weak"
).split()
VERBS = (
    "sees finds likes carries follows watches paints sells buys opens closes cleans repairs moves hides holds pushes pulls "
    "draws builds brings takes loses wants needs remembers forgets describes washes breaks counts"
).split()
PAST = (
    "saw found liked carried followed watched painted sold bought opened closed cleaned repaired moved hid held pushed "
    "pulled drew built brought took lost wanted needed remembered forgot described washed broke counted"
).split()
ADVERBS = (
    "slowly quickly quietly carefully gladly often never always today again together alone soon later proudly gently "
    "calmly suddenly happily"
).split()
WEATHER = "sunny cloudy rainy windy snowy foggy stormy clear".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

OTHER_WORDS = (
    "answer question number word letter line page story song game rule plan idea dream friend family mother father "
    "brother sister child baby uncle aunt cousin neighbour guest king queen prince princess morning evening night noon "
    "week month year spring summer autumn winter rain snow wind storm cloud sun moon star sky earth water fire stone sand "
    "wood iron gold silver glass bread butter cheese milk honey sugar salt pepper soup cake tea coffee juice dinner lunch "
    "breakfast money price market trade work holiday travel journey road path corner middle begin start stop end wait "
    "listen speak write read think know learn teach help give send keep turn walk run jump climb swim sleep wake laugh cry "
    "smile thank believe hope promise choose change follow arrive leave return between under above behind before after "
    "strawberry chocolate computer keyboard science language country history weather distance picture mountain electric "
    "important different possible beautiful wonderful dangerous yesterday tomorrow together umbrella elephant hospital "
    "butterfly adventure apartment calendar daughter exercise festival hundred internet jewel kingdom machine necklace "
    "october package quarter rainbow sandwich telephone universe vacation whistle yellow zipper balance captain diamond "
    "balloon cabbage pepper summer rabbit coffee kettle puzzle dinner letter little middle mirror narrow pillow"
).split()

COMMON = sorted(
    set(
        ANIMALS + FRUITS + VEGETABLES + COLOURS + THINGS + PLACES + JOBS + HOBBIES + ADJECTIVES + OTHER_WORDS + VERBS
        + PAST + ADVERBS
    )
)

ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t tr v w y z".split()
VOWELS = "a e i o u ai ea ee io oa".split()
CODAS = ["", "", "", "l", "n", "r", "s", "t", "x", "m", "k", "nd", "rn", "st"]
LOWER = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"


def made_up(rng, syllables=None):
    count = syllables or rng.choice([1, 2, 2, 2, 3])
    choice = rng.choice
    return "".join(choice(ONSETS) + choice(VOWELS) + choice(CODAS) for _ in range(count))


def name(rng):
    return rng.choice(NAMES) if rng.random() < 0.5 else made_up(rng, rng.choice([2, 2, 3])).capitalize()


def full_name(rng):
    last = rng.choice(SURNAMES) if rng.random() < 0.6 else made_up(rng, 2).capitalize()
    return f"{name(rng)} {last}"


def city(rng):
    return rng.choice(CITIES) if rng.random() < 0.6 else made_up(rng, rng.choice([2, 2, 3])).capitalize()


def word(rng):
    return rng.choice(COMMON) if rng.random() < 0.75 else made_up(rng)


def code(rng):
    """Codes, keys, plates: what must be copied letter by letter."""
    kind = rng.randrange(5)
    if kind == 0:
        return "".join(rng.choices(DIGITS, k=rng.randint(3, 8)))
    if kind == 1:
        return "".join(rng.choices(LOWER.upper(), k=rng.randint(2, 4))) + "-" + "".join(
            rng.choices(DIGITS, k=rng.randint(2, 5))
        )
    if kind == 2:
        return "".join(rng.choices(LOWER + DIGITS, k=rng.randint(4, 10)))
    if kind == 3:
        return f"{word(rng)}-{word(rng)}"
    return word(rng)


def is_are(count):
    return "is" if count == 1 else "are"


def an(noun):
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun):
    irregular = {
        "mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer", "wolf": "wolves", "shelf": "shelves",
        "knife": "knives", "salmon": "salmon", "trout": "trout", "child": "children", "scarf": "scarves",
    }
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def listed(items):
    """a, b and c"""
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
