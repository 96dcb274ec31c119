"""Foreign text (names of models, answers, keys) made harmless for a terminal, Markdown, LaTeX and CSV."""

import re

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$",
    "−": "$-$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def one_line(text: str, longest: int | None = None) -> str:
    """Without line breaks and control characters, which could rewrite a terminal; cut to `longest` characters."""
    flat = "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}" for char in text
    )
    return flat if longest is None or len(flat) <= longest else flat[: longest - 3] + "..."


def markdown(text: str) -> str:
    """As a cell of a Markdown table, to be read as it stands."""
    inner = r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # an underscore within a word is one
    return re.sub(rf"[\\`*{{}}\[\]<>|#~&]|{inner}", lambda found: f"\\{found[0]}", one_line(text))


def latex(text: str) -> str:
    """As text of a LaTeX document, to be read as it stands."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def csv_text(text: str) -> str:
    """As a cell that a spreadsheet takes for text: one that begins like a formula gets an apostrophe before it."""
    flat = one_line(text)
    return f"'{flat}" if flat.startswith(("=", "+", "-", "@")) else flat
