"""``tokensurgeon align BASE DONOR``."""

from __future__ import annotations

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, progress_bar


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
    """Compare two vocabularies: what is shared, what is cut differently, and which loss is to be expected.

    Needs tokenizers only, no weights.
    """
    with guarded(debug=debug, quiet=quiet or json_out, models=False):
        from tokensurgeon.alignment.summary import CountedText
        from tokensurgeon.cli.tables import print_alignment
        from tokensurgeon.evaluation.texts import open_texts
        from tokensurgeon.surgery.options import TransplantOptions, load_recipe
        from tokensurgeon.surgery.pair import align_models, summarise
        from tokensurgeon.surgery.prediction import predict

        options = load_recipe(config) if config else TransplantOptions()
        given = {
            "map": o.parse_map(token_map) or None, "numbers": numbers, "pad_to_multiple_of": pad_to_multiple_of,
        }  # fmt: skip
        options = options.updated({name: value for name, value in given.items() if value is not None})
        texts = open_texts(text or [])
        left, right, alignment, schemes = align_models(base, donor, options)
        sides = left.vocabulary, right.vocabulary
        with progress_bar(quiet or json_out) as tell:
            counted = {name: CountedText.of(*sides, given.telling(tell)) for name, given in texts.items()}
        summary = summarise(left, right, alignment, schemes, counted)
        summary["predictions"] = [predict(left, right, alignment, {name: given}) for name, given in texts.items()]
        if json_out:
            emit_json({"base": base, "donor": donor, **summary})
        elif not quiet:
            print_alignment(console(), base, donor, summary)
