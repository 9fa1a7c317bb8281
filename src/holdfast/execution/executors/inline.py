"""Run in this process, on one thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from holdfast.execution.executors.protocol import Job
from holdfast.execution.plan import Block
from holdfast.execution.store import Row
from holdfast.execution.trial import Runner


class Inline:
    """The reference executor."""

    def map(self, job: Job, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield the rows of each block in order."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in worker processes, so all executors compute the same bits
        try:
            runner = Runner(job.model, job.data, job.strict)
            for block in blocks:
                yield runner.run(block)
        finally:
            torch.set_num_threads(threads)
