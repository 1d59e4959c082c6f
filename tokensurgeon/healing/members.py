"""Let torchft count as members of a training only groups that train the same.

It averages tensors by their position. Rows of other tokens would fit, and be averaged with what they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torchft import Manager

from tokensurgeon.errors import InputError

__all__ = ["Members"]


class Members(Manager):  # type: ignore[misc]
    """torchft's manager, which refuses what differs: at every meeting, and before it takes over a state."""

    def __init__(
        self,
        alike: Mapping[str, str],
        device: torch.device,
        state: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
        **rest: Any,
    ) -> None:
        """Join.

        Args:
            alike: By name, digests of what must be the same in all groups.
            device: On which groups average.
            state: What a group that returns needs.
            load: Takes that over.
            rest: As torchft has them.
        """
        self._alike, self._device = dict(alike), device

        def known(content: dict[str, Any]) -> None:
            _refuse(name for name, digest in self._alike.items() if content["alike"].get(name) != digest)
            load(content)

        super().__init__(load_state_dict=known, state_dict=lambda: {"alike": self._alike, **state()}, **rest)

    def start_quorum(self, *args: Any, **kwargs: Any) -> None:
        """Meet, and compare.

        Raises:
            InputError: If groups differ. One that comes later is alone in being refused.
        """
        super().start_quorum(*args, **kwargs)
        if self.errored() is None and self._pg.size() != self.num_participants():
            # A lighthouse that was started again numbers quorums from one again, and torchft kept the connections of an
            # earlier one with that number: groups would wait for each other. With an error it makes new ones next time.
            self.report_error(RuntimeError("connections are of an earlier quorum"))
        own = torch.tensor([list(digest.encode()) for digest in self._alike.values()], dtype=torch.float32)
        mean = own.clone().to(self._device)  # of small whole numbers that are the same it is exact
        self.allreduce(mean).wait()
        same = (mean.cpu() == own).all(dim=1).tolist()
        if self.errored() is None and not all(same):
            self.allreduce(mean).wait()  # nobody leaves before all have compared
            _refuse(name for name, is_same in zip(self._alike, same, strict=True) if not is_same)


def _refuse(names: Any) -> None:
    if differing := list(names):
        raise InputError(
            f"--diloco: groups differ in {', '.join(differing)}. All need the same model, teacher, --text and options, "
            "--steps and the number of processes among them"
        )
