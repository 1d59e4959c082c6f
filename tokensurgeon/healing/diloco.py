"""Train in groups that come and go: inner steps in each, and now and then an outer step over what was trained.

torchft has the algorithm (DiLoCo, arXiv 2311.08105) and the membership: a lighthouse knows which groups live, and one
that returns gets the state of the others from one of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch

from tokensurgeon.errors import InputError, MissingDependencyError

__all__ = ["GROUP", "LIGHTHOUSE", "Groups", "group_number", "require_diloco"]

LIGHTHOUSE, GROUP = "TORCHFT_LIGHTHOUSE", "REPLICA_GROUP_ID"
"""Environment variables, which torchft's launchers set too."""
_RATE, _MOMENTUM = 0.7, 0.9
"""Of the outer step, as the paper has them."""
_RETRIES = 100
"""So often is a lighthouse asked that does not answer: it may be started again."""
_PATIENCE = timedelta(hours=1)
"""A group waits so long for slower ones, and for what is sent over a slow line."""
_FAILURES = 3
"""So many outer steps in a row may come to nothing, each of which takes the group back by its inner steps."""


def require_diloco(steps: int | None, every: int, processes: int) -> None:
    """Refuse what cannot be trained in groups, before any work.

    Raises:
        MissingDependencyError: Without torchft.
        InputError: If no lighthouse is named, or the steps do not fit.
    """
    try:
        import torchft  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("torchft", "diloco", "heal --diloco") from error
    if steps is None or steps % every:
        raise InputError(
            f"--diloco {every} goes by steps, since clocks of groups differ: give --steps, a multiple of {every}"
        )
    if processes > 1:
        raise InputError(f"--diloco is for groups of one process each, and this has {processes}. Start it without")
    if not os.environ.get(LIGHTHOUSE):
        raise InputError(
            f"--diloco needs {LIGHTHOUSE}=http://HOST:29510 in the environment. Start one with "
            "torchft_lighthouse --min_replicas 1"
        )
    group_number()


def group_number() -> int:
    """Which of the groups this is: each reads the text in an order of its own.

    Raises:
        InputError: If the environment has no whole number.
    """
    given = os.environ.get(GROUP, "0")
    if not given.isdigit():
        raise InputError(f"{GROUP}={given!r} must be a whole number, another in each group")
    return int(given)


class _Trained(torch.nn.Module):
    """Trained parameters and nothing else: no frozen weight is sent."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        super().__init__()
        for number, parameter in enumerate(parameters.values()):
            self.register_parameter(f"p{number}", parameter)


class Groups:
    """This group among others.

    Attributes:
        every: Inner steps before an outer one.
        sent: Bytes that this group has sent for outer steps.
        plain: Bytes that it would have sent, had gradients been averaged at every step (DDP).
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        every: int,
        state: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
    ) -> None:
        """Join.

        Args:
            parameters: That are trained, by name; in every group the same at the beginning.
            optimizer: Of inner steps.
            every: Inner steps before an outer one.
            state: What else a group that returns needs, of plain data and tensors.
            load: Takes that over.
        """
        from torchft import Manager
        from torchft.local_sgd import DiLoCo
        from torchft.process_group import ProcessGroupGloo, ProcessGroupNCCL

        self.every, self.sent, self.plain, self._inner = every, 0, 0, 0
        self._bytes = sum(p.numel() * p.element_size() for p in parameters.values())
        cuda = any(p.is_cuda for p in parameters.values())
        host = socket.gethostname()
        distributed: Any = torch.distributed
        self._store = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        self._manager = Manager(
            pg=(ProcessGroupNCCL if cuda else ProcessGroupGloo)(),
            load_state_dict=load,
            state_dict=state,
            min_replica_size=1,
            use_async_quorum=False,
            timeout=_PATIENCE,
            max_retries=_FAILURES,
            quorum_timeout=_PATIENCE,
            rank=0,
            world_size=1,
            store_addr=host,
            store_port=self._store.port,
            replica_id=f"group-{group_number()}",
            init_sync=False,  # all begin alike
            quorum_retries=_RETRIES,
        )
        module = _Trained(parameters)
        outer = torch.optim.SGD(module.parameters(), lr=_RATE, momentum=_MOMENTUM, nesterov=True)
        self._diloco = DiLoCo(self._manager, [module], optimizer, outer, sync_every=every)

    def __enter__(self) -> Groups:
        """Begin."""
        self._diloco.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; the others go on."""
        self._diloco.__exit__(kind, error, trace)
        self._manager.shutdown(wait=error is None)

    def stepped(self) -> int:
        """Count an inner step that was made; the steps of all groups so far."""
        self._inner = (self._inner + 1) % self.every
        number = max(self._manager.num_participants(), 1)
        each = round(2 * (number - 1) / number * self._bytes)  # of a ring that adds up and hands on
        self.plain += each
        self.sent += each if self.together else 0
        return int(self._manager.current_step()) * self.every + self._inner

    @property
    def together(self) -> bool:
        """Whether an outer step has just been made, so that all groups are alike."""
        return self._inner == 0
