"""Tables in Markdown."""

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table.

    Attributes:
        header: a title for each column; the first column names the rows.
        rows: the cells of each row; no rows if nothing was measured.
        notes: sentences below the table.
        title: the title of the table, if it needs one.
        of_words: whether its cells are words and not numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    title: str = ""
    of_words: bool = False


def as_markdown(table: Table, *, heading: str = "###") -> str:
    """Convert a table to Markdown, with its title, if it has one, as a heading."""
    others = "---" if table.of_words else "---:"
    rows = [table.header, ("---", *[others] * (len(table.header) - 1)), *table.rows]
    lines = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)
    parts = [f"{heading} {table.title}", lines] if table.title else [lines]
    return "\n\n".join([*parts, *(" ".join(note.split()) for note in table.notes)]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
