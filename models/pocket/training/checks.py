"""That the quick rendering is the template's, that no held-out case is trained on, and that the steps of sums are right."""

import json
import pathlib
import re
import sys

import jinja2
import jinja2.sandbox

from data.case import dump, render, rng_of
from data.mixture import held_out_sets, training_case


def template():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = dump
    return environment.from_string((pathlib.Path(__file__).parent / "chat_template.jinja").read_text())


def rendering_agrees(cases):
    written = template()
    rng = rng_of("rendering")
    for number in range(cases):
        case = training_case(rng)
        prompt = {"messages": case.question(), "tools": case.tools, "add_generation_prompt": True}
        if case.quiet:
            prompt["enable_thinking"] = False
            # A client that thinks nothing sends no thoughts back.
            for message in case.messages:
                message.pop("reasoning_content", None)
        ours = "".join(text for text, _ in render(case, generate=True))
        theirs = written.render(**prompt)
        assert ours == theirs, f"case {number}\n{ours}\n--- not ---\n{theirs}"
        whole = "".join(text for text, _ in render(case))
        assert whole.startswith(ours), f"case {number}: training text does not begin like its prompt\n{whole}\n---\n{ours}"
    print(f"{cases} conversations are rendered as by the template")


def sides_are_apart(cases):
    held = {repr(case.messages[-2:]) for _, some in held_out_sets(200) for case in some}
    rng = rng_of("apart")
    met = sum(repr(training_case(rng).messages[-2:]) in held for _ in range(cases))
    assert met == 0, f"{met} of {cases} training cases are held out"
    print(f"none of {len(held)} held-out cases among {cases} training cases")


def sums_are_right(cases):
    from data import numbers

    rng = rng_of("sums")
    for _ in range(cases):
        text = numbers.arithmetic(rng, False).messages[-1]["reasoning_content"]
        for chain in re.findall(r"\d+(?: [-+×÷=] \d+)+", text):
            sides = chain.replace("×", "*").replace("÷", "//").split(" = ")
            values = {eval(side) for side in sides}
            assert len(values) == 1, f"{chain}: {text}"
    print(f"the steps of {cases} sums are right")


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rendering_agrees(count)
    sides_are_apart(count)
    sums_are_right(count)
