"""Arithmetic with its steps, comparisons, units, dates and times."""

from . import words as w
from .case import Case, answer, casual, exact, until, user

ASK = (
    "What is {}?|Calculate {}.|{}|{} = ?|How much is {}?|Compute {}.|What does {} make?|Solve {}.|Can you tell me what {} is?|"
    "What is the result of {}?|{} =|I need {}."
).split("|")
SIGNS = {
    "+": ("+", "+", "+", "plus"),
    "-": ("-", "-", "-", "minus"),
    "*": ("*", "×", "x", "times", "*"),
    "/": ("/", "÷", "divided by", "/"),
}


def add_steps(a, b):
    """Digit by digit from the right, as on paper."""
    steps, carry, x, y = [], 0, a, b
    while x or y or carry:
        if not (x or y):
            steps.append(f"carry {carry}")
            break
        left, right = x % 10, y % 10
        total = left + right + carry
        steps.append(f"{left} + {right}" + (f" + {carry}" if carry else "") + f" = {total}")
        x, y, carry = x // 10, y // 10, total // 10
    return ", ".join(steps) or "0 + 0 = 0"


def subtract_steps(a, b):
    """For a ≥ b."""
    steps, borrow, x, y = [], 0, a, b
    while x or y:
        left, right = x % 10 - borrow, y % 10
        taken = borrow
        borrow = int(left < right)
        shown = f"{x % 10} - {right}" + (" - 1" if taken else "")
        if borrow:
            shown = f"1{x % 10} - {right}" + (" - 1" if taken else "")
        steps.append(f"{shown} = {left - right + 10 * borrow}")
        x, y = x // 10, y // 10
    return ", ".join(steps) or "0 - 0 = 0"


def digit_product(a, digit):
    """a × one digit, for a up to three digits."""
    tens, ones = a - a % 10, a % 10
    if not tens or not ones or digit < 2:
        return f"{a} × {digit} = {a * digit}"
    return f"{a} × {digit} = {tens * digit} + {ones * digit} = {a * digit}"


def multiply_steps(a, b):
    if a < 10 and b < 10:
        return f"{a} × {b} = {a * b}"
    if b < 10 or a < 10:
        return digit_product(max(a, b), min(a, b))
    tens, ones = b // 10, b % 10
    high = a * tens * 10
    text = f"{digit_product(a, tens)}, so {a} × {tens * 10} = {high}. "
    if not ones:
        return text.split(". ")[0]
    low = a * ones
    return text + f"{digit_product(a, ones)}. {high} + {low}: {add_steps(high, low)}, so {a * b}"


def divide_steps(a, b):
    whole, rest = divmod(a, b)
    text = f"{b} × {whole} = {b * whole}"
    return f"{text}, {a} - {b * whole} = {rest}" if rest else text


def operand(rng):
    return rng.randint(10, 99) if rng.random() < 0.75 else rng.randint(0, 99) if rng.random() < 0.5 else rng.randint(0, 999)


def arithmetic(rng, held, two_digit=False):
    def make():
        sign = rng.choice("++--**/")
        a, b = (rng.randint(10, 99), rng.randint(10, 99)) if two_digit else (operand(rng), operand(rng))
        if sign in "+-" and not two_digit and rng.random() < 0.1:
            a, b = rng.randint(100, 9999), rng.randint(10, 9999)
        if sign == "*" and b > 99:
            b = b % 100
        if sign == "/":
            b = rng.randint(2, 12)
            a = b * rng.randint(1, 20) + (rng.randrange(b) if rng.random() < 0.4 else 0)
            if two_digit and not 10 <= a <= 99:
                a = 10 + a % 90
            if not two_digit and rng.random() < 0.1:
                a = rng.randrange(b)
        shown = f"{a} {rng.choice(SIGNS[sign])} {b}"
        if rng.random() < 0.15 and sign != "/":
            shown = shown.replace(" ", "") if shown[-4:].isascii() and "s" not in shown else shown
        result, final, steps = worked(sign, a, b)
        ask = casual(rng, rng.choice(ASK).format(shown))
        aloud = f"{steps}. {final}" if sign == "*" and min(a, b) > 9 else final
        case = Case("arithmetic", [user(ask), answer(final, f"{steps}.", aloud)], expect=dict(kind="ends", value=result))
        # a + b is b + a.
        return ("sum", sign, *(sorted((a, b)) if sign in "+*" else (a, b))), case

    return until(held, make)


def worked(sign, a, b):
    """(what an answer ends with, the answer, the steps)"""
    if sign == "+":
        return f"{a + b}.", f"{a} + {b} = {a + b}.", f"{add_steps(a, b)}, so {a + b}"
    if sign == "-":
        if a >= b:
            return f"{a - b}.", f"{a} - {b} = {a - b}.", f"{subtract_steps(a, b)}, so {a - b}"
        return f"-{b - a}.", f"{a} - {b} = -{b - a}.", f"{b} is more. {subtract_steps(b, a)}, so -{b - a}"
    if sign == "*":
        return f"{a * b}.", f"{a} × {b} = {a * b}.", multiply_steps(a, b)
    whole, rest = divmod(a, b)
    final = f"{whole} remainder {rest}." if rest else f"{whole}."
    return final, f"{a} ÷ {b} = {final}", divide_steps(a, b)


STORIES = (
    "{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?|+",
    "{n} has {a} {t} and gives away {b}. How many {t} are left?|-",
    "There are {a} boxes with {b} {t} each. How many {t} are there?|*",
    "{n} buys {a} {t} on Monday and {b} on Tuesday. How many {t} is that?|+",
    "In a shop there are {a} {t}. {b} are sold. How many remain?|-",
    "{n} needs {b} {t} a day. How many {t} does {n} need for {a} days?|*",
)


def word_problems(rng, held):
    def make():
        text, sign = rng.choice(STORIES).split("|")
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        if sign == "*":
            a, b = rng.randint(2, 30), rng.randint(2, 12)
        if sign == "-" and b > a:
            a, b = b, a
        result, final, steps = worked(sign, a, b)
        thing = w.plural(rng.choice(w.THINGS + w.FRUITS))
        ask = text.format(n=w.name(rng), a=a, b=b, t=thing)
        reply = answer(f"{result[:-1]} {thing}.", f"{a} {sign.replace('*', '×')} {b}: {steps}.", final)
        return ("story", sign, a, b), Case("word problems", [user(ask), reply], expect=dict(kind="has", value=result[:-1]))

    return until(held, make)


COMPARE = "Which is larger, {} or {}?|Which number is bigger: {} or {}?|What is more, {} or {}?|Is {} or {} the larger number?"
COMPARE_LEAST = "Which is smaller, {} or {}?|Which number is less: {} or {}?|What is less, {} or {}?"


def order_of(a, b):
    """Why one is less: by the count of digits, else by the first that differs."""
    x, y = str(a), str(b)
    if len(x) != len(y):
        return f"{a} has {counted(len(x), 'digit')}, {b} has {len(y)}."
    at = next(i for i in range(len(x)) if x[i] != y[i])
    return f"{a} and {b}: " + ("" if at == 0 else f"{x[:at]} is equal, then ") + f"{x[at]} and {y[at]}."


def comparing(rng, held):
    def make():
        top = rng.choice([20, 99, 999, 9999])
        a, b = rng.randint(0, 10 ** rng.randint(1, 4)), rng.randint(0, top)
        b += a == b
        kind = rng.randrange(4)
        thinking = aloud = None
        if kind == 0:
            even = a % 2 == 0
            ask = rng.choice((f"Is {a} even or odd?", f"Is {a} an even number?", f"Even or odd: {a}"))
            text = f"{a} is {'even' if even else 'odd'}."
        elif kind == 1:
            items = list({rng.randint(0, 10 ** rng.randint(1, 4)) for _ in range(rng.randint(3, 7))})
            least = rng.random() < 0.5
            pick = min if least else max
            ask = f"What is the {'smallest' if least else 'largest'} of these numbers: {', '.join(map(str, items))}"
            best, steps = items[0], [str(items[0])]
            for item in items[1:]:
                best = pick(best, item)
                steps.append(f"{item}: {best}")
            thinking = f"{', '.join(steps)}."
            text = f"{best}"
            aloud = f"{thinking} {best}"
        else:
            more = kind == 2
            ask = rng.choice((COMPARE if more else COMPARE_LEAST).split("|")).format(a, b)
            high, low = max(a, b), min(a, b)
            text = f"{high} is larger than {low}." if more else f"{low} is smaller than {high}."
            thinking = order_of(a, b)
        case = Case("comparing", [user(ask), answer(text, thinking, aloud)], expect=dict(kind="ends", value=text))
        return ("compare", ask), case

    return until(held, make)


# one of the first is so many of the second
UNITS = (
    ("kilometre", "metre", 1000), ("metre", "centimetre", 100), ("centimetre", "millimetre", 10), ("kilogram", "gram", 1000),
    ("hour", "minute", 60), ("minute", "second", 60), ("day", "hour", 24), ("week", "day", 7), ("year", "month", 12),
    ("litre", "millilitre", 1000), ("dozen", "piece", 12), ("euro", "cent", 100), ("ton", "kilogram", 1000),
    ("kilobyte", "byte", 1000), ("metre", "millimetre", 1000), ("decade", "year", 10), ("century", "year", 100),
)
UNIT_ASK = (
    "How many {t} are {n} {f}?|Convert {n} {f} to {t}.|{n} {f} in {t}?|What is {n} {f} in {t}?|How many {t} are there in {n} {f}?"
).split("|")


def counted(count, unit):
    return f"{count} {unit if count == 1 else 'dozen' if unit == 'dozen' else 'centuries' if unit == 'century' else unit + 's'}"


def units(rng, held):
    def make():
        large, small, factor = rng.choice(UNITS)
        count = rng.randint(1, 40)
        one, other = counted(count, large), counted(count * factor, small)
        down = rng.random() < 0.6
        frm, to = (one, other) if down else (other, one)
        number, unit = frm.split(" ", 1)
        ask = casual(rng, rng.choice(UNIT_ASK).format(n=number, f=unit, t=counted(2, small if down else large)[2:]))
        rule = f"1 {large} is {counted(factor, small)}."
        step = f"{count} × {factor} = {count * factor}." if down else f"{count * factor} ÷ {factor} = {count}."
        text = f"{frm} {w.is_are(int(number))} {to}."
        reply = answer(text, f"{rule} {step}", f"{rule} {text}")
        return ("unit", large, small, count), Case("units", [user(ask), reply], expect=dict(kind="ends", value=f"{to}."))

    return until(held, make)


def day_text(month, day):
    return f"{w.MONTHS[month]} {day}"


def dates(rng, held):
    def make():
        kind = rng.randrange(6)
        thinking = aloud = None
        if kind == 0:
            day, step = rng.randrange(7), rng.randint(1, 30)
            ask = rng.choice((
                f"Today is {w.WEEKDAYS[day]}. What day is it in {step} days?",
                f"If today is {w.WEEKDAYS[day]}, which day comes {step} days later?",
            ))
            left = step % 7
            walk = "".join(f", {w.WEEKDAYS[(day + i) % 7]}" for i in range(1, left + 1))
            thinking = f"{step} days are {step // 7} weeks and {left} days. {w.WEEKDAYS[day]}{walk}."
            text = f"It is {w.WEEKDAYS[(day + left) % 7]}."
            aloud = f"{thinking} {text}"
        elif kind == 1:
            day, back = rng.randrange(7), rng.random() < 0.5
            ask = rng.choice((
                f"Which day comes {'before' if back else 'after'} {w.WEEKDAYS[day]}?",
                f"What is the day {'before' if back else 'after'} {w.WEEKDAYS[day]}?",
            ))
            text = f"{w.WEEKDAYS[(day + (-1 if back else 1)) % 7]} comes {'before' if back else 'after'} {w.WEEKDAYS[day]}."
            # Too few to hold any out by day; the wording is what is new.
        elif kind == 2:
            month, back = rng.randrange(12), rng.random() < 0.5
            ask = rng.choice((
                f"Which month comes {'before' if back else 'after'} {w.MONTHS[month]}?",
                f"What is the month {'before' if back else 'after'} {w.MONTHS[month]}?",
            ))
            text = f"{w.MONTHS[(month + (-1 if back else 1)) % 12]} comes {'before' if back else 'after'} {w.MONTHS[month]}."
        elif kind == 3:
            month = rng.randrange(12)
            days = w.MONTH_DAYS[month]
            day, step = rng.randint(1, days), rng.randint(1, 28)
            ask = rng.choice((
                f"What is the date {step} days after {day_text(month, day)}?",
                f"Which date is {step} days after {day_text(month, day)}?",
            ))
            total = day + step
            thinking = f"{day} + {step} = {total}. {w.MONTHS[month]} has {days} days."
            if total > days:
                following = (month + 1) % 12
                thinking += f" {total} - {days} = {total - days}, in {w.MONTHS[following]}."
                text = f"It is {day_text(following, total - days)}."
            else:
                text = f"It is {day_text(month, total)}."
            aloud = f"{thinking} {text}"
        elif kind == 4:
            month = rng.randrange(12)
            a, b = sorted(rng.sample(range(1, w.MONTH_DAYS[month] + 1), 2))
            ask = f"How many days are there from {day_text(month, a)} to {day_text(month, b)}?"
            thinking = f"{b} - {a} = {b - a}."
            text = f"{counted(b - a, 'day')}."
        else:
            hour, minute, step = rng.randrange(24), rng.randrange(60), rng.choice([5, 10, 15, 20, 30, 40, 45, 50, 60, 90])
            total = minute + step
            ask = f"It is {hour:02}:{minute:02}. What time is it in {step} minutes?"
            over, left = divmod(total, 60)
            thinking = f"{minute} + {step} = {total}."
            if over:
                thinking += f" {total} minutes are {over} hour{'s' if over > 1 else ''} and {left} minutes."
            text = f"It is {(hour + over) % 24:02}:{left:02}."
            aloud = f"{thinking} {text}"
        return ("date", ask), Case("dates", [user(casual(rng, ask)), answer(text, thinking, aloud)], expect=dict(kind="ends", value=text))

    return until(held, make)


SERIES = (
    ("Count from {a} to {b}.|Count up from {a} to {b}.|Write the numbers from {a} to {b}.|List all numbers from {a} to {b}.", 1),
    ("Count backwards from {b} to {a}.|Count down from {b} to {a}.|Write the numbers from {b} down to {a}.", -1),
)


def series(rng, held):
    def make():
        kind = rng.randrange(6)
        if kind < 3:
            asks, step = SERIES[min(kind, 1)]
            a = rng.choice([0, 1, 1, rng.randint(0, 200)])
            b = a + rng.randint(3, 40)
            ask = rng.choice(asks.split("|")).format(a=a, b=b)
            items = range(a, b + 1)[::step]
        elif kind == 3:
            step, count = rng.randint(2, 12), rng.randint(3, 12)
            a = rng.choice([0, step, rng.randint(0, 50)])
            ask = rng.choice(("Count in steps of {s} from {a}, {n} numbers.", "Write {n} numbers from {a} in steps of {s}.")).format(s=step, a=a, n=count)
            items = [a + step * i for i in range(count)]
        elif kind == 4:
            factor = rng.randint(2, 20)
            ask = rng.choice((f"Write the multiplication table of {factor}.", f"Give me the table of {factor}.", f"Multiply {factor} by 1 to 10."))
            text = "\n".join(f"{i} × {factor} = {i * factor}" for i in range(1, 11))
            return ("series", ask), Case("series", [user(ask), answer(text)], expect=exact(text))
        else:
            what, members = rng.choice((("letters of the alphabet", list(w.LOWER)), ("days of the week", w.WEEKDAYS), ("months of the year", w.MONTHS)))
            first = rng.randrange(len(members) - 2)
            last = rng.randint(first + 1, len(members) - 1)
            whole = rng.random() < 0.3
            ask = f"List the {what}." if whole else f"List the {what} from {members[first]} to {members[last]}."
            items = members if whole else members[first : last + 1]
            if whole:
                ask = casual(rng, ask)
        text = ", ".join(map(str, items))
        return ("series", ask), Case("series", [user(ask), answer(text)], expect=exact(text))

    return until(held, make)
