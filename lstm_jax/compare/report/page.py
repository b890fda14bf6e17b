"""A document in Markdown as one page of HTML that needs nothing else: no script, no font, no picture.

Whatever is HTML in the Markdown is shown as text, and a policy in the page forbids the browser to fetch or to
run anything.
"""

import base64
from collections.abc import Mapping

from markdown_it import MarkdownIt

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --quiet: #5a5a5a; --line: #d8d8d8;
  --band: #f4f4f2; --mark: #b84a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --quiet: #a8a8a8; --line: #3a3a3a; --band: #212121;
    --mark: #f0a060; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 96rem; margin: 0 auto; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-top: .6rem; border-top: 2px solid var(--mark); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, ul { max-width: 52rem; margin: .5rem 0; overflow-wrap: anywhere; }
p:has(img) { max-width: none; overflow-x: auto; }
em { color: var(--quiet); font-style: normal; }
td strong { color: var(--mark); }
.scroll { overflow-x: auto; max-width: 100%; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); min-width: 4rem;
  overflow-wrap: anywhere; }
thead th { vertical-align: bottom; background: var(--band); }
tbody tr:nth-child(even) > * { background: var(--band); }
tr > :first-child { position: sticky; left: 0; background: var(--paper); white-space: nowrap; }
img { display: block; min-width: 36rem; max-width: 100%; background: #fff; border-radius: 4px; }
code { font-size: .9em; background: var(--band); padding: .1em .3em; }
"""

# Data: URIs for pictures, the style above, and nothing else.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(text: str, pictures: Mapping[str, bytes]) -> str:
    """The whole page, in ASCII, so that it is read right whatever encoding it is written in.

    Args:
        text: Markdown, with a heading in its first line.
        pictures: SVG files that it links to, by name; they become part of the page.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.validateLink = lambda url: True  # type: ignore[method-assign]  # else no data: URI of an SVG
    for name, content in pictures.items():
        text = text.replace(
            f"]({name})", f"](data:image/svg+xml;base64,{base64.b64encode(content).decode()})"
        )
    body = markdown.render(text)
    # Each table scrolls by itself, with the keyboard too.
    body = body.replace(
        "<table>", '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>'
    )
    body = body.replace("</table>", "</table></div>")
    title = text.partition("\n")[0].removeprefix("# ")
    whole = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
    return whole.encode("ascii", "xmlcharrefreplace").decode()
