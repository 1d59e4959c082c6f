"""Read what a token is: bytes and role."""

from tokensurgeon.vocabulary.token import Role, TokenKey
from tokensurgeon.vocabulary.vocabulary import Vocabulary

__all__ = ["Role", "TokenKey", "Vocabulary"]
