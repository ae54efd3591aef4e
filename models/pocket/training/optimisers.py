"""What turns gradients into steps: Muon for matrices, Adam for the rest."""


def orthogonal(ops, g, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrices, for a stack of them."""
    x = ops.rough(g)
    tall = x.shape[-2] > x.shape[-1]
    x = x.swapaxes(-2, -1) if tall else x
    x = x / ops.like(ops.sqrt((ops.float32(x) ** 2).sum(axis=(-2, -1), keepdims=True)) + 1e-7, x)
    for _ in range(steps):
        a = x @ x.swapaxes(-2, -1)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.swapaxes(-2, -1) if tall else x


class Muon:
    """Momentum, orthogonalised, for all matrices of one shape at a time."""

    def __init__(self, ops, weights, names, lr, momentum=0.95, decay=0.02):
        self.ops, self.lr, self.momentum, self.decay = ops, lr, momentum, decay
        shapes = sorted({tuple(weights[name].shape) for name in names})
        self.groups = [[name for name in names if tuple(weights[name].shape) == shape] for shape in shapes]
        self.buffers = [ops.zeros_like(ops.stack([weights[name] for name in group])) for group in self.groups]

    def step(self, weights, gradients, scale):
        for number, group in enumerate(self.groups):
            g = self.ops.float32(self.ops.stack([gradients[name] for name in group]))
            buffer = self.momentum * self.buffers[number] + (1 - self.momentum) * g
            self.buffers[number] = buffer
            update = self.ops.float32(orthogonal(self.ops, g + self.momentum * (buffer - g)))
            lr = self.lr * scale
            size = 0.2 * max(g.shape[-2:]) ** 0.5
            for name, one in zip(group, update):
                self.ops.assign(weights, name, weights[name] * (1 - lr * self.decay) - lr * size * one)


class Adam:
    """Adam (arXiv:1412.6980) after gradients are clipped together."""

    def __init__(self, ops, weights, names, lr, betas=(0.9, 0.95), eps=1e-8, norm_max=1.0):
        self.ops, self.names, self.lr, self.betas, self.eps, self.norm_max = ops, names, lr, betas, eps, norm_max
        self.means = {name: ops.zeros_like(weights[name]) for name in names}
        self.squares = {name: ops.zeros_like(weights[name]) for name in names}
        self.steps = 0

    def step(self, weights, gradients, scale):
        self.steps += 1
        first, second = self.betas
        size = self.ops.sqrt(sum((gradients[name] ** 2).sum() for name in self.names))
        clip = self.norm_max / self.ops.limited_below(size, self.norm_max)
        for name in self.names:
            g = gradients[name] * clip
            self.means[name] = first * self.means[name] + (1 - first) * g
            self.squares[name] = second * self.squares[name] + (1 - second) * g * g
            mean = self.means[name] / (1 - first**self.steps)
            spread = self.ops.sqrt(self.squares[name] / (1 - second**self.steps)) + self.eps
            self.ops.assign(weights, name, weights[name] - self.lr * scale * mean / spread)

    def state(self):
        return [*self.means.values(), *self.squares.values()]
