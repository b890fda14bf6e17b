"""The whole report: as Markdown for the terminal, and as a folder of files.

results.json    every measurement
report.html     all of it on one page
*.png, *.svg    its pictures
"""

from collections.abc import Sequence
from pathlib import Path

from lstm_jax.compare.against import TITLE, against_finding, against_table
from lstm_jax.compare.findings import Finding, by_heading, findings
from lstm_jax.compare.page import how, page
from lstm_jax.compare.plots import Picture, pictures, write_pictures
from lstm_jax.compare.results import Results, as_json
from lstm_jax.compare.tables import (
    Table,
    accuracy_table,
    as_markdown,
    frameworks_table,
    parity_table,
    scaling_tables,
    speed_table,
)
from lstm_jax.system.files import write_whole

NO_PICTURES = "There are no pictures: matplotlib is not installed (`pip install matplotlib`)."


def write_report(results: Results, folder: Path, *, against: Results | None) -> None:
    """Write results.json, pictures and report.html; without matplotlib, a page without pictures.

    Args:
        results: what was found.
        folder: an existing folder; pictures of an earlier report that this one has not are removed.
        against: an earlier comparison; None if there is none.
    """
    write_whole(folder / "results.json", as_json(results))
    drawn, notes = _pictures(results)
    write_pictures(drawn, folder)
    by_name = {picture.name: picture for picture in drawn}
    sections = {
        heading: (tables, by_name.get(name))
        for heading, (name, tables) in _sections(results, against).items()
    }
    found = _findings(results, against)
    write_whole(folder / "report.html", page(results, found, sections, (*results.notes, *notes)))


def as_text(results: Results, against: Results | None) -> str:
    """The report in Markdown, without its pictures."""
    parts = [
        "# LSTMs compared",
        f"`{results.command}`",
        f"{results.day}, {_machine(results)}",
        "\n".join(f"- **{topic}.** {text}" for topic, text in how(results).items()),
        "## Findings",
    ]
    for heading, group in by_heading(_findings(results, against)).items():
        parts += [f"### {heading}", "\n".join(f"- **{one.topic}.** {one.text}" for one in group)]
    for heading, (_, tables) in _sections(results, against).items():
        if len(tables) > 1:
            parts.append(f"## {heading}")
        parts += [as_markdown(table, level=2 + (len(tables) > 1)).rstrip() for table in tables]
    if results.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in results.notes)]
    return "\n\n".join(parts) + "\n"


def _sections(results: Results, against: Results | None) -> dict[str, tuple[str, Sequence[Table]]]:
    """By heading: the name of a picture, and tables."""
    sections: dict[str, tuple[str, Sequence[Table]]] = {
        "Speed": ("speed", [speed_table(results)]),
        "Parity with the float64 judge": ("parity", [parity_table(results)]),
        "Accuracy": ("learning", [accuracy_table(results)]),
        "Scaling": ("scaling", scaling_tables(results)),
        "Frameworks": ("", [frameworks_table(results)]),
    }
    if against:
        sections[TITLE] = ("", [against_table(results, against)])
    return sections


def _findings(results: Results, against: Results | None) -> list[Finding]:
    return [*findings(results), *([against_finding(results, against)] if against else [])]


def _pictures(results: Results) -> tuple[list[Picture], tuple[str, ...]]:
    """The pictures, and what must be said about them."""
    try:
        return pictures(results), ()
    except ImportError:
        return [], (NO_PICTURES,)


def _machine(results: Results) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    return f"{results.machine.get('cpu', 'unknown processor')}, {results.threads} cores; {versions}."
