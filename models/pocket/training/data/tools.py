"""Tool calls, and answers from what tools give back."""

from . import prose
from . import records
from . import words as w
from .case import Case, answer, call_of, calls_of, exact, tool_result, until, user


def parameter(kind, about=None):
    return {"type": kind, "description": about} if about else {"type": kind}


def tool(name, about, parameters, required=None):
    shape = {
        "type": "object",
        "properties": parameters,
        "required": list(parameters) if required is None else required,
    }
    return {"type": "function", "function": {"name": name, "description": about, "parameters": shape}}


def queries(rng):
    return rng.choice((
        f"{rng.choice(w.ADJECTIVES)} {w.plural(rng.choice(w.THINGS))}", f"{rng.choice(w.ANIMALS)} food",
        f"history of {w.city(rng)}", f"{w.full_name(rng)}", f"how to repair a {rng.choice(w.THINGS)}",
        f"{rng.choice(w.FRUITS)} cake recipe", f"best {rng.choice(w.HOBBIES)} books", f"{w.made_up(rng)} {w.word(rng)}",
    ))


def path(rng):
    folder = rng.choice(("", "", "/tmp/", "notes/", "src/", "data/", f"{w.word(rng)}/", "/home/" + w.made_up(rng) + "/"))
    return f"{folder}{w.word(rng)}{rng.choice(('', '_' + w.word(rng), str(rng.randint(1, 99))))}.{rng.choice(('txt', 'md', 'json', 'csv', 'py', 'rs', 'log'))}"


def sum_text(rng):
    sign = rng.choice(("+", "-", "*", "/"))
    text = f"{rng.randint(1, 9999)} {sign} {rng.randint(1, 999)}"
    return text + f" {rng.choice('+-')} {rng.randint(1, 99)}" if rng.random() < 0.2 else text


def folder(rng):
    return rng.choice(("/tmp", "notes", "src", "/var/log", f"/home/{w.made_up(rng)}", w.word(rng), f"{w.word(rng)}/{w.word(rng)}"))


# Each: names, description, {parameter: (type, description, value)}, ways to ask for it.
KNOWN = (
    (("get_weather", "get_current_weather", "weather", "weather_lookup"), "Get the weather of a city",
     {"city": ("string", "The city", w.city)},
     ("What is the weather in {city}?", "How is the weather in {city} today?", "Is it raining in {city}?", "Weather in {city}?",
      "Do I need an umbrella in {city}?", "Tell me the weather for {city}.", "How warm is it in {city}?", "Is it cold in {city} now?")),
    (("get_forecast", "weather_forecast"), "Get the weather of a city for the next days",
     {"city": ("string", "The city", w.city), "days": ("integer", "How many days", lambda r: r.randint(2, 10))},
     ("What will the weather be in {city} for the next {days} days?", "Give me a {days} day forecast for {city}.",
      "Forecast for {city}, {days} days.")),
    (("calculator", "calculate", "compute"), "Calculate the value of an expression",
     {"expression": ("string", "What to calculate", sum_text)},
     ("Use the calculator for {expression}.", "What is {expression}?", "Calculate {expression}.", "Compute {expression} for me.", "How much is {expression}?")),
    (("search", "web_search", "search_web"), "Search the web",
     {"query": ("string", "What to search for", queries)},
     ("Search for {query}.", "Search the web for {query}.", "Find something about {query}.", "Look up {query}.", "Can you search for {query}?")),
    (("read_file", "open_file", "cat_file"), "Read a file",
     {"path": ("string", "The path of the file", path)},
     ("Read the file {path}.", "What is in {path}?", "Show me {path}.", "Open {path}.", "What does the file {path} say?")),
    (("list_files", "list_directory", "ls"), "List the files of a directory",
     {"directory": ("string", "The directory", folder)},
     ("Which files are in {directory}?", "List the files in {directory}.", "Show the directory {directory}.", "What is in the folder {directory}?")),
    (("write_file", "save_file"), "Write text to a file",
     {"path": ("string", "The path of the file", path), "content": ("string", "The text", lambda r: " ".join(w.word(r) for _ in range(r.randint(1, 5))))},
     ('Write "{content}" to {path}.', 'Save the text "{content}" as {path}.', 'Put "{content}" into the file {path}.')),
    (("delete_file", "remove_file"), "Delete a file",
     {"path": ("string", "The path of the file", path)},
     ("Delete {path}.", "Remove the file {path}.", "Please delete the file {path}.")),
    (("send_email", "send_mail"), "Send an email",
     {"to": ("string", "Who gets it", records.email), "subject": ("string", "The subject", lambda r: " ".join(w.word(r) for _ in range(r.randint(1, 3))))},
     ('Send an email to {to} with the subject "{subject}".', 'Write a mail to {to}, subject "{subject}".', 'Mail {to} about "{subject}".')),
    (("get_time", "current_time", "time_in_city"), "Get the time in a city",
     {"city": ("string", "The city", w.city)},
     ("What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?", "Current time in {city}?")),
    (("set_timer", "start_timer"), "Start a timer",
     {"minutes": ("integer", "How long", lambda r: r.randint(1, 120))},
     ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes.", "Start a timer of {minutes} minutes.", "{minutes} minutes timer, please.")),
    (("translate", "translate_text"), "Translate a text",
     {"text": ("string", "The text", lambda r: " ".join(w.word(r) for _ in range(r.randint(1, 4)))), "language": ("string", "The language to translate to", lambda r: r.choice(("French", "German", "Spanish", "Italian", "Polish", "Dutch", "Greek", "Turkish")))},
     ('Translate "{text}" to {language}.', 'How do you say "{text}" in {language}?', 'What is "{text}" in {language}?')),
    (("convert_currency", "exchange"), "Convert money from one currency to another",
     {"amount": ("number", "How much", lambda r: r.randint(1, 2000)), "from": ("string", None, lambda r: r.choice(("EUR", "USD", "GBP", "JPY"))), "to": ("string", None, lambda r: r.choice(("CHF", "SEK", "NOK", "PLN", "CAD")))},
     ("Convert {amount} {from} to {to}.", "How much is {amount} {from} in {to}?", "Change {amount} {from} into {to}.")),
    (("add_event", "create_event", "add_to_calendar"), "Add an event to the calendar",
     {"title": ("string", "What it is", lambda r: f"{r.choice(w.HOBBIES)} with {w.name(r)}"), "day": ("string", "The day", lambda r: r.choice(w.WEEKDAYS))},
     ("Add {title} to my calendar on {day}.", "Put {title} on {day} into the calendar.", "Plan {title} for {day}.")),
    (("turn_on", "switch_on"), "Switch a device on",
     {"device": ("string", "The device", lambda r: f"{r.choice(w.PLACES)} {r.choice(('lamp', 'radio', 'heater', 'fan', 'camera'))}")},
     ("Turn on the {device}.", "Switch the {device} on.", "Please turn the {device} on.")),
    (("play_music", "play_song"), "Play music",
     {"artist": ("string", "Who plays", w.full_name)},
     ("Play something by {artist}.", "Play music by {artist}.", "I want to hear {artist}.")),
)

# Parameters bear other names elsewhere.
ALIASES = {
    "city": ("city", "city", "location", "place", "town"), "query": ("query", "query", "q", "text", "search_query"),
    "path": ("path", "path", "filename", "file", "file_path"), "expression": ("expression", "expression", "formula", "input"),
    "directory": ("directory", "path", "folder", "dir"), "minutes": ("minutes", "duration", "time"),
    "content": ("content", "text", "data"), "language": ("language", "target", "target_language"),
    "to": ("to", "recipient"), "device": ("device", "name", "device_name"), "days": ("days", "count"),
}
UNIT = {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "The unit of the temperature"}


def named(rng, entry):
    """What this tool's parameters are called this time. Two never get one name."""
    if rng.random() < 0.5:
        return {key: key for key in entry[2]}
    names = {key: rng.choice(ALIASES.get(key, (key,))) for key in entry[2]}
    return names if len(set(names.values())) == len(names) else {key: key for key in entry[2]}


ACTIONS = "find get open count check order book print move copy start stop show lock paint clean".split()


def made_up_tool(rng):
    """A tool nobody has seen, asked for by the words of its description."""
    action, thing = rng.choice(ACTIONS), rng.choice(w.THINGS + w.ANIMALS)
    makers = {
        "name": ("string", w.name), "count": ("integer", lambda r: r.randint(1, 99)), "colour": ("string", lambda r: r.choice(w.COLOURS)),
        "place": ("string", lambda r: r.choice(w.PLACES)), "code": ("string", w.code), "city": ("string", w.city),
    }
    keys = rng.sample(list(makers), rng.choice([1, 1, 2, 2, 3]))
    values = {key: (makers[key][0], f"The {key}", makers[key][1]) for key in keys}
    text = f"{prose.up(action)} the {thing}, " + w.listed(f"{key} {{{key}}}" for key in keys) + "."
    other = f"Please {action} a {thing} with " + w.listed(f"{key} {{{key}}}" for key in keys) + "."
    return ((f"{action}_{thing}",), f"{prose.up(action)} a {thing}", values, (text, other))


def schema(rng, entry, name, names, unit=False):
    about = rng.random() < 0.8
    properties = {names[key]: parameter(kind, text if about else None) for key, (kind, text, _) in entry[2].items()}
    required = list(properties)
    if unit:
        properties["unit"] = UNIT
    made = tool(name, entry[1], properties, required)
    if rng.random() < 0.3:
        # Clients differ in the order of a function's fields.
        inner = made["function"]
        made["function"] = {key: inner[key] for key in sorted(inner)}
        made["function"]["parameters"] = {key: inner["parameters"][key] for key in sorted(inner["parameters"])}
    return made


def toolbox(rng, entry, name, names=None, unit=False):
    """The tool among others, in any order."""
    tools = [schema(rng, entry, name, names or named(rng, entry), unit)]
    taken = {name}
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        other = rng.choice(KNOWN) if rng.random() < 0.7 else made_up_tool(rng)
        other_name = rng.choice(other[0])
        if other[1] != entry[1] and other_name not in taken and other[2].keys() != entry[2].keys():
            taken.add(other_name)
            tools.append(schema(rng, other, other_name, named(rng, other)))
    rng.shuffle(tools)
    return tools


def calls(rng, held):
    def make():
        entry = rng.choice(KNOWN) if rng.random() < 0.65 else made_up_tool(rng)
        name, names = rng.choice(entry[0]), named(rng, entry)
        values = {key: value(rng) for key, (_, _, value) in entry[2].items()}
        ask = rng.choice(entry[3]).format(**values)
        arguments = {names[key]: value for key, value in values.items()}
        unit = entry[0][0] == "get_weather" and rng.random() < 0.5
        if unit and rng.random() < 0.5:
            arguments["unit"] = rng.choice(UNIT["enum"])
            ask = f"{ask[:-1]} in {arguments['unit']}{ask[-1]}"
        reply = answer("", f"I call {name} for this.", calls=[{"name": name, "arguments": arguments}])
        tools = toolbox(rng, entry, name, names, unit)
        ask = ask if any(char in ask for char in '"/') else casual_case(rng, ask)
        return ("call", *map(str, values.values())), Case("tool calls", [user(ask), reply], tools, call_of(name, arguments))

    return until(held, make)


PAIRS = {
    "get_weather": ("What is the weather in {a} and in {b}?", "Compare the weather in {a} and {b}.", "Weather in {a} and {b}?"),
    "get_time": ("What time is it in {a} and in {b}?", "Tell me the time in {a} and {b}."),
    "read_file": ("Read the files {a} and {b}.", "Show me {a} and {b}."),
    "search": ("Search for {a} and for {b}.", "Look up {a} and {b}."),
}


def several_calls(rng, held):
    """Two calls in one answer."""

    def make():
        kind = rng.choice(list(PAIRS))
        entry = next(entry for entry in KNOWN if entry[0][0] == kind)
        name, names = rng.choice(entry[0]), named(rng, entry)
        (key, (_, _, value)), = entry[2].items()
        a, b = value(rng), value(rng)
        made = [{"name": name, "arguments": {names[key]: one}} for one in (a, b)]
        reply = answer("", f"I call {name} for both.", calls=made)
        ask = rng.choice(PAIRS[kind]).format(a=a, b=b)
        return ("call", a, b), Case("several calls", [user(ask), reply], toolbox(rng, entry, name, names), calls_of(made))

    return until(held, make)


def casual_case(rng, ask):
    """Politeness only: the words of a request are copied as they are."""
    roll = rng.random()
    return ask + " Please." if roll < 0.06 else "Hi! " + ask if roll < 0.12 else ask


def results(rng, held):
    """Call, result, answer. What is learnt is both; what is asked is the answer."""

    def make():
        kind = rng.randrange(6)
        wanted = {0: "get_weather", 1: "calculator", 2: "read_file", 3: "get_time", 4: "list_files", 5: "search"}[kind]
        entry = next(entry for entry in KNOWN if entry[0][0] == wanted)
        name = rng.choice(entry[0])
        names = named(rng, entry)
        values = {key: value(rng) for key, (_, _, value) in entry[2].items()}
        ask = rng.choice(entry[3][:1] if kind != 1 else entry[3]).format(**values)
        if kind == 0:
            city, degrees, sky = values["city"], rng.randint(-15, 40), rng.choice(w.WEATHER)
            result = rng.choice((
                {"city": city, "temperature": degrees, "condition": sky}, {"temperature": degrees, "sky": sky},
                f"{degrees} degrees, {sky}", f"{city}: {sky}, {degrees} °C",
            ))
            text = f"The weather in {city} is {sky}, with {degrees} degrees."
        elif kind == 1:
            number = rng.choice([rng.randint(0, 99999), round(rng.uniform(0, 999), 2)])
            result = rng.choice(({"result": number}, str(number), {"value": number}))
            text = f"{values['expression']} = {number}."
        elif kind == 2:
            content = prose.sentence(rng)
            result = rng.choice((content, {"content": content}))
            text = f"The file {values['path']} says: {content}"
        elif kind == 3:
            time = f"{rng.randrange(24):02}:{rng.randrange(60):02}"
            result = rng.choice((time, {"time": time}, {"city": values["city"], "time": time}))
            text = f"It is {time} in {values['city']}."
        elif kind == 4:
            files = [path(rng).split("/")[-1] for _ in range(rng.randint(1, 5))]
            result = rng.choice((files, {"files": files}, "\n".join(files)))
            text = f"The files in {values['directory']} are: {', '.join(files)}."
        else:
            found = prose.sentence(rng)
            result = rng.choice((found, {"results": [found]}, [{"title": values["query"], "text": found}]))
            text = f"I found this about {values['query']}: {found}"
        arguments = {names[key]: value for key, value in values.items()}
        call = answer("", f"I call {name} for this.", calls=[{"name": name, "arguments": arguments}])
        messages = [user(ask), call, tool_result(result), answer(text, "I have the result.")]
        return ("result", text), Case("tool results", messages, toolbox(rng, entry, name, names), exact(text))

    return until(held, make)


def no_call(rng, plain):
    """A question that no tool is for, with tools at hand: `plain` is a case without tools."""
    entry = rng.choice(KNOWN[3:])
    return Case(plain.skill, plain.messages, toolbox(rng, entry, rng.choice(entry[0])), plain.expect)
