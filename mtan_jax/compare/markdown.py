"""Writes a comparison as Markdown."""

from mtan_jax.compare.results import Results
from mtan_jax.compare.tables import Cell, Table, render


def to_markdown(results: Results) -> str:
    """The tables, their notes and the warnings."""
    text = render(results, _table, "\n")
    if results.warnings:
        text += "\nWarnings:\n\n" + "".join(f"- {line}\n" for line in results.warnings)
    return text


def _table(table: Table) -> str:
    """A table that is aligned as text too."""
    header = ["", *(f"{metric.title} {metric.arrow}".strip() for metric in table.columns)]
    rows: list[list[str]] = []
    for section in table.sections:
        if section.title:
            rows.append([f"*{_escape(section.title)}*", *[""] * len(table.columns)])
        rows += [[_escape(name), *map(_cell, cells)] for name, cells in section.rows]
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(header, widths), "| " + " | ".join(rule) + " |", *(_line(row, widths) for row in rows)]
    notes = "".join(f"- {_escape(note)}\n" for note in table.notes)
    return f"**{_escape(table.caption)}**\n\n" + "\n".join(lines) + f"\n\n{notes}"


def _line(texts: list[str], widths: list[int]) -> str:
    padded = [
        texts[0].ljust(widths[0]),
        *(text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=True)),
    ]
    return "| " + " | ".join(padded) + " |"


def _cell(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.bold else cell.text


def _escape(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")
