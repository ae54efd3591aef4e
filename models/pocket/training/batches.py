"""Batches out of the stream of rows, in the machine's own memory."""

import queue as queues

import numpy as np

# Of the tokens in a batch, those whose loss is computed; more are left out by chance.
LEARNT_SHARE = 0.28
PATIENCE_SECS = 120


class Batches:
    """Fresh rows as long as there are some, else seen ones: the device never waits. Patient ones wait for fresh rows."""

    def __init__(self, queue, rows, length, capacity, patient, seed):
        self.queue, self.rows, self.capacity, self.patient = queue, rows, capacity, patient
        self.learnt_max = int(rows * length * LEARNT_SHARE)
        self.rng = np.random.default_rng(seed)
        self.pool, self.fresh, self.total = None, 0, 0

    def take_in(self, wait):
        try:
            shard = self.queue.get(timeout=PATIENCE_SECS if wait else 0.0001)
        except queues.Empty:
            if wait:
                raise SystemExit("error: no rows come; see above what became of the processes that write them")
            return False
        if self.pool is None:
            self.pool = [np.zeros((self.capacity, *part.shape[1:]), part.dtype) for part in shard]
        at = np.arange(self.total, self.total + len(shard[0])) % self.capacity
        for pool, part in zip(self.pool, shard):
            pool[at] = part
        self.total += len(at)
        self.fresh += len(at)
        return True

    def drawn(self):
        while min(self.total, self.capacity) < self.rows:
            self.take_in(True)
        while self.fresh < self.rows and self.take_in(self.patient):
            pass
        if self.fresh >= self.rows:
            index = np.arange(self.total - self.fresh, self.total - self.fresh + self.rows) % self.capacity
            self.fresh -= self.rows
        else:
            index = self.rng.integers(min(self.total, self.capacity), size=self.rows)
        return [pool[index] for pool in self.pool]

    def next(self):
        """Tokens and their documents, [rows, length]; where the states to learn from are, and what comes after them."""
        ids, owner, learnt = self.drawn()
        flat, index = ids.ravel(), np.flatnonzero(learnt)
        if len(index) > self.learnt_max:
            index = self.rng.choice(index, self.learnt_max, replace=False)
        targets = np.full(self.learnt_max, -100, np.int32)
        targets[: len(index)] = flat[index + 1]
        index = np.pad(index, (0, self.learnt_max - len(index)))
        return ids.astype(np.int32), owner.astype(np.int32), index.astype(np.int32), targets
