"""What mkdocs.yml adds to the documents in docs/, as hooks of MkDocs.

- The first page is README.md.
- A file of the project that a document links to has a page of its own, `project/PATH.md`. Links are written
  as GitHub follows them, and lead there.
- The reference is made from docstrings.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)")
CODE = {".py": "python", ".toml": "toml", ".yml": "yaml"}

# Of each page of the reference: its title, and what it documents.
REFERENCE = {
    "linen": ("The layer for Flax Linen", ["lstm_jax.linen.LSTM"]),
    "nnx": ("The layer for Flax NNX", ["lstm_jax.nnx.LSTM"]),
    "equinox": ("The layer for Equinox", ["lstm_jax.equinox.LSTM"]),
    "function": ("The LSTM as a function", ["lstm_jax.functional.lstm"]),
    "classifier": ("The classifier", ["lstm_jax.model.LSTMClassifier", "lstm_jax.model.as_sequence"]),
    "training": (
        "Training as a function",
        [
            "lstm_jax.runs.loop.train",
            "lstm_jax.runs.finished.TrainResult",
            "lstm_jax.data.dataset.load_dataset",
        ],
    ),
}

# Korean lines break between words.
STYLE = ".md-typeset { word-break: keep-all; overflow-wrap: break-word; }\n"


class Stars(griffe.Extension):
    """Shapes in docstrings, as (*batch, time), have stars, which are no emphasis."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape the stars that are not in code."""
        if obj.docstring:
            kept = r"(``[^`]*``|`[^`]*`|^ *>>>.*$)|(\*)(?=[a-z])"
            obj.docstring.value = re.sub(
                kept, lambda found: found[1] or "\\*", obj.docstring.value, flags=re.MULTILINE
            )


def page_of(path: str) -> str:
    """Return where a file of the project is in the site: the source of its page, or the file as it is."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"project/{path.removesuffix('.md')}.md"


def linked(document: str) -> list[str]:
    """Return the files that a document of the project links to, as paths in the project."""
    targets = LINK.findall((PROJECT / document).read_text())
    return [posixpath.normpath(posixpath.join(posixpath.dirname(document), target)) for target in targets]


def relinked(text: str, document: str) -> str:
    """Return the text of a document of the project, with links as they are in the site."""
    here = posixpath.dirname(page_of(document)) or "."

    def lead(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(document), match[1]))
        return posixpath.relpath(page_of(path), here)

    return LINK.sub(lead, text)


def outside_docs() -> list[str]:
    """Return all files outside docs/ that a page of the site links to, and README.md."""
    open_, found = (
        [f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md")] + ["README.md"],
        {"README.md"},
    )
    while open_:
        for path in linked(open_.pop()):
            if not path.startswith("docs/") and path not in found:
                found.add(path)
                if path.endswith(".md"):
                    open_.append(path)
    return sorted(found)


def as_page(path: str) -> str:
    """Return the Markdown of a file outside docs/."""
    content = (PROJECT / path).read_text()
    if path.endswith(".md"):
        return relinked(content, path)
    return f"# {path}\n\n````{CODE.get(posixpath.splitext(path)[1], 'text')}\n{content}````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in docs/."""
    pages = {page_of(path): as_page(path) for path in outside_docs()}
    for name, (title, objects) in REFERENCE.items():
        pages[f"reference/{name}.md"] = "\n\n".join([f"# {title}", *(f"::: {each}" for each in objects), ""])
    pages["site.css"] = STYLE
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead the links of the documents in docs/ to the pages of the site."""
    uri = page.file.src_uri
    return relinked(markdown, f"docs/{uri}") if (PROJECT / "docs" / uri).is_file() else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Show one colon where a docstring has two before an example."""
    return html.replace("::</p>", ":</p>")
