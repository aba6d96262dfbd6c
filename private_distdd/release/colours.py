"""The colours of our pages, by name and for both schemes: dark where the reader's device asks for it, paper white."""

COLOURS = """\
:root{color-scheme:light dark;--ground:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--faint:#e3e7eb;
 --good:#0d5c28;--good-ground:#e6f4ea;--good-edge:#137333;
 --warn:#6b4700;--warn-ground:#fff4d1;--warn-edge:#d4a000;
 --bad:#8f0016;--bad-ground:#ffe9e6;--bad-edge:#b3001b;--blue:#0550ae;--violet:#8250df}
@media screen and (prefers-color-scheme:dark){
 :root{--ground:#14181d;--ink:#e2e6ea;--soft:#a3acb6;--line:#3d454e;--faint:#2b323a;
 --good:#7fdc9f;--good-ground:#12301d;--good-edge:#2ea65a;
 --warn:#f5cf6b;--warn-ground:#362b0c;--warn-edge:#d4a000;
 --bad:#ffa3a9;--bad-ground:#43171b;--bad-edge:#f0616d;--blue:#6cb0ff;--violet:#c297ff}
}
"""
