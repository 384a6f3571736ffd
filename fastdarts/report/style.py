"""The page's style sheet: the palette as variables, light and dark, and a few rules; nothing comes from elsewhere."""

from __future__ import annotations

from html import escape

from fastdarts.report.markup import Markup, element
from fastdarts.report.palette import COLOURS, FONT

__all__ = ["document", "stylesheet"]

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 @FONT@}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--faint)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0;max-width:75ch}
.sub,.note,figcaption,.legend{color:var(--muted)}.sub{max-width:none}
.note,figcaption,.legend{font-size:.88rem}
code,pre{font:.86rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
code{overflow-wrap:anywhere}
pre{background:var(--panel);border-radius:8px;padding:12px 14px;margin:.6rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
.verdict{background:var(--panel);border-left:5px solid var(--muted);border-radius:0 8px 8px 0}
.verdict{padding:14px 18px;margin:1.3rem 0}
.verdict p{max-width:none}
.verdict strong{font-size:1.12rem}
.better{border-color:var(--skip_connect)}.unsure{border-color:var(--max_pool_3x3)}.worse{border-color:var(--accent)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:1.2rem 0;padding:0}
.tiles div{background:var(--panel);border-radius:8px;padding:10px 14px}
.tiles dt{color:var(--muted);font-size:.82rem}
.tiles dd{margin:0;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums}
.tiles small{display:block;color:var(--muted);font-size:.78rem;font-weight:400}
.cells{display:flex;flex-wrap:wrap;gap:8px 24px;align-items:flex-start}
.cells svg,figure svg{max-width:100%;height:auto;display:block}
figure{margin:1rem 0}figure svg{width:100%}figure svg *{stroke-linejoin:round;stroke-linecap:butt}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;list-style:none;padding:0;margin:.6rem 0}
.legend i{display:inline-block;width:14px;height:6px;border-radius:3px;margin-right:7px;vertical-align:middle}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;min-width:50%}
th,td{text-align:left;padding:5px 16px 5px 0;border-bottom:1px solid var(--faint);vertical-align:top}
th{color:var(--muted);font-weight:600}
tr.marked td{font-weight:600;color:var(--accent)}
.settings{columns:3 240px;column-gap:28px;font-size:.88rem;margin:.6rem 0}
.settings div{display:flex;justify-content:space-between;gap:12px;padding:4px 0;break-inside:avoid}
.settings div{border-bottom:1px solid var(--faint)}
.settings dt{color:var(--muted)}.settings dd{margin:0;text-align:right;overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--muted);font-size:.9rem}
td details{margin:0;max-width:46ch;font-weight:400;color:var(--ink)}
.narrow{display:none}.narrow svg{max-width:27rem}
.formulas ul{list-style:none;padding:0;margin:.3rem 0 1rem;font-size:.95rem;line-height:1.7}
@media screen and (max-width:800px){.wide{display:none}.narrow{display:block}main{padding:20px 16px 48px}
h1{font-size:1.45rem;overflow-wrap:anywhere}.cells{display:block;overflow-x:auto}.cells svg{max-width:none}
.tiles{grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:8px}.verdict{padding:12px 14px}
th,td{padding-right:12px}.settings{columns:1}table{font-size:.86rem}}
@media print{@page{margin:15mm}main{max-width:none;padding:0}body{font-size:10.5pt}.scroll{overflow:visible}
figure,.cells svg,.verdict,.tiles div,tr{break-inside:avoid}h2,h3{break-after:avoid}
.tiles div,pre{border:1px solid var(--faint)}}
"""


def stylesheet() -> str:
    """CSS of the page; dark colours on a dark screen, light ones on paper."""
    light = "".join(f"--{key}:{colour.light};" for key, colour in COLOURS.items())
    dark = "".join(f"--{key}:{colour.dark};" for key, colour in COLOURS.items())
    uses = (("f", "fill"), ("s", "stroke"), ("b", "background"))
    drawn = "".join(f".{short}-{key}{{{rule}:var(--{key})}}" for key in COLOURS for short, rule in uses)
    scheme = f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return scheme + _RULES.replace("@FONT@", FONT) + drawn


def document(heading: str, body: Markup) -> str:
    """A page of its own as HTML text.

    Args:
        heading: what the browser calls it.
        body: what it shows.
    """
    head = element(
        "head",
        Markup('<meta charset="utf-8">\n<meta name="viewport" content="width=device-width,initial-scale=1">\n'),
        Markup(f"<title>{escape(heading)}</title>\n"),
        Markup(f"<style>{stylesheet()}</style>\n"),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", body), lang="en")
