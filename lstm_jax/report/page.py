"""A document in Markdown as one page of HTML without scripts or other files.

HTML within the Markdown is shown as text, and a policy in the page forbids the browser to load or run
anything.
"""

import base64
import html
from collections.abc import Mapping
from importlib.resources import files

from markdown_it import MarkdownIt

# Allow only data: URIs for pictures, and the style within the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(text: str, pictures: Mapping[str, bytes]) -> str:
    """Make the page, in ASCII so that it is correct in any encoding.

    Args:
        text: Markdown, with a heading in its first line.
        pictures: the linked SVG files by name, which become part of the page.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.validateLink = lambda url: True  # type: ignore[method-assign]  # else no data: URI of an SVG
    for name, content in pictures.items():
        text = text.replace(
            f"]({name})", f"](data:image/svg+xml;base64,{base64.b64encode(content).decode()})"
        )
    body = markdown.render(text)
    # Each table scrolls by itself, also with the keyboard.
    body = body.replace(
        "<table>", '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>'
    )
    body = body.replace("</table>", "</table></div>")
    style = files(__package__).joinpath("page.css").read_text("utf-8")
    title = html.escape(text.partition("\n")[0].removeprefix("# ").replace("`", ""))
    whole = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
    return whole.encode("ascii", "xmlcharrefreplace").decode()
