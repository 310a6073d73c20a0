"""The page around the report: HTML and CSS as one ``string.Template``, in Python so that it travels inside every wheel.

``$name`` marks what ``report.py`` fills in, already escaped. No script, no font, no image from anywhere else. Light by default, dark
where the reader's system is; wide tables scroll inside their own box, so the page never scrolls sideways.
"""

from string import Template
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --muted: #667080; --line: #e3e7ec; --soft: #f5f7f9;
  --accent: #0b62c4; --second: #d9822b; --good: #14795a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --muted: #98a2b0; --line: #2d333b;
  --soft: #1c2026; --accent: #6cb0ff; --second: #f0a95a; --good: #58c99b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.4rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 0.5rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.8rem 0 0.4rem; }
p { margin: 0.4rem 0 0.8rem; max-width: 46rem; }
.lead, .note { color: var(--muted); }
.note { font-size: 0.875rem; }
dl.card { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 0.75rem; margin: 1.5rem 0 0; }
dl.card div { background: var(--soft); border-radius: 0.5rem; padding: 0.6rem 0.8rem; min-width: 0; }
dt { color: var(--muted); font-size: 0.8rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.5rem 0 0.75rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; font-size: 0.8rem; }
tbody tr:hover td { background: var(--soft); }
th:first-child { text-align: left; font-weight: 500; position: sticky; left: 0; background: var(--paper);
  padding-left: 0; white-space: normal; min-width: 10rem; }
td small { display: block; color: var(--muted); font-size: 0.72rem; line-height: 1.3; }
td b { color: var(--good); font-weight: 650; }
figure { margin: 0.75rem 0; max-width: 46rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
article { border: 1px solid var(--line); border-radius: 0.75rem; padding: 1rem 1.15rem; margin: 1rem 0; }
article > h3 { margin: 0.9rem 0 0.25rem; color: var(--muted); font-size: 0.8rem; font-weight: 500; }
article > h3:first-child { margin-top: 0; }
.history { margin: 0; }
.history span + span::before { content: "→"; color: var(--muted); padding: 0 0.45em; }
ol.items { margin: 0; padding: 0; list-style: none; counter-reset: place; }
ol.items > li { counter-increment: place; display: grid; grid-template-columns: 1.6rem 1fr auto; padding: 0.3rem 0;
  border-bottom: 1px solid var(--line); }
ol.items > li:last-child { border-bottom: 0; }
ol.items > li::before { content: counter(place); color: var(--muted); font-variant-numeric: tabular-nums; }
.score { color: var(--muted); font-size: 0.875rem; font-variant-numeric: tabular-nums; padding-left: 1rem; }
.hit { color: var(--good); font-weight: 600; }
details { grid-column: 2 / -1; font-size: 0.875rem; color: var(--muted); }
summary { cursor: pointer; }
details ul { margin: 0.25rem 0 0.4rem; padding: 0; list-style: none; }
details li { display: grid; grid-template-columns: 4.5rem 1fr; padding: 0.15rem 0; }
details li > span:first-child { font-variant-numeric: tabular-nums; }
details b { color: var(--ink); font-weight: 500; }
@media (max-width: 40rem) { main { padding: 1.5rem 1rem 3rem; } h1 { font-size: 1.5rem; } article { padding: 0.85rem 0.9rem; }
  th:first-child { min-width: 7.5rem; } }
@media print { details { display: block; } article { break-inside: avoid; } }
"""

PAGE: Final = Template(f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")
"""Substitute ``title`` and ``body``, both finished HTML."""
