"""The whole comparison as a document in Markdown, and as a folder of files.

results.json    every measurement
report.md       the document, from the template document.md
report.html     the same as one page with its pictures
*.png, *.svg    the pictures
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from lstm_jax.compare.measuring import TIMING_RATE
from lstm_jax.compare.parity import PARITY_RATE
from lstm_jax.compare.report.pictures import DRAWN, Picture, pictures
from lstm_jax.compare.report.tables import (
    MARKS,
    NOTHING,
    accuracy_table,
    frameworks_table,
    items,
    parity_table,
    peak_of,
    scaling_tables,
    speed_table,
    three_digits,
)
from lstm_jax.compare.results import MAIN, Comparison
from lstm_jax.errors import Report
from lstm_jax.report.drawing import NO_PICTURES, SUFFIXES
from lstm_jax.report.page import page
from lstm_jax.report.tables import as_markdown
from lstm_jax.system.files import write_whole


def write_comparison(comparison: Comparison, folder: Path, *, report: Report) -> str:
    """Write all files to an existing folder. Without matplotlib there are no pictures.

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
        report(NO_PICTURES)
    for name in DRAWN:
        for suffix in SUFFIXES:  # from an earlier comparison
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        if name in drawn:
            drawn[name].write(folder, name)
    text = as_text(comparison, drawn)
    write_whole(folder / "report.md", text)
    write_whole(folder / "report.html", page(text, {f"{n}.svg": drawn[n].files["svg"] for n in drawn}))
    report(f"written to {folder}: results.json, report.html, report.md, pictures")
    return text


def as_text(comparison: Comparison, drawn: Mapping[str, Picture]) -> str:
    """Make the document in Markdown, with links to pictures beside it."""
    about, point = comparison.about, comparison.points[MAIN]
    peak = peak_of(point)
    tables = {
        "speed": [speed_table(point, comparison.runs)],
        "parity": [parity_table(point)],
        "learning": [accuracy_table(comparison)],
        "scaling": scaling_tables(comparison),
        "frameworks": [frameworks_table(comparison)],
    }
    parts = {
        name: "\n".join(as_markdown(table) for table in found if table.rows) for name, found in tables.items()
    }
    for name, picture in drawn.items():
        parts[name] = f"![As in the tables below]({name}.svg)\n\n*{picture.caption}*\n\n{parts[name]}"
    parts["notes"] = "\n".join(f"- {note}" for note in about.notes)
    steps = sorted({each.steps for name, each in comparison.points.items() if name != MAIN})
    values = {
        **vars(about),
        "versions": ", ".join(f"{name} {number}" for name, number in about.versions.items()),
        "cpu": about.machine.get("cpu", "unknown processor"),
        "number": sum(row.parity is not None for row in point.rows.values()),
        "size": point.size,
        "items": items(point.size),
        "losses": len(point.judge_losses),
        "steps": point.steps,
        "curve_steps": f"{steps[0]} to {steps[-1]}" if steps else "",
        "parity_rate": PARITY_RATE,
        "timing_rate": TIMING_RATE,
        "peak": NOTHING if peak is None else three_digits(peak / 1e9),
        "marks": MARKS,
        **{name: part.strip() for name, part in parts.items()},
    }
    form = files(__package__).joinpath("document.md").read_text("utf-8").split("\n## ")
    sections = []
    for section in form:
        heading, _, body = section.partition("\n\n")
        content = next((name for name in parts if f"{{{name}}}" in body), None)
        # A section without results says so; a section without notes is left out.
        if content is None or parts[content]:
            sections.append(section.format(**values).strip())
        elif content != "notes":
            sections.append(f"{heading}\n\nNot measured in this comparison.")
    return "\n\n## ".join(sections) + "\n"
