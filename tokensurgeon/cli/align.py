"""``tokensurgeon align BASE DONOR``."""

from __future__ import annotations

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded


def command(
    base: o.Base,
    donor: o.Donor,
    token_map: o.Map = None,
    numbers: o.Numbers = None,
    config: o.Config = None,
    text: o.Texts = None,
    pad_to_multiple_of: o.PadTo = None,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Compare two vocabularies: what is shared, what must be reconstructed, what is cut differently.

    Needs tokenizers only, no weights.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.cli.tables import print_alignment
        from tokensurgeon.evaluation.texts import load_texts
        from tokensurgeon.surgery.options import TransplantOptions, load_recipe
        from tokensurgeon.surgery.pair import align_models, summarise

        options = load_recipe(config) if config else TransplantOptions()
        given = {
            "map": o.parse_map(token_map) or None, "numbers": numbers, "pad_to_multiple_of": pad_to_multiple_of,
        }  # fmt: skip
        options = options.updated({name: value for name, value in given.items() if value is not None})
        texts = load_texts(text or [])
        left, right, alignment, schemes = align_models(base, donor, options)
        summary = summarise(left, right, alignment, schemes, texts)
        if json_out:
            emit_json({"base": base, "donor": donor, **summary})
        elif not quiet:
            print_alignment(console(), base, donor, summary)
