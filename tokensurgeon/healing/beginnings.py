"""How texts of many kinds begin, for a base that writes of each: from its own start it seldom comes to most of them."""

from __future__ import annotations

__all__ = ["BEGINNINGS"]

BEGINNINGS: tuple[str, ...] = (
    # prose
    "Chapter 1\n\nThe",
    '"I don\'t know," she said,',
    "Once upon a time there was",
    "By our correspondent\n\nThe",
    "Dear Sir or Madam,\n\nI",
    "From:",
    "Minutes of the meeting\n\nPresent:",
    "A:",
    "== History ==\n\nThe",
    "The Committee on",
    # what is asked and answered
    "Question:",
    "Q: How many",
    "Problem 1.",
    "Exercise. Let",
    "Ingredients:\n",
    "How to",
    "1.",
    "User:",
    # sciences
    "\\documentclass{article}\n\\usepackage{amsmath}\n",
    "\\begin{abstract}\n",
    "\\section{Introduction}\n",
    "\\begin{theorem}\nLet $",
    "\\begin{proof}\n",
    "\\begin{equation}\n",
    "Let $f",
    "where $\\mathcal",
    "Abstract\n\nWe",
    "Methods:",
    "References\n\n[1]",
    # markup and data
    "#",
    "## Installation\n\n```",
    "|",
    "<!DOCTYPE html>\n<html",
    "<?xml version",
    '{\n  "',
    "---\ntitle:",
    "date,",
    # programs
    "#!/bin/sh\n",
    "import numpy as np\n",
    "def",
    "class",
    "#include <",
    "package main\n\nimport",
    "public class",
    "const",
    "use std",
    "SELECT",
    "diff --git a/",
    "Traceback (most recent call last):\n  File",
)
"""Each goes on in many ways, and ends where tokens do: in no spaces, and not in what is usually one token with more."""
