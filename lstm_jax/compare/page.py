"""Results as one page of HTML that needs nothing else: no script, no font, no picture from anywhere.

Whatever comes from the results is escaped, and a policy in the page forbids the browser to fetch or to run
anything, should the escaping ever be forgotten.
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lstm_jax.compare.findings import Finding, by_heading
from lstm_jax.compare.plots import Picture
from lstm_jax.compare.results import Results
from lstm_jax.compare.tables import AXIS_TITLES, Table, items

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --quiet: #5a5a5a; --line: #d8d8d8;
  --band: #f4f4f2; --mark: #b84a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --quiet: #a8a8a8; --line: #3a3a3a; --band: #212121;
    --mark: #f0a060; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 88rem; margin: 0 auto; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-top: .6rem; border-top: 2px solid var(--mark); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, ul { max-width: 52rem; margin: .5rem 0; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
li { margin: .25rem 0; }
.columns { columns: 2 32rem; column-gap: 3rem; }
.columns > * { break-inside: avoid; margin-top: 0; }
ul.columns { max-width: none; }
.columns h3 { margin-top: 0; }
.columns > div { margin-bottom: 1rem; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
thead th { vertical-align: bottom; background: var(--band); min-width: 4.5rem; font-weight: 600; }
tbody th { font-weight: 600; white-space: nowrap; }
tbody tr:nth-child(even) > * { background: var(--band); }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead tr > :first-child { background: var(--band); }
td.long { text-align: left; }
.words th, .words td { text-align: left; }
.words td { white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; background: #fff; border-radius: 4px; }
code { font-size: .9em; overflow-wrap: anywhere; background: var(--band); padding: .1em .3em; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; } dd { margin: 0 0 .4rem 1rem; } }
"""

# Letters beyond which a cell among numbers has several lines, lest its column make the table too wide.
LONG = 30

# Data: URIs for pictures, the style above, and nothing else.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(
    results: Results,
    found: Sequence[Finding],
    sections: Mapping[str, tuple[Sequence[Table], Picture | None]],
    notes: Sequence[str],
) -> str:
    """The whole page, in ASCII, so that it is read right whatever encoding it is written in.

    Args:
        results: what was measured, and on what.
        found: what it says.
        sections: by heading: tables, and a picture if there is one.
        notes: sentences for the end.
    """
    title = f"LSTMs compared: {_size(results)}"
    body = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="quiet">{_text(_origin(results))}</p>',
        "<h2>What was compared, and how</h2>",
        '<ul class="columns">',
        *(f"<li><strong>{_text(topic)}.</strong> {_text(text)}</li>" for topic, text in how(results).items()),
        "</ul>\n<h2>Findings</h2>",
        '<div class="columns">',
        *_findings(found),
        "</div>",
    ]
    for heading, (tables, picture) in sections.items():
        body.append(f"<h2>{_text(heading)}</h2>")
        body += [_picture(picture)] if picture else []
        body += [part for table in tables for part in _table(table, heading)]
    body += ["<h2>Machine, versions, command</h2>", _facts(results)]
    body += _list(notes)
    whole = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    whole += "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    return whole.encode("ascii", "xmlcharrefreplace").decode()


def how(results: Results) -> dict[str, str]:
    """What was compared, what was timed and what makes it fair: by topic."""
    cores = results.threads
    number = sum(framework.parity is not None for framework in results.frameworks.values())
    steps = f", {results.steps_per_call} train steps in a call" if results.steps_per_call else ""
    losses = (
        f"the losses of the first {len(results.judge_losses)} steps" if results.judge_losses else "losses"
    )
    return {
        "The work": (
            f"The same classifier in {number} implementation{'s' * (number != 1)}: one LSTM with "
            f"{results.hidden} hidden units reads {items(results)} as {results.time} time steps of "
            f"{results.inputs} inputs; a dense layer on its last output gives 10 classes; softmax "
            f"cross-entropy; Adam; float32; batches of {results.batch}. Each is written as that framework's "
            f"own users would write it. All on the CPU, each in a process of its own on {cores} "
            f"core{'s' * (cores > 1)}."
        ),
        "Parity first": (
            "All begin with the same weights and get the same batches in the same order. Logits, loss and "
            f"every gradient of the first step, {losses}, and the logits of inference are compared with a "
            "float64 NumPy implementation; what is beyond a tolerance is shown as different and not timed."
        ),
        "Learning rate of parity": (
            "0.001, a tenth of the recipe's. At 0.01 training is chaotic: the float64 judge itself, started "
            "from weights that are off by float32 rounding, a ten-millionth, is off by up to 2 % a hundred "
            "steps later; at 0.001 by less than a millionth."
        ),
        "What is timed": (
            f"One call of the framework on batches that are ready in memory{steps}. What is written in JAX "
            "takes them all in one compiled `lax.scan` over batches already on the device. PyTorch loops in "
            "Python over ready tensors. Keras runs `fit` on ready arrays, or on a ready dataset of "
            "TensorFlow. The learning rate is 1e-08, so that the weights stay what they are, however many "
            "steps are timed."
        ),
        "Turns": (
            "All take turns in rounds, so that drift of the machine meets them alike; start-up and the first "
            "step are told apart. A difference within the spread of the measurements is called no difference."
        ),
        "One bias": (
            "PyTorch's LSTM adds up two biases, and Adam would move their sum twice as fast as one; that of "
            "the input is therefore frozen at zero."
        ),
        "Time to an accuracy": (
            "Starts with a new process for every seed. Reading and shuffling of data and evaluation are left "
            "out; what the framework takes to get the batches counts. The accuracy is looked at a few times "
            "in an epoch, at the points of the curves, so that a time is that of the next look."
        ),
    }


def _size(results: Results) -> str:
    return ", ".join(f"{title} {getattr(results, axis)}" for axis, title in AXIS_TITLES.items())


def _origin(results: Results) -> str:
    cpu = results.machine.get("cpu", "an unknown processor")
    return f"Measured {results.day} on {results.threads} core{'s' * (results.threads > 1)} of {cpu}."


def _text(text: str) -> str:
    """Text for HTML; words in backquotes become code, and a unit stays with its number."""
    escaped = re.sub(r"(?<=\d) (?=%|(?:ms|s|MB)\b)", "&nbsp;", html.escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)


def _findings(found: Sequence[Finding]) -> Iterable[str]:
    for heading, group in by_heading(found).items():
        yield f"<div>\n<h3>{_text(heading)}</h3>\n<ul>"
        yield from (f"<li><strong>{_text(one.topic)}.</strong> {_text(one.text)}</li>" for one in group)
        yield "</ul>\n</div>"


def _table(table: Table, heading: str) -> Iterable[str]:
    if table.title != heading:
        yield f"<h3>{_text(table.title)}</h3>"
    if table.rows:
        kind = ' class="words"' if table.of_words else ""
        name = html.escape(table.title)
        yield f'<div class="scroll" role="region" aria-label="{name}" tabindex="0">\n<table{kind}>'
        header = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.header)
        yield f"<thead><tr>{header}</tr></thead>"
        yield "<tbody>"
        for first, *others in table.rows:
            cells = "".join(_cell(cell, of_words=table.of_words) for cell in others)
            yield f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>'
        yield "</tbody>\n</table>\n</div>"
    yield from (f'<p class="quiet">{_text(note)}</p>' for note in table.notes)


def _cell(text: str, *, of_words: bool) -> str:
    if of_words or len(text) <= LONG:
        return f"<td>{_text(text)}</td>"
    lines = "<br>".join(map(_text, re.split("(?<=;) ", text)))
    return f'<td class="long">{lines}</td>'


def _picture(picture: Picture) -> str:
    # In its own size where there is room; made smaller up to where its letters can still be read.
    size = f"width: {96 * picture.inches:.0f}px; min-width: {70 * picture.inches:.0f}px"
    source = f"data:image/svg+xml;base64,{base64.b64encode(picture.files['svg']).decode()}"
    return (
        f'<figure>\n<div class="scroll" role="region" aria-label="picture: {html.escape(picture.name)}" '
        f'tabindex="0"><img style="{size}" alt="{html.escape(picture.words)}" src="{source}"></div>\n'
        f"<figcaption>{_text(picture.caption)}</figcaption>\n</figure>"
    )


def _facts(results: Results) -> str:
    facts = {
        "command": f"`{results.command}`",
        "begun": results.date,
        **{name: _plain(value) for name, value in results.machine.items()},
        "cores for each framework": str(results.threads),
        "versions": _plain(results.versions),
    }
    rows = "\n".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items() if value
    )
    every = 'Every single measurement is in <a href="results.json">results.json</a>.'
    return f"<dl>\n{rows}\n</dl>\n<p>{every}</p>"


def _plain(value: Any) -> str:
    """A fact about the machine in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(found)}" for name, found in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _list(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    lines = (f"<li>{_text(note)}</li>" for note in notes)
    return ["<h2>Notes</h2>", f"<ul>{''.join(lines)}</ul>"]
