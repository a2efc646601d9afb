"""Docstrings as HTML: paragraphs, lists, tables, numpydoc sections, inline code, and LaTeX as MathML."""

import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from latex2mathml.converter import convert_to_element

# MathML Core knows no alphabet but italic: other letters are characters of their own.
_ALPHABETS = {
    "double-struck": (0x1D538, {"C": "ℂ", "H": "ℍ", "N": "ℕ", "P": "ℙ", "Q": "ℚ", "R": "ℝ", "Z": "ℤ"}),
    "script": (
        0x1D49C,
        {"B": "ℬ", "E": "ℰ", "F": "ℱ", "H": "ℋ", "I": "ℐ", "L": "ℒ", "M": "ℳ", "R": "ℛ"},
    ),
    "fraktur": (0x1D504, {"C": "ℭ", "H": "ℌ", "I": "ℑ", "R": "ℜ", "Z": "ℨ"}),
}


@cache
def mathml(latex: str, display: bool = False) -> str:
    """LaTeX as a MathML element; the LaTeX goes along for whoever copies it.

    Raises
    ------
    ValueError
        If it is no LaTeX that can be converted.
    """
    try:
        element = convert_to_element(_supported(latex), display="block" if display else "inline")
    except Exception as error:  # the converter raises a dozen types of its own, without a common one
        raise ValueError(f"LaTeX that does not convert: {latex}: {type(error).__name__} {error}") from error
    for node in element.iter():
        if node.text:
            node.text = html.unescape(node.text)
        variant = node.attrib.get("mathvariant", "")
        if variant in _ALPHABETS and node.text:
            del node.attrib["mathvariant"]
            node.text = "".join(_letter(character, *_ALPHABETS[variant]) for character in node.text)
    _join_words(element)
    _stretch_fences(element)
    left = [node.text for node in element.iter() if node.text and "\\" in node.text]
    if left:
        raise ValueError(f"LaTeX that does not convert: {left[0]} in {latex}")
    element.set("alttext", latex)
    return ElementTree.tostring(element, encoding="unicode")


def _supported(latex: str) -> str:
    """Commands that the converter does not know, in those that it does."""
    latex = re.sub(r"\\(big|Big|bigg|Bigg)([lrm]?)(?![a-zA-Z])", "", latex)
    latex = re.sub(r"\\(lVert|rVert)\b", r"\\|", latex)
    latex = re.sub(r"\\(lvert|rvert)\b", "|", latex)
    latex = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", latex)
    return re.sub(r"\\(dfrac|tfrac)\b", r"\\frac", latex)


def _letter(character: str, start: int, exceptions: dict[str, str]) -> str:
    if character in exceptions:
        return exceptions[character]
    if "A" <= character <= "Z":
        return chr(start + ord(character) - ord("A"))
    if "a" <= character <= "z":
        return chr(start + 26 + ord(character) - ord("a"))
    return character


def _join_words(element: ElementTree.Element) -> None:
    """Make one identifier of upright letters that stand side by side: a word is not a product."""
    for parent in list(element.iter()):
        if parent.tag not in ("mrow", "mstyle", "mtd", "math"):
            continue
        previous: ElementTree.Element | None = None
        for child in list(parent):
            upright = child.tag == "mi" and child.attrib.get("mathvariant") == "normal"
            if upright and previous is not None:
                previous.text = (previous.text or "") + (child.text or "")
                parent.remove(child)
            else:
                previous = child if upright else None


def _stretch_fences(element: ElementTree.Element) -> None:
    """Let the fences around a matrix grow with it; inside a longer row they would count as small signs."""
    for parent in element.iter():
        children = list(parent)
        for index, child in enumerate(children):
            if child.tag != "mtable":
                continue
            for neighbour, form in ((index - 1, "prefix"), (index + 1, "postfix")):
                if 0 <= neighbour < len(children) and children[neighbour].tag == "mo":
                    children[neighbour].attrib |= {"form": form, "stretchy": "true", "fence": "true"}


def inline(text: str) -> str:
    """A line of prose: ``code``, `code`, :role:`name`, *emphasis* and $mathematics$; everything else is escaped."""
    pieces: list[str] = []
    position = 0
    for match in _INLINE.finditer(text):
        pieces.append(html.escape(text[position : match.start()]))
        position = match.end()
        if match["math"] is not None:
            pieces.append(mathml(match["math"]))
        elif match["code"] or match["argument"]:
            pieces.append(f"<code>{html.escape(match['code'] or match['argument'])}</code>")
        elif match["name"] is not None:
            pieces.append(f"<code>{html.escape(match['name'].lstrip('.').rpartition('.')[2])}</code>")
        else:
            pieces.append(f"<em>{html.escape(match['emphasis'])}</em>")
    return "".join([*pieces, html.escape(text[position:])])


_INLINE = re.compile(
    r"\$(?P<math>[^$]+)\$|``(?P<code>.+?)``|:\w+:`~?(?P<name>[^`]+)`|`(?P<argument>[^`]+)`"
    r"|(?<![\w*])\*\*?(?P<emphasis>[^*\s][^*]*)\*\*?"
)


def document(text: str) -> str:
    """A docstring as HTML."""
    return "\n".join(_blocks(text.strip("\n").split("\n")))


def _blocks(lines: Sequence[str]) -> Iterator[str]:
    index = 0
    while index < len(lines):
        line = lines[index]
        if not line.strip():
            index += 1
        elif line.startswith("$$"):
            index, source = _until(lines, index, lambda one: one.rstrip(",. ").endswith("$$") and one.strip() != "$$")
            first, _, rest = source.strip().removeprefix("$$").rpartition("$$")
            yield f'<div class="display">{mathml(" ".join(first.split()), display=True)}{html.escape(rest)}</div>'
        elif re.fullmatch(r"=+( +=+)+", line.strip()):
            end = max(i for i in range(index, len(lines)) if re.fullmatch(r"=+( +=+)+", lines[i].strip()))
            yield _table(lines[index : end + 1])
            index = end + 1
        elif index + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[index + 1].strip()):
            title = line.strip()
            end = index + 2
            while end < len(lines) and not (end + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[end + 1].strip())):
                if lines[end] and not lines[end][0].isspace() and lines[end].startswith("Source:"):
                    break
                end += 1
            yield f"<h4>{html.escape(title)}</h4>"
            yield from _definitions(lines[index + 2 : end])
            index = end
        elif re.match(r"([-*]|\d+\.|\([a-z0-9]\)) ", line):
            end = index
            while end < len(lines) and lines[end].strip():
                end += 1
            yield _list(lines[index:end])
            index = end
        elif line.startswith("    "):
            end = index
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield f"<pre>{html.escape(chr(10).join(one[4:] for one in lines[index:end]).rstrip())}</pre>"
            index = end
        else:
            end = index
            while end < len(lines) and lines[end].strip() and not (end > index and lines[end].startswith("$$")):
                end += 1
            yield f"<p>{inline(' '.join(one.strip() for one in lines[index:end]))}</p>"
            index = end


def _until(lines: Sequence[str], start: int, ends: Callable[[str], bool]) -> tuple[int, str]:
    """The lines from `start` to the first that ends the block, and the index after it."""
    for end in range(start, len(lines)):
        if ends(lines[end]) and (end > start or lines[end].count("$$") == 2):
            return end + 1, "\n".join(lines[start : end + 1])
    raise ValueError(f"$$ without its end: {lines[start]}")


def _definitions(lines: Sequence[str]) -> Iterator[str]:
    """A numpydoc section: terms flush left, what they are indented below."""
    body = "\n".join(lines)
    if not any(line.startswith("    ") for line in lines) and not any(" : " in line for line in lines):
        yield from _blocks(lines)
        return
    yield "<dl>"
    for chunk in re.split(r"\n(?=\S)", body.strip("\n")):
        head, *rest = chunk.split("\n")
        if not head.strip():
            continue
        name, _, kind = head.partition(" : ")
        yield f"<dt><code>{html.escape(name.strip())}</code> {inline(kind)}</dt>"
        text = "\n".join(one.removeprefix("    ") for one in rest).strip()
        if text:
            yield f"<dd>{''.join(_blocks(text.split(chr(10))))}</dd>"
    yield "</dl>"


def _list(lines: Sequence[str]) -> str:
    items: list[str] = []
    for line in lines:
        if re.match(r"([-*]|\d+\.|\([a-z0-9]\)) ", line):
            items.append(line.partition(" ")[2])
        else:
            items[-1] += " " + line.strip()
    ordered = not re.match(r"[-*] ", lines[0])
    body = "".join(f"<li>{inline(item)}</li>" for item in items)
    return f"<ol>{body}</ol>" if ordered else f"<ul>{body}</ul>"


def _table(lines: Sequence[str]) -> str:
    """A reStructuredText simple table; the first block is its head if there are two."""
    spans = [(match.start(), match.end()) for match in re.finditer(r"=+", lines[0])]
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"=+( +=+)+", line.strip())]

    def cells(line: str) -> list[str]:
        ends = [start for start, _ in spans[1:]] + [None]
        return [line[start:end].strip() for (start, _), end in zip(spans, ends, strict=True)]

    def rows(block: Sequence[str], tag: str) -> str:
        found: list[list[str]] = []
        for line in map(cells, block):
            if line[0]:
                found.append(line)
            elif any(line):  # goes on with the row above
                found[-1] = [f"{above} {more}".strip() for above, more in zip(found[-1], line, strict=True)]
        return "".join(f"<tr>{''.join(f'<{tag}>{inline(cell)}</{tag}>' for cell in row)}</tr>" for row in found)

    head = f"<thead>{rows(lines[rules[0] + 1 : rules[1]], 'th')}</thead>" if len(rules) > 2 else ""
    body = rows(lines[rules[-2] + 1 : rules[-1]], "td")
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'
