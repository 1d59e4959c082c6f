"""Ask a server, vLLM or llama.cpp's llama-server, what its model says behind each token of a piece.

What it answers is a stranger's: nothing of it is used that was not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from tokensurgeon.checkpoint.layout import error_reason
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.distilling.asking import asked
from tokensurgeon.distilling.top import Top
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel

__all__ = ["ServedTeacher"]

_PROBE = "def area(r):\n    return 3.14159 * r ** 2  # in m\u00b2, not a caf\u00e9's\n"
"""Words, digits, spaces, ends of lines, and letters that are no ASCII."""
_LEAST = -100.0
"""Log-probability that stands for 0, which servers spell in many ways; no float32 softmax comes as low."""
_SLACK = 0.01
"""By which rounding may bring probabilities above 1."""
_FORCED = 1e6
"""Added to a logit so that its token is the one that is generated."""


@dataclass(frozen=True, slots=True)
class ServedTeacher:
    """A teacher that a server runs.

    vLLM reads a piece in one request (``prompt_logprobs``). llama-server says nothing of a prompt's tokens, and is
    asked for one position after another: it has what came before in its cache, and is made to generate the text's own
    next token by a bias upon its logit. What it says of probabilities is from before the bias, and has this token's.
    It is silent of one that ends inside of a character: then another is forced, and where the text's own is not among
    the likeliest, it is asked for all of the vocabulary.

    Attributes:
        url: Of the server.
        model: Its name there.
        one_by_one: Whether it is llama-server.
        tokenizer: Digest of the tokenizer.
        whole: Id of a token that ends where a character does.
        rows: Ids that it may speak of lie below.
        kept: Tokens to keep at each position.
    """

    url: str
    model: str
    one_by_one: bool
    tokenizer: str
    whole: int
    rows: int
    kept: int

    @classmethod
    def at(cls, url: str, opened: OpenModel, loaded: LoadedModel, kept: int) -> Self:
        """Find out what a server is, and that its model has the teacher's tokenizer.

        Args:
            url: Of the server, such as ``http://localhost:8000``.
            opened: The teacher's tokenizer and config.
            loaded: The same without weights, to cut text with.
            kept: Tokens to keep at each position.

        Raises:
            InputError: If it does not answer, cuts text in another way, or does not give as many log-probabilities.
        """
        if not url.startswith(("http://", "https://")):
            raise InputError(f"server {url!r} must begin with http:// or https://")
        url = url.rstrip("/").removesuffix("/v1")
        try:
            first = asked(f"{url}/v1/models")["data"][0]
            model, one_by_one = str(first["id"]), first.get("owned_by") == "llamacpp"
        except (LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{url}/v1/models names no model: this is neither vLLM nor llama-server") from error
        rows = max(opened.vocab_size or 0, len(opened.vocabulary))
        text: dict[str, Any] = {"content": _PROBE, "add_special": False}
        if not one_by_one:
            text = {"model": model, "prompt": _PROBE, "add_special_tokens": False}
        mine, theirs = loaded.encode(_PROBE), asked(f"{url}/tokenize", text).get("tokens")
        if mine != theirs:
            raise InputError(
                f"{url}: {model}, which it serves, cuts text into other ids ({str(theirs)[:60]}) than the tokenizer of "
                f"{opened.name} ({str(mine)[:60]}). Give the model that is served as teacher"
            )
        found = cls(url, model, one_by_one, opened.tokenizer.digest(), mine[0], rows, min(kept, rows))
        found(mine if loaded.prefix is None else [loaded.prefix, *mine])
        return found

    @property
    def identity(self) -> list[Any]:
        """What tells it from other teachers, wherever it is served."""
        return ["served", self.tokenizer, self.model]

    def __call__(self, ids: Sequence[int]) -> Top:
        """Read a piece."""
        own = [*ids[1:], ids[-1]]  # behind the last position nothing follows
        said = self._positions(ids, own) if self.one_by_one else self._prompt(ids)
        try:
            rows = [self._kept(row, token) for row, token in zip(said, own, strict=True)]
        except InputError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{self.url} does not give log-probabilities as vLLM or llama-server does ({type(error).__name__}: "
                f"{error_reason(error)}). Use one of these, of a newer version"
            ) from error
        token, log = (torch.tensor([[entry[i] for entry in row] for row in rows]) for i in (0, 1))
        return Top(token.int(), log.half())

    def _prompt(self, ids: Sequence[int]) -> Iterator[dict[int, Any]]:
        """Of vLLM: what it says of each token of a prompt but the first, and of the likeliest in its place."""
        ask = {"model": self.model, "prompt": [*ids, ids[-1]], "prompt_logprobs": self.kept, "max_tokens": 1}
        remedy = f". Give a lower --top, or start the server with --max-logprobs {self.kept}"
        found = asked(f"{self.url}/v1/completions", ask | {"temperature": 0}, len(ids) * (self.kept + 1), remedy)
        for row in found["choices"][0]["prompt_logprobs"][1:]:
            yield {int(token): entry["logprob"] for token, entry in row.items()}

    def _positions(self, ids: Sequence[int], own: Sequence[int]) -> Iterator[dict[int, Any]]:
        """Of llama-server: what it would generate behind each token."""
        for end, token in enumerate(own, 1):
            said = dict[int, Any]()
            for forced, count in ((token, self.kept), (self.whole, self.kept), (self.whole, self.rows)):
                if token not in said:
                    said = self._next(ids[:end], forced, count)
            likeliest = sorted(said, key=lambda entry: -said[entry])[: self.kept]
            yield {entry: said[entry] for entry in {token, *likeliest} & said.keys()}

    def _next(self, ids: Sequence[int], forced: int, count: int) -> dict[int, Any]:
        ask = {"prompt": ids, "n_predict": 1, "n_probs": count, "cache_prompt": True, "post_sampling_probs": False}
        ask |= {"samplers": ["temperature"], "temperature": 0, "logit_bias": [[forced, _FORCED]]}
        found = asked(f"{self.url}/completion", ask, count + 1).get("completion_probabilities")
        return {entry["id"]: entry["logprob"] for one in found or [] for entry in [*one["top_logprobs"], one]}

    def _kept(self, said: Mapping[int, Any], own: int) -> list[tuple[int, float]]:
        """The text's own next token and the likeliest others, by id."""
        if own not in said or not self.kept <= len(said) <= self.kept + 1:
            raise InputError(
                f"{self.url} tells of {len(said)} tokens where {self.kept} and the text's own, {own}, were asked for"
            )
        wrong = next((i for i in said if type(i) is not int or not 0 <= i < self.rows), None)
        if wrong is not None:
            raise InputError(
                f"{self.url} tells of id {wrong!r}, and the teacher's tokenizer and config have {self.rows} ids"
            )
        total = sum(math.exp(max(min(log, 1.0), _LEAST)) for log in said.values())
        if not total <= 1 + _SLACK:  # nor where one is not a number
            raise InputError(f"{self.url} tells of probabilities whose sum is above 1, or not a number")
        others = sorted((token for token in said if token != own), key=lambda token: -said[token])[: self.kept - 1]
        return sorted((token, min(0.0, max(said[token], _LEAST))) for token in (own, *others))
