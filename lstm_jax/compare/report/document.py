"""The whole comparison as a document in Markdown, and as a folder of files.

results.json    every measurement
report.md       the document
report.html     the same as one page, with its pictures in it
*.png, *.svg    the pictures
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lstm_jax.compare.measuring import TIMING_RATE, Tell
from lstm_jax.compare.parity import PARITY_RATE
from lstm_jax.compare.report.page import page
from lstm_jax.compare.report.pictures import DRAWN, NO_PICTURES, SUFFIXES, Picture, pictures
from lstm_jax.compare.report.tables import (
    Table,
    accuracy_table,
    as_markdown,
    frameworks_table,
    items,
    parity_table,
    scaling_tables,
    speed_table,
)
from lstm_jax.compare.results import MAIN, Comparison
from lstm_jax.system.files import write_whole

BODY = """\
# LSTMs compared

`{about.command}`

{about.date}, {about.machine[cpu]}; cores: {about.cores}; {versions}. Every single measurement is in
[results.json](results.json).

- **The work.** The same classifier in {number} implementations: one LSTM with {size.hidden} hidden units
  reads {items} as {size.time} time steps of {size.inputs} inputs; a dense layer on its last output gives 10
  classes; softmax cross-entropy; Adam; float32; batches of {size.batch}. Each is written as that
  framework's own users would write it. All on the CPU, each in a process of its own; cores: {cores}.
- **Parity first.** All begin with the same weights and get the same batches in the same order. The logits
  of inference, loss and every gradient of the first step, and the losses of the first {losses} steps are
  compared with a float64 NumPy implementation; what is beyond a tolerance is shown as different and not
  timed. The learning rate is {parity_rate:g}, a tenth of the tutorial's. At 0.01 training is chaotic: the
  float64 judge itself, started from weights that are off by float32 rounding, a ten-millionth, is off by up
  to 2 % a hundred steps later; at 0.001 by less than a millionth.
- **What is timed.** One call of the framework on batches that are ready in memory, {steps} train steps in a
  call. What is written in JAX takes them all in one compiled `lax.scan` over batches already on the device.
  PyTorch loops in Python over ready tensors. Keras runs `fit` on ready arrays, or on a ready dataset of
  TensorFlow. The learning rate is {timing_rate:g}, so that the weights stay what they are, however many
  steps are timed.
- **Turns.** All take turns in rounds, so that drift of the machine meets them alike; start-up and the first
  step are told apart.
- **One bias.** PyTorch's LSTM adds up two biases, and Adam would move their sum twice as fast as one; that
  of the input is therefore frozen at zero.
- **Time to an accuracy.** Starts with a new process for every seed. Reading and shuffling of data and
  evaluation are left out; what the framework takes to get the batches counts. The accuracy is looked at a
  few times in an epoch, at the points of the curves, so that a time is that of the next look.

{sections}
"""


def write_comparison(comparison: Comparison, folder: Path, *, tell: Tell) -> str:
    """Write all files to an existing folder; without matplotlib, without pictures.

    Returns:
        The document.
    """
    write_whole(folder / "results.json", comparison.as_json())
    if MAIN not in comparison.points:
        return "Nothing is measured yet."
    drawn: Mapping[str, Picture] = {}
    try:
        drawn = pictures(comparison)
    except ImportError:
        tell(NO_PICTURES)
    for name in DRAWN:
        for suffix in SUFFIXES:  # those of an earlier comparison
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        if name in drawn:
            drawn[name].write(folder, name)
    text = as_text(comparison, drawn)
    write_whole(folder / "report.md", text)
    write_whole(folder / "report.html", page(text, {f"{n}.svg": drawn[n].files["svg"] for n in drawn}))
    tell(f"written to {folder}: results.json, report.html, report.md, pictures")
    return text


def as_text(comparison: Comparison, drawn: Mapping[str, Picture]) -> str:
    """The document in Markdown, with links to pictures that lie beside it."""
    about, point = comparison.about, comparison.points[MAIN]
    sections: Mapping[str, tuple[str, Sequence[Table]]] = {
        "speed": ("Speed", [speed_table(comparison)]),
        "parity": ("Parity with the float64 judge", [parity_table(point)]),
        "learning": ("Accuracy", [accuracy_table(comparison)]),
        "scaling": ("Scaling", scaling_tables(comparison)),
        "": ("Frameworks", [frameworks_table(comparison)]),
    }
    parts = []
    for name, (heading, tables) in sections.items():
        parts.append(f"## {heading}")
        if name in drawn:
            parts.append(f"![{heading}, as in the tables below]({name}.svg)\n\n*{drawn[name].caption}*")
        parts += [as_markdown(table, heading="###" if len(tables) > 1 else None) for table in tables]
    if about.notes:
        parts.append("\n".join(["## Notes\n", *(f"- {note}" for note in about.notes)]))
    return BODY.format(
        about=about,
        versions=", ".join(f"{name} {number}" for name, number in about.versions.items()),
        number=sum(row.parity is not None for row in point.rows.values()),
        size=point.size,
        items=items(point.size),
        cores=about.cores,
        losses=len(point.judge_losses),
        steps=point.steps,
        parity_rate=PARITY_RATE,
        timing_rate=TIMING_RATE,
        sections="\n\n".join(part.strip() for part in parts),
    )
