"""Faults of the cell's native executor, of its program, and of parameters that lie in a few flat tensors."""

from __future__ import annotations

from planted.mutant import Mutant, of

TESTS = "cell_native"

MUTANTS: list[Mutant] = [
    *of(
        "a native cell",
        "csrc/cpu/cell_run.h",
        TESTS,
        ("a piece of the scratch over another", "next->first - begin < bytes", "next->first - begin < bytes / 2"),
        ("values are never let go", "values_[row] = Map{}; }", "(void)row; }"),
        (
            "the maximum's statistics for the average",
            "keep({norm}, mean.at + mixed_, var.at + mixed_)",
            "keep({norm}, mean.at, var.at)",
        ),
        ("the bypass of another edge", "= bypass_[edges[e].edge];", "= bypass_[e];"),
        ("what has no batch norm is scaled", "has ? var[c] : 1.0 - size_.eps", "has ? var[c] : 1.0"),
        ("bfloat16 is cut off", "bits + 0x7fffu + ((bits >> 16) & 1u)", "bits"),
    ),
    *of(
        "a native cell's forward",
        "csrc/cpu/cell_forward.cpp",
        TESTS,
        ("hidden nodes in one place", "call_.kept[program.kept.size() + node.slot]", "call_.kept[program.kept.size()]"),
        ("free candidates read a term's scale", "scale.at + ys.size() * this->mixed_", "scale.at"),
        (
            "statistics are measured where they are known",
            "this->compute(this->program_.values[stage.place], !call_.known)",
            "this->compute(this->program_.values[stage.place], true)",
        ),
    ),
    *of(
        "a native cell's backward",
        "csrc/cpu/cell_backward.cpp",
        TESTS,
        ("a constant without the mean", "gamma[i] = std::fma(-beta[i], mean[i], gamma[i])", "gamma[i] = gamma[i]"),
        ("free candidates centred twice", "call_.training && k < stored", "call_.training"),
        ("one total for all halves", "total[k * total_step + c]", "total[c]"),
        ("the caller's gradient is added to", "if (slot >= 0 && call_.owned)", "if (slot >= 0)"),
        ("channels stay shuffled", "        if (partial) g = std::move(unshuffled);\n", ""),
        ("one weight for all of a noise's channels", "stored<T>(factor[c] *", "stored<T>(factor[0] *"),
        ("a reduction by another's coefficients", "+ calls.reduction_rows[k])", "+ k)"),
        (
            "gradients that nobody wrote",
            "if (!written_[place]) std::memset(call_.dparameters[place], 0, count);",
            "(void)count;",
        ),
        ("products that nobody wrote", "std::fill_n(products, one.norms.size() * this->mixed_, 0.0);", ";"),
    ),
    *of(
        "flat parameters",
        "fastdarts/ops/_cell_pieces.py",
        "cell_native, cell_op_door",
        ("an overlap is let in", "if start < filled[tensor]:", "if start < 0:"),
        ("a piece beyond the end", "start + prod(shapes[number]) > sizes[tensor]", "start > sizes[tensor]"),
        ("pieces in the order of the plan", "key=found.__getitem__", "key=None"),
        ("gaps are forgotten", "parts += [tensor.new_zeros(gap)] * (gap > 0) + [", "parts += ["),
    ),
    *of(
        "flat parameters",
        "fastdarts/ops/_cell_cpu.py",
        "cell_native, cell_op_door",
        ("what lies between is not 0", "                each.zero_()\n", "                pass\n"),
        ("in bytes and not in elements", "+ start * itemsize for", "+ start for"),
    ),
    *of(
        "a stack's parameters",
        "fastdarts/nn/stack.py",
        "nn_stack, nn_supernet",
        (
            "all in the first source",
            "places += [sources.setdefault(source, len(sources)), start]",
            "places += [0, start]",
        ),
    ),
]
