"""Draws folded stacks (`frame;frame;frame count` per line, outermost first) as a flame graph in SVG.

usage: flame.py [--title TEXT] [--width PIXELS] < FOLDED > SVG

The width of a box is its share of the samples; a box stands on its caller; colours tell kernel, our own code, RocksDB
and the rest apart. The name and share of a box show when the pointer rests on it; a click on a box narrows the picture
to it, a click on the lowest box widens it again.
"""

import argparse
import re
import sys
import zlib
from xml.sax.saxutils import escape, quoteattr

ROW = 17
MARGIN = 10
HEAD = 46
CHARACTER = 6.6
NARROWEST = 0.3

KERNEL = re.compile(r"_\[k\]$")
OURS = re.compile(r"\b(ringkv_\w+|raft|wal|net|engine|bench)::")
ROCKSDB = re.compile(r"rocksdb")

SCRIPT = """
const all = [...document.querySelectorAll('g.f')].map(g => {
  const rect = g.querySelector('rect'), text = g.querySelector('text');
  return {g, rect, text, name: g.dataset.n, x: +rect.getAttribute('x'), w: +rect.getAttribute('width'),
          y: +rect.getAttribute('y')};
});
const left = all[0].x, width = all[0].w;
function narrow(to) {
  const scale = width / to.w;
  for (const f of all) {
    const above = f.y <= to.y, within = f.x >= to.x - 0.01 && f.x + f.w <= to.x + to.w + 0.01;
    const below = f.y > to.y && f.x <= to.x + 0.01 && f.x + f.w >= to.x + to.w - 0.01;
    f.g.style.display = (above && within) || below ? '' : 'none';
    const x = below ? left : left + (f.x - to.x) * scale, w = below ? width : f.w * scale;
    f.rect.setAttribute('x', x); f.rect.setAttribute('width', w);
    const room = Math.floor((w - 4) / CHARACTER);
    f.text.setAttribute('x', x + 3);
    f.text.textContent = room < 3 ? '' : f.name.length <= room ? f.name : f.name.slice(0, room - 1) + '…';
  }
}
all.forEach(f => f.g.addEventListener('click', () => narrow(f)));
""".replace("CHARACTER", str(CHARACTER))


class Node:
    """One box: its samples (its callees' included) and its callees by name."""

    def __init__(self):
        self.samples = 0
        self.callees = {}


def read_tree(lines):
    root = Node()
    for line in lines:
        stack, _, count = line.rstrip("\n").rpartition(" ")
        if not stack or not count.isdigit():
            continue
        node = root
        node.samples += int(count)
        for frame in stack.split(";"):
            node = node.callees.setdefault(frame, Node())
            node.samples += int(count)
    return root


def colour(name):
    shade = zlib.crc32(name.encode()) % 40
    if KERNEL.search(name):
        return f"rgb({225 + shade // 2},{120 + shade},{60 + shade})"
    if OURS.search(name):
        return f"rgb({80 + shade},{165 + shade},{90 + shade})"
    if ROCKSDB.search(name):
        return f"rgb({100 + shade},{150 + shade},{205 + shade})"
    return f"rgb({205 + shade},{185 + shade},{115 + shade})"


def depth_of(node, scale):
    callees = [callee for callee in node.callees.values() if callee.samples * scale >= NARROWEST]
    return 1 + max((depth_of(callee, scale) for callee in callees), default=0)


def draw(name, node, x, level, canvas):
    """Appends the box of `node` at `x` and, above it, those of its callees."""
    width = node.samples * canvas["scale"]
    if width < NARROWEST:
        return
    y = canvas["height"] - MARGIN - (level + 1) * ROW
    room = int((width - 4) / CHARACTER)
    label = "" if room < 3 else name if len(name) <= room else name[: room - 1] + "…"
    share = 100 * node.samples / canvas["samples"]
    canvas["boxes"].append(
        f'<g class="f" data-n={quoteattr(name)}><title>{escape(name)} ({node.samples:,} samples, {share:.2f} %)</title>'
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW - 1}" rx="1" fill="{colour(name)}"/>'
        f'<text x="{x + 3:.2f}" y="{y + 12}">{escape(label)}</text></g>'
    )
    for callee, below in sorted(node.callees.items()):
        draw(callee, below, x, level + 1, canvas)
        x += below.samples * canvas["scale"]


def render(root, title, width):
    scale = (width - 2 * MARGIN) / root.samples
    height = HEAD + depth_of(root, scale) * ROW + 2 * MARGIN
    canvas = {"scale": scale, "height": height, "samples": root.samples, "boxes": []}
    draw("all", root, MARGIN, 0, canvas)
    boxes = "\n".join(canvas["boxes"])
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">
<style>text {{ font: 11px monospace; pointer-events: none }} .f {{ cursor: pointer }} .f:hover rect {{ stroke: #000 }}</style>
<rect width="100%" height="100%" fill="#fcfcf8"/>
<text x="{MARGIN}" y="20" style="font-size:15px">{escape(title)}</text>
<text x="{MARGIN}" y="37">orange: kernel; green: RingKV; blue: RocksDB; yellow: runtime and libraries</text>
{boxes}
<script><![CDATA[{SCRIPT}]]></script>
</svg>
"""


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--title", default="flame graph")
    parser.add_argument("--width", type=int, default=1600)
    options = parser.parse_args()
    sys.setrecursionlimit(10_000)
    root = read_tree(sys.stdin)
    if not root.samples:
        sys.exit("flame: no stacks on standard input")
    print(render(root, options.title, options.width), end="")


if __name__ == "__main__":
    main()
