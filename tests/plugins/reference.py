"""A sampler of the registry that is told by hand what a foreign buffer writes: what each adapter has to equal."""

import numpy as np

from rlkit.replay import samplers

SAMPLERS = [name for name in samplers.SAMPLERS if name != "consume"]  # it runs out of rows


class Reference:
    """Rows that are written together are told of together, as rlkit's own buffer does; each is a new row."""

    def __init__(self, capacity, seed, sampler="rr-c", config=None):
        self.core = samplers.make(sampler, capacity, seed, config)
        self.count = 0

    def write(self, slots):
        slots = np.array(slots)
        self.core.invalidate(slots)
        self.core.extend(slots, np.arange(self.count, self.count + len(slots)))
        self.count += len(slots)

    def draw(self, batch_size):
        return self.core.sample(batch_size)

    def fitting(self, batch_size):
        """At most what there is: some samplers draw no row twice in a batch."""
        return min(batch_size, len(self.core))
