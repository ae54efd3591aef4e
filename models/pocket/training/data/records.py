"""JSON extraction: a text about something, a schema, and the object that follows from both."""

from . import prose
from . import words as w
from .case import Case, answer, as_json, dump, system, until, user


def money(rng):
    return rng.choice([rng.randint(1, 900), round(rng.uniform(1, 99), 2), round(rng.uniform(1, 99), 1)])


def email(rng):
    return f"{w.made_up(rng)}{rng.choice(['', '.', '_'])}{rng.choice([w.made_up(rng), str(rng.randint(1, 99))])}@{w.made_up(rng, 2)}.{rng.choice(['com', 'org', 'net', 'example'])}"


def date(rng):
    return f"{rng.randint(1950, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def phone(rng):
    return "-".join("".join(rng.choices(w.DIGITS, k=k)) for k in (3, 4))


# A field: names a schema may give it, its type, how a value is made, how a text tells it ({s} is the subject).
FIELDS = {
    "person": (
        (("name", "full_name", "person"), "string", w.full_name, None),
        (("age", "years", "age_years"), "integer", lambda r: r.randint(5, 99),
         ("{s} is {v} years old.", "{s} is {v}.", "The age of {s} is {v}.")),
        (("city", "home", "town", "location"), "string", w.city,
         ("{s} lives in {v}.", "{s} comes from {v}.", "The home of {s} is {v}.")),
        (("job", "occupation", "profession"), "string", lambda r: r.choice(w.JOBS),
         ("{s} works as a {v}.", "{s} is a {v}.", "{s} earns money as a {v}.")),
        (("email", "mail", "email_address"), "string", email,
         ("Write to {v}.", "The address {v} reaches {s}.", "{s} uses {v}.")),
        (("phone", "phone_number", "telephone"), "string", phone,
         ("Call {v}.", "{s} can be called at {v}.", "The phone number is {v}.")),
        (("hobby", "likes", "interest"), "string", lambda r: r.choice(w.HOBBIES),
         ("{s} likes {v}.", "In the evening {s} enjoys {v}.", "The hobby of {s} is {v}.")),
        (("member", "is_member"), "boolean", lambda r: r.random() < 0.5,
         (("{s} is a member.", "{s} is not a member."), ("{s} has joined the club.", "{s} has not joined the club."))),
        (("birthday", "birth_date", "born"), "string", date, ("{s} was born on {v}.", "The birthday of {s} is {v}.")),
        (("children", "number_of_children"), "integer", lambda r: r.randint(1, 6),
         ("{s} has {v} children.", "There are {v} children in the family of {s}.")),
    ),
    "order": (
        (("order", "order_id", "id", "number"), "string", w.code, ("The order number is {v}.", "Order {v} was placed.", "It is order {v}.")),
        (("product", "item", "article"), "string", lambda r: r.choice(w.THINGS), ("The product is a {v}.", "Somebody ordered a {v}.", "It is about a {v}.")),
        (("quantity", "count", "amount"), "integer", lambda r: r.randint(1, 60), ("The quantity is {v}.", "{v} pieces are wanted.", "They need {v} of them.")),
        (("price", "cost", "total"), "number", money, ("The price is {v} euros.", "It costs {v} dollars.", "The total is {v}.")),
        (("colour", "color"), "string", lambda r: r.choice(w.COLOURS), ("The colour is {v}.", "It should be {v}.", "It comes in {v}.")),
        (("customer", "buyer", "client"), "string", w.full_name, ("The customer is {v}.", "{v} ordered it.", "It goes to {v}.")),
        (("paid", "is_paid"), "boolean", lambda r: r.random() < 0.5, (("It is paid.", "It is not paid."), ("The bill was paid.", "The bill was not paid."))),
        (("date", "order_date", "day"), "string", date, ("The date is {v}.", "It was ordered on {v}.")),
        (("city", "destination", "ship_to"), "string", w.city, ("It is sent to {v}.", "The parcel goes to {v}.")),
    ),
    "event": (
        (("title", "event", "name"), "string", lambda r: f"{w.made_up(r).capitalize()} {r.choice(['Festival', 'Meeting', 'Concert', 'Fair', 'Race', 'Party', 'Workshop'])}",
         ("The {v} takes place.", "We invite you to the {v}.", "Come to the {v}!")),
        (("place", "venue", "where"), "string", lambda r: r.choice(w.PLACES), ("It is in the {v}.", "Meet us at the {v}.", "The place is the {v}.")),
        (("day", "weekday"), "string", lambda r: r.choice(w.WEEKDAYS), ("It is on {v}.", "The day is {v}.", "We meet on {v}.")),
        (("time", "start", "start_time"), "string", lambda r: f"{r.randint(6, 23):02}:{r.choice(['00', '15', '30', '45'])}", ("It starts at {v}.", "We begin at {v}.", "The time is {v}.")),
        (("guests", "visitors", "attendees"), "integer", lambda r: r.randint(2, 500), ("{v} guests are expected.", "There are {v} visitors.", "{v} people will come.")),
        (("host", "organizer", "speaker"), "string", w.full_name, ("The host is {v}.", "{v} has planned it.", "Ask {v} about it.")),
        (("fee", "ticket_price", "price"), "number", money, ("A ticket costs {v} euros.", "The fee is {v}.", "You pay {v} at the door.")),
        (("outdoors", "outside"), "boolean", lambda r: r.random() < 0.5, (("It is outdoors.", "It is not outdoors."), ("We are outside.", "We are not outside."))),
        (("tags", "topics", "keywords"), "array", lambda r: r.sample(w.HOBBIES, r.randint(1, 3)), ("The topics are {v}.", "It is about {v}.", "Tags: {v}.")),
    ),
}

ASK = (
    "Extract {keys} as JSON.|Return a JSON object with the keys {keys}.|Give me JSON with {keys}.|"
    "Turn this into JSON with the fields {keys}.|Extract the following fields as JSON: {keys}.|JSON with {keys}, please."
).split("|")
ASK_SCHEMA = (
    "Extract the data as JSON that follows this schema: {schema}|Answer with JSON for this schema:\n{schema}|"
    "Fill this JSON schema from the text: {schema}|Schema: {schema}\nReturn the JSON object."
).split("|")


def told(rng, field, value, subject):
    """One sentence that tells a field, or none for a name that is the subject anyway."""
    ways = rng.choice(field[3])
    if field[1] == "boolean":
        return ways[0 if value else 1].format(s=subject)
    shown = w.listed(value) if isinstance(value, list) else value
    return ways.format(s=subject, v=shown)


def record(rng):
    kind = rng.choice(list(FIELDS))
    fields = FIELDS[kind]
    count = rng.randint(2, min(6, len(fields)))
    chosen = rng.sample(fields, count)
    if kind == "person" and fields[0] not in chosen:
        chosen[0] = fields[0]
    values = [(rng.choice(field[0]), field, field[2](rng)) for field in chosen]
    # A field's names may meet in two fields: "name", "price".
    return kind, list({key: (key, field, value) for key, field, value in values}.values())


def text_of(rng, kind, values):
    subject = "It"
    sentences = []
    if kind == "person":
        subject = next(value for key, field, value in values if field is FIELDS["person"][0])
        short = subject.split()[0]
        sentences = [rng.choice(("{} is a neighbour.", "This is about {}.", "Meet {}.", "I met {} yesterday.")).format(subject)]
        subject = short
    others = [told(rng, field, value, subject) for key, field, value in values if field[3]]
    rng.shuffle(others)
    sentences += others
    while rng.random() < 0.3:
        sentences.insert(rng.randint(0, len(sentences)), prose.sentence(rng))
    return " ".join(sentences)


def schema_of(values):
    kinds = {key: {"type": field[1]} for key, field, _ in values}
    for key, field, _ in values:
        if field[1] == "array":
            kinds[key]["items"] = {"type": "string"}
    return {"type": "object", "properties": kinds, "required": list(kinds)}


SEVERAL = (
    "Extract all {what} as a JSON array of objects with the keys {keys}.|Make a JSON list of the {what}, with {keys} for each.|"
    "Return a JSON array; each object has {keys}."
).split("|")


def several(rng):
    """(key, case): a list of people or things, each told in one sentence."""
    count = rng.randint(2, 4)
    if rng.random() < 0.5:
        what, keys = "people", (rng.choice(("name", "person")), rng.choice(("age", "years")), rng.choice(("city", "town", "home")))
        rows = [(w.name(rng), rng.randint(5, 99), w.city(rng)) for _ in range(count)]
        told = ["{} is {} years old and lives in {}.", "{}, {} years old, comes from {}."]
    else:
        what, keys = rng.choice(("items", "products")), (rng.choice(("item", "product", "name")), rng.choice(("quantity", "count")), rng.choice(("colour", "color")))
        rows = [(rng.choice(w.THINGS), rng.randint(2, 60), rng.choice(w.COLOURS)) for _ in range(count)]
        told = ["Of the {0} we need {1}, in {2}.", "Bring the {0}: {1} pieces, {2}."]
    text = " ".join(rng.choice(told).format(*row) for row in rows)
    used = sorted(rng.sample(range(3), rng.choice([2, 3])))
    chosen = [keys[index] for index in used]
    result = [{keys[index]: row[index] for index in used} for row in rows]
    ask = rng.choice(SEVERAL).format(what=what, keys=w.listed(chosen))
    question = f"{ask}\n\n{text}" if rng.random() < 0.6 else f"{text}\n\n{ask}"
    return ("records", *chosen, str(rows[0])), Case("json", [user(question), answer(dump(result))], expect=as_json(result))


def extraction(rng, held):
    def make():
        if rng.random() < 0.15:
            return several(rng)
        kind, values = record(rng)
        text = text_of(rng, kind, values)
        rng.shuffle(values)
        absent = None
        if rng.random() < 0.12 and len(values) < 6:
            others = [f for f in FIELDS[kind] if f[3] and all(f is not field for _, field, _ in values)]
            others = [f for f in others if all(n != key for key, _, _ in values for n in f[0])]
            if others:
                absent = rng.choice(others)
                values.insert(rng.randint(0, len(values)), (rng.choice(absent[0]), absent, None))
        result = {key: value for key, _, value in values}
        keys = list(result)
        if rng.random() < 0.5:
            shown = rng.choice((", ".join(keys), w.listed(keys), ", ".join(f'"{key}"' for key in keys)))
            ask = rng.choice(ASK).format(keys=shown)
        else:
            ask = rng.choice(ASK_SCHEMA).format(schema=dump(schema_of(values)))
        layout = rng.randrange(4)
        messages = [
            [user(f"{ask}\n\n{text}")], [user(f"{text}\n\n{ask}")], [user(f"{ask}\nText: {text}")],
            [system(ask), user(text)],
        ][layout]
        reply = answer(dump(result))
        # Held out: schemas (which fields, in which order) and, by their share, all that is told in them.
        return ("record", *keys), Case("json", messages + [reply], expect=as_json(result))

    return until(held, make)
