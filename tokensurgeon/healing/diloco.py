"""Train in groups that come and go: inner steps in each, and now and then an outer step over what was trained.

torchft has the algorithm (DiLoCo, arXiv 2311.08105) and the membership: a lighthouse knows which groups live, and one
that returns gets the state of the others from one of them.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.healing.resume import key_of

__all__ = ["GROUP", "LIGHTHOUSE", "Groups", "group_number", "require_diloco"]

LIGHTHOUSE, GROUP = "TORCHFT_LIGHTHOUSE", "REPLICA_GROUP_ID"
"""Environment variables, which torchft's launchers set too."""
_RATE, _MOMENTUM = 0.7, 0.9
"""Of the outer step, as the paper has them."""
_RETRIES = 1000
"""So often, spread over the time below, is a lighthouse asked that does not answer: it may be started again."""
_PATIENCE = timedelta(hours=1)
"""A group waits so long for slower ones, and for a state that is sent over a slow line."""
_LINE = timedelta(minutes=10)
"""One tensor may take so long to be averaged, and one that is gone without closing its connections is waited for."""
_FAILURES = 3
"""So many outer steps in a row may come to nothing, each of which takes the group back by its inner steps."""


def require_diloco(steps: int | None, every: int) -> None:
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
    given = os.environ.get(GROUP, "")
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
        sent: Bytes that this group has sent, for outer steps and to groups that returned.
        plain: Bytes that it would have sent, had gradients been averaged at every step (DDP).
    """

    def __init__(
        self,
        accelerator: Any,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        every: int,
        alike: Mapping[str, str],
        state: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
    ) -> None:
        """Join.

        Args:
            accelerator: Of this group; each of its processes meets its like in other groups.
            parameters: That are trained, by name; in every group the same at the beginning.
            optimizer: Of inner steps.
            every: Inner steps before an outer one.
            alike: By name, digests of what else must be the same in all groups.
            state: What else a group that returns needs, of plain data and tensors.
            load: Takes that over.
        """
        from torchft.local_sgd import DiLoCo
        from torchft.process_group import ProcessGroupGloo, ProcessGroupNCCL

        from tokensurgeon.healing.members import Members

        self.every, self.sent, self.plain, self._inner = every, 0, 0, 0
        processes, device = accelerator.num_processes, accelerator.device
        self._bytes = processes * sum(p.nbytes for p in parameters.values())

        def handed() -> dict[str, Any]:
            content = state()
            outer = 2 * self._bytes  # parameters at the last outer step, and momentum, which torchft adds
            self.sent += processes * sum(t.nbytes for t in tree_leaves(content) if torch.is_tensor(t)) + outer
            return content

        host, port = self._serve(accelerator)
        self._manager = Members(
            {**alike, "processes": key_of(processes), "first values of what is trained": _digest(parameters)},
            device,
            handed,
            load,
            pg=(ProcessGroupNCCL if device.type == "cuda" else ProcessGroupGloo)(_LINE),
            min_replica_size=1,
            use_async_quorum=False,
            timeout=_PATIENCE,
            max_retries=_FAILURES,
            quorum_timeout=_PATIENCE,
            rank=accelerator.process_index,
            world_size=processes,
            store_addr=host,
            store_port=port,
            replica_id=f"group-{group_number()}",
            init_sync=False,  # all begin alike
            quorum_retries=_RETRIES,
        )
        module = _Trained(parameters)
        outer = torch.optim.SGD(module.parameters(), lr=_RATE, momentum=_MOMENTUM, nesterov=True)
        self._diloco = DiLoCo(self._manager, [module], optimizer, outer, sync_every=every)

    def _serve(self, accelerator: Any) -> tuple[str, int]:
        """Where processes of this group find each other, at the first one."""
        found: list[Any] = [socket.gethostname(), 0]
        if accelerator.is_main_process:
            distributed: Any = torch.distributed
            self._store = distributed.TCPStore(*found, is_master=True, wait_for_workers=False)
            found[1] = self._store.port
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        return found[0], found[1]

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
        if self.together:
            number = max(self._manager.num_participants(), 1)
            each = round(2 * (number - 1) / number * self._bytes)  # of a ring that adds up and hands on
            self.sent += each
            self.plain += each * self.every
        return int(self._manager.current_step()) * self.every + self._inner

    @property
    def together(self) -> bool:
        """Whether an outer step has just been made, so that all groups are alike."""
        return self._inner == 0


def _digest(parameters: Mapping[str, torch.nn.Parameter]) -> str:
    """Of names and values."""
    sha = hashlib.sha256()
    for name, parameter in parameters.items():
        sha.update(name.encode())
        sha.update(parameter.detach().float().cpu().numpy().tobytes())
    return key_of(sha.hexdigest())
