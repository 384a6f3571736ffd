"""Faults of the hypergradients: `search/hypergradient.py` and what computes, passes and compares them."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "hypergradient",
        "fastdarts/hypergradient/_kinds.py",
        "hypergradient",
        (
            "the second-order term's sign",
            "return _minus(first, problem.lr, _central_difference(problem, problem.alphas, v))",
            "return _minus(first, -problem.lr, _central_difference(problem, problem.alphas, v))",
        ),
        (
            "no momentum in the unrolled step",
            "if buffer is not None and problem.momentum:",
            "if buffer is not None and not problem.momentum:",
        ),
        ("no weight decay in the unrolled step", "alpha=problem.weight_decay))", "alpha=0.0))"),
        ("v at w, not at w'", "with problem.displaced(step, -problem.lr):", "with problem.displaced(step, 0.0):"),
        (
            "a one-sided difference",
            """    with problem.displaced(direction, -radius):
        minus = problem.passes.gradients("loss_train", wanted)
    # Times |d| / 2 epsilon, not over 2R: an infinite |d| must give a non-finite quotient, not a division by zero.
    return list(torch._foreach_mul(torch._foreach_sub(plus, minus), norm / (2 * problem.epsilon)))""",
            """    minus = problem.passes.gradients("loss_train", wanted)
    return list(torch._foreach_mul(torch._foreach_sub(plus, minus), norm / problem.epsilon))""",
        ),
        ("a step of epsilon whatever |d|", "problem.epsilon / norm if norm", "problem.epsilon if norm"),
        ("the norm of the first weight", "for each in norms]))", "for each in norms[:1]]))"),
        ("the amending term's sign", "problem.eta, _central", "-problem.eta, _central"),
        (
            "the amending term without the Hessian",
            "_central_difference(problem, problem.alphas, hv))",
            "_central_difference(problem, problem.alphas, v))",
        ),
        (
            "a derivative of zero through once_differentiable",
            "    _refuse_error_nodes(slope)\n    return slope",
            "    return slope",
        ),
    ),
    *of(
        "hypergradient",
        "fastdarts/hypergradient/_kinds.py",
        "hypergradient_state",
        (
            "weights moved back by subtraction",
            "torch._foreach_copy_(self.weights, saved)",
            "torch._foreach_add_(self.weights, direction, alpha=-step)",
        ),
    ),
    *of(
        "passes",
        "fastdarts/hypergradient/_passes.py",
        "hypergradient_state, hypergradient_passes, hypergradient",
        (
            "each pass draws its own numbers",
            "            resume = self._generators()\n            self._starts[level].restore()",
            "            resume = self._generators()",
        ),
        ("the generators move on with every pass", "if resume is not None:\n                resume.restore()", "pass"),
        ("an exception leaves the generators moved", "if kind is not None:", "if kind is None:"),
        ("batch norm statistics stay moved", "self._hook.remove()\n        self.restore()", "self._hook.remove()"),
        ("a hook that stays", "self._hook.remove()\n        self.restore()", "self.restore()"),
        ("a discarded pass leaves its effect", "ModuleStates() if discard else nullcontext()", "nullcontext()"),
        ("flags left as the pass had them", "leaf.requires_grad_(flag)", "pass"),
        ("a loss that is not finite goes unseen", "each + poison.to(each) for each", "each + 0.0 for each"),
    ),
    *of(
        "error",
        "fastdarts/hypergradient/_estimate.py",
        "hypergradient, hypergradient_state",
        (
            "two measurements draw differently",
            "        start.restore()\n        return torch.cat",
            "        return torch.cat",
        ),
        ("the second measurement sees the first's buffers", "        states.restore()\n", ""),
        ("relative to the finite difference", "(finite - exact).norm() / exact_norm", "(finite - exact).norm() / norm"),
    ),
]
